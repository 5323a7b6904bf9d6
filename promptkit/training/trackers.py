"""TensorBoard, Weights & Biases and MLflow, through Accelerate's trackers. `log.jsonl` is written whatever is chosen."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from promptkit.errors import ConfigError, UnknownNameError
from promptkit.files import writing

TRACKERS = ("tensorboard", "wandb", "mlflow")


class Trackers:
    """A context in which every chosen tracker hears the figures of each epoch, from the first process alone.

    Raises UnknownNameError for a tracker there is none of, ConfigError for one that is not installed.
    """

    def __init__(self, names: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings = dict(settings)
        self.open: list[Any] = []
        for name in filter(None, (name.strip() for name in names.split(","))):
            if name not in TRACKERS:
                raise UnknownNameError("tracker", name, TRACKERS)
            if find_spec(name) is None:
                raise ConfigError(f"the tracker {name!r} is not installed", f"pip install 'promptkit[{name}]'")
            from accelerate.tracking import LOGGER_TYPE_TO_CLASS

            tracker = LOGGER_TYPE_TO_CLASS[name]
            where = {"logging_dir": str(folder)} if tracker.requires_logging_directory else {}
            self.open.append(tracker(name if where else f"promptkit-{folder.name}", **where))

    def __enter__(self) -> Self:
        if self.open:
            from accelerate import PartialState

            PartialState()  # the trackers ask it whether this is the first process
        for tracker in self.open:
            with self._writing(tracker):
                tracker.start()
                tracker.store_init_configuration(self.settings)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tracker in self.open:
            with self._writing(tracker):
                tracker.finish()

    def log(self, figures: Mapping[str, float], epoch: int) -> None:
        for tracker in self.open:
            with self._writing(tracker):
                tracker.log(dict(figures), step=epoch)

    def _writing(self, tracker: Any) -> AbstractContextManager[None]:
        return writing(f"what {tracker.name} keeps in {self.folder}", "make room, or train without --log")

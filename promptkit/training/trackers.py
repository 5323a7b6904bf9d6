"""TensorBoard, Weights & Biases and MLflow, through Accelerate's trackers. `log.jsonl` is written whatever is chosen."""

import logging
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from promptkit import distributed
from promptkit.errors import ConfigError, UnknownNameError
from promptkit.settings import split_names

TRACKERS = ("tensorboard", "wandb", "mlflow")

log = logging.getLogger("promptkit")


class Trackers:
    """A context in which every chosen tracker hears the figures of each epoch, from the first process alone.

    Making one touches nothing; what goes wrong later costs the tracker, not the run. Raises UnknownNameError for a tracker
    there is none of, ConfigError for one that is not installed.
    """

    def __init__(self, names: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings = dict(settings)
        self.open: list[Any] = []
        for name in split_names(names):
            if name not in TRACKERS:
                raise UnknownNameError("tracker", name, TRACKERS)
            if find_spec(name) is None:
                raise ConfigError(f"the tracker {name!r} is not installed", f"pip install 'promptkit[{name}]'")
            if distributed.rank():
                continue  # not every tracker asks which process it is in
            from accelerate.tracking import LOGGER_TYPE_TO_CLASS

            tracker = LOGGER_TYPE_TO_CLASS[name]
            where = {"logging_dir": str(folder)} if tracker.requires_logging_directory else {}
            self.open.append(tracker(name if where else f"promptkit-{folder.name}", **where))

    def __enter__(self) -> Self:
        if self.open:
            from accelerate import PartialState

            PartialState()  # the trackers ask it whether this is the first process
        self._each(lambda tracker: tracker.start())
        self._each(lambda tracker: tracker.store_init_configuration(self.settings))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._each(lambda tracker: tracker.finish())

    def log(self, figures: Mapping[str, float], epoch: int) -> None:
        self._each(lambda tracker: tracker.log(dict(figures), step=epoch))

    def _each(self, tell: Callable[[Any], object]) -> None:
        """A tracker that fails, with whatever error, is named once and hears no more."""
        for tracker in list(self.open):
            try:
                tell(tracker)
            except Exception as error:
                self.open.remove(tracker)
                cause = f"{type(error).__name__}: {error}"
                log.warning("%s hears no more of %s: %s; log.jsonl has it all", tracker.name, self.folder, cause)

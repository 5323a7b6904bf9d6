"""TensorBoard, Weights & Biases and MLflow, through Accelerate's trackers. `log.jsonl` is written whatever is chosen."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from promptkit import distributed
from promptkit.errors import UnknownNameError
from promptkit.extras import needs
from promptkit.settings import split_names
from promptkit.training.callbacks import Callback, EpochResult

TRACKERS = ("tensorboard", "wandb", "mlflow")

log = logging.getLogger("promptkit")


class Trackers(Callback):
    """Tells every chosen tracker the figures of each epoch, from the first process alone.

    Making one touches nothing. A tracker that fails later is disabled, and the run goes on. Raises UnknownNameError for an
    unknown tracker, ConfigError for one that is not installed.
    """

    def __init__(self, names: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings = dict(settings)
        self.open: list[Any] = []
        for name in split_names(names):
            if name not in TRACKERS:
                raise UnknownNameError("tracker", name, TRACKERS)
            needs(f"--log {name}", name)
            if distributed.rank():
                continue  # not every tracker asks which process it is in
            from accelerate.tracking import LOGGER_TYPE_TO_CLASS

            tracker = LOGGER_TYPE_TO_CLASS[name]
            where = {"logging_dir": str(folder)} if tracker.requires_logging_directory else {}
            self.open.append(tracker(name if where else f"promptkit-{folder.name}", **where))

    def on_start(self) -> None:
        if self.open:
            from accelerate import PartialState

            PartialState()  # the trackers ask it whether this is the first process
        self._each(lambda tracker: tracker.start())
        self._each(lambda tracker: tracker.store_init_configuration(self.settings))

    def on_epoch(self, result: EpochResult) -> None:
        figures = {**result.figures, "lr": result.lr, "grad_norm": result.grad_norm}
        self._each(lambda tracker: tracker.log(figures, step=result.epoch))

    def on_end(self) -> None:
        self._each(lambda tracker: tracker.finish())

    def _each(self, tell: Callable[[Any], object]) -> None:
        """A tracker that fails, with whatever error, is named once and disabled."""
        for tracker in list(self.open):
            try:
                tell(tracker)
            except Exception as error:
                self.open.remove(tracker)
                cause = f"{type(error).__name__}: {error}"
                log.warning(
                    "%s is disabled after an error, for %s: %s; log.jsonl has it all", tracker.name, self.folder, cause
                )

"""What a run writes while it trains: its log, its state and what it learned."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from promptkit import contract, distributed
from promptkit.learner import Learner
from promptkit.runs.checkpoint import Metadata
from promptkit.runs.folder import RunFolder
from promptkit.training.callbacks import Callback, EpochResult


class EpochLog(Callback):
    """Writes a line of log.jsonl after every epoch."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_epoch(self, result: EpochResult) -> None:
        self.folder.log(
            {
                "epoch": result.epoch,
                "lr": result.lr,
                **result.figures,
                "grad_norm": result.grad_norm,
                "images": result.images,
                "unreadable": result.left_out,
                "seconds": round(result.seconds, 3),
            }
        )


class SameState(Callback):
    """Raises Defect where what is learned would not fit into the learner as it was `built`, before it is saved."""

    def __init__(self, learner: Learner, built: Mapping[str, Tensor]) -> None:
        self.learner = learner
        self.built = built
        self.steps = 0

    def on_step(self, terms: Mapping[str, float], images: int) -> None:
        self.steps += 1
        if self.steps == 1:
            contract.check_state(self.learner.state_dict(), self.built)

    def on_epoch(self, result: EpochResult) -> None:
        contract.check_state(self.learner.state_dict(), self.built)


class Saving(Callback):
    """Saves the learner after every epoch, or every best one, and the state after every epoch and so many minutes.

    `pack` returns the state as it is now; `metadata` is that of the learner, less what is known of its epoch.
    """

    def __init__(
        self,
        folder: RunFolder,
        learner: Learner,
        metadata: Metadata,
        pack: Callable[[], bytes],
        minutes: float,
        only_best: bool = False,
    ) -> None:
        self.folder = folder
        self.learner = learner
        self.metadata = metadata
        self.pack = pack
        self.seconds = 60 * minutes
        self.only_best = only_best
        self.saved = time.monotonic()

    def on_start(self) -> None:
        self.saved = time.monotonic()

    def on_step(self, terms: Mapping[str, float], images: int) -> None:
        # Several processes would have to agree on the time; they save after every epoch.
        if distributed.processes() == 1 and time.monotonic() - self.saved > self.seconds:
            self._save_state()

    def on_epoch(self, result: EpochResult) -> None:
        if not result.last:  # first, so that a learner that isn't finished never lacks its state
            self._save_state()
        if result.best or not self.only_best:
            metadata = replace(self.metadata, epoch=result.epoch, figures=result.figures, finished=result.last)
            self.folder.save(self.learner, metadata)
        if result.last:
            self.folder.finish()

    def _save_state(self) -> None:
        self.folder.save_state(self.pack())
        self.saved = time.monotonic()

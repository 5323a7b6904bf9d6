"""What a training loop tells those who listen: the lists of callbacks are made in `promptkit.training.run`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from promptkit.data.images import Unreadable


@dataclass
class EpochResult:
    """What one epoch did. `terms` are loss terms and the learner's metrics, means over its images; `grad_norm` is the mean
    over its steps before clipping."""

    epoch: int
    epochs: int
    lr: float
    terms: Mapping[str, float]
    grad_norm: float
    images: int
    seconds: float
    left_out: int
    """Images of the epoch that were not readable."""
    unreadable: Sequence[Unreadable]
    """Those of them that were met since the run was started or resumed."""
    val_accuracy: float | None = None
    """Set by the callback that validates, for those after it; None where there is no val split."""

    best: bool = False
    """Set by the callback that compares: is its val_accuracy above that of every epoch before it?"""
    stop: bool = False
    """Set by a callback after which there is to be no other epoch."""

    @property
    def last(self) -> bool:
        return self.stop or self.epoch == self.epochs

    @property
    def figures(self) -> dict[str, float]:
        """The terms, and the accuracy on the val split where there is one."""
        return {**self.terms, **({} if self.val_accuracy is None else {"val_accuracy": self.val_accuracy})}


class Callback:
    """What a training loop calls, each callback in turn; the methods do nothing until they are overridden."""

    def on_start(self) -> None:
        """Before the first step."""

    def on_step(self, terms: Mapping[str, float], images: int) -> None:
        """After a step: its number of images in this process, and the loss terms and metrics of the last batch whose
        figures were read; on a GPU not every step's are, since it would be waited for."""

    def on_epoch(self, result: EpochResult) -> None:
        """After an epoch; the learner is in evaluation mode."""

    def on_end(self) -> None:
        """After the last epoch, or when an error or an interrupt ends training."""

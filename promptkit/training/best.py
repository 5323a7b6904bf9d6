"""Which epoch is the best one so far, and when to stop waiting for a better."""

from promptkit.training.callbacks import Callback, EpochResult


class BestEpoch(Callback):
    """Sets `EpochResult.best` and, after `patience` epochs without a better one, `EpochResult.stop`.

    `best` and `epoch` are the highest validation accuracy before a run that goes on, and when it was reached.
    """

    def __init__(self, patience: int, best: float | None = None, epoch: int = 0) -> None:
        self.patience = patience
        self.best = best
        self.epoch = epoch

    def on_epoch(self, result: EpochResult) -> None:
        accuracy = result.val_accuracy
        if accuracy is not None and (self.best is None or accuracy > self.best):
            self.best, self.epoch = accuracy, result.epoch
            result.best = True
        result.stop = 0 < self.patience <= result.epoch - self.epoch

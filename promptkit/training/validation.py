"""Accuracy on the val split, and the warnings about images that could not be read."""

from collections.abc import Sequence
from pathlib import Path

from promptkit.data.images import Unreadable, warn_unreadable
from promptkit.data.layouts import Dataset
from promptkit.errors import DataError
from promptkit.evaluation.evaluate import evaluate
from promptkit.learner import Learner
from promptkit.metrics import STANDARD
from promptkit.settings import LoaderSettings
from promptkit.training.callbacks import Callback, EpochResult


class Validation(Callback):
    """Sets `EpochResult.val_accuracy`, and warns once of each unreadable image of the epoch or the val split."""

    def __init__(self, learner: Learner, dataset: Dataset, max_pixels: int, cache: bool) -> None:
        self.learner = learner
        self.dataset = dataset
        self.max_pixels = max_pixels
        self.cache = cache
        self.warned: set[Path] = set()

    def on_epoch(self, result: EpochResult) -> None:
        self._warn(result.unreadable)
        if not self.dataset.items:
            return
        try:
            loading = LoaderSettings(workers=0, max_pixels=self.max_pixels)
            evaluation = evaluate(
                {"": self.learner}, self.dataset, loading, self.cache, {"accuracy": STANDARD["accuracy"]}
            )
        except DataError:
            return
        self._warn(evaluation.unreadable)
        scores = evaluation.scores[""].values()
        result.val_accuracy = sum(score["accuracy"] * score.n for score in scores) / sum(score.n for score in scores)

    def _warn(self, unreadable: Sequence[Unreadable]) -> None:
        warn_unreadable([image for image in unreadable if image.path not in self.warned])
        self.warned |= {image.path for image in unreadable}

"""Metrics of a classifier, and what they are computed from. A plugin adds its own through `register_metrics`.

@metric("error", higher_is_better=False, help="share of images whose likeliest class is wrong")
def error(predictions, classes):
    return 1 - predictions.right.double().mean().item()
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le, Predicate
from jaxtyping import Bool, Float, Int
from torch import Tensor

from promptkit.files import Number

KEPT = 5
"""The likeliest classes that are kept of an image: the logits of ImageNet would fill the memory."""
CALIBRATION_BINS = 15


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a learner answered about n images."""

    likeliest: Int[Tensor, "n k"]
    """The k likeliest classes, best first: five, or all where there are fewer."""
    probabilities: Float[Tensor, "n k"]
    """Theirs, out of all classes."""
    label: Int[Tensor, " n"]
    index: Int[Tensor, " n"]
    """Where each image stands among those that were asked about."""

    @staticmethod
    def of(logits: Float[Tensor, "n C"], label: Int[Tensor, " n"], index: Int[Tensor, " n"]) -> "Predictions":
        probabilities, likeliest = logits.cpu().float().softmax(1).topk(min(KEPT, logits.shape[1]))
        return Predictions(likeliest, probabilities, label.cpu(), index.cpu())

    @staticmethod
    def together(parts: Sequence["Predictions"]) -> "Predictions":
        """All parts, in the order of the images. At least one part."""
        columns = [torch.cat([getattr(part, name) for part in parts]) for name in Predictions.__dataclass_fields__]
        order = columns[-1].argsort()
        return Predictions(*(column[order] for column in columns))

    def __len__(self) -> int:
        return len(self.label)

    @property
    def right(self) -> Bool[Tensor, " n"]:
        """Is the likeliest class the image's own?"""
        return self.likeliest[:, 0] == self.label


@dataclass(frozen=True)
class Metric:
    """A figure of predictions; `compute(predictions, classes)` takes at least one image and the number of classes."""

    name: str
    compute: Callable[[Predictions, int], float]
    higher_is_better: bool
    help: str


def metric(
    name: str, *, higher_is_better: bool = True, help: str
) -> Callable[[Callable[[Predictions, int], float]], Metric]:
    """Make a metric of a function.

    Args:
        name: As tables and results call it.
        higher_is_better: Which of two learners is the better one, and which domain is the worst.
        help: One line for `promptkit list metric`.
    """
    return lambda compute: Metric(name, compute, higher_is_better, help)


def per_class(predictions: Predictions, classes: int) -> tuple[float | None, ...]:
    """The share of each class's images that are classified right, None where it has none."""
    images = torch.bincount(predictions.label, minlength=classes)
    right = torch.bincount(predictions.label[predictions.right], minlength=classes)
    shares = (right / images).tolist()
    return tuple(share if count else None for share, count in zip(shares, images.tolist(), strict=True))


@metric("accuracy", help="share of images whose likeliest class is their own")
def accuracy(predictions: Predictions, classes: int) -> float:
    return predictions.right.double().mean().item()


@metric("macro_accuracy", help="mean over the classes that occur of the share that is classified right")
def macro_accuracy(predictions: Predictions, classes: int) -> float:
    shares = [share for share in per_class(predictions, classes) if share is not None]
    return sum(shares) / len(shares)


@metric("top5", help="share of images whose class is among the five likeliest; 1 where there are no more classes")
def top5(predictions: Predictions, classes: int) -> float:
    return (predictions.likeliest == predictions.label[:, None]).any(1).double().mean().item()


@metric("macro_f1", help="mean over the classes that occur of the harmonic mean of precision and recall")
def macro_f1(predictions: Predictions, classes: int) -> float:
    right, occurs, guessed = (
        torch.bincount(labels, minlength=classes).double()
        for labels in (predictions.label[predictions.right], predictions.label, predictions.likeliest[:, 0])
    )
    return (2 * right / (occurs + guessed))[occurs > 0].mean().item()


@metric("ece", higher_is_better=False, help="expected calibration error, over 15 bins (Guo et al., ICML 2017)")
def ece(predictions: Predictions, classes: int) -> float:
    confidence = predictions.probabilities[:, 0].double()
    place = torch.bucketize(confidence, torch.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1].double())
    gaps = torch.zeros(CALIBRATION_BINS).double().index_add(0, place, predictions.right.double() - confidence)
    return (gaps.abs().sum() / len(confidence)).item()


STANDARD: Mapping[str, Metric] = {one.name: one for one in (accuracy, macro_accuracy, top5, macro_f1, ece)}
"""What promptkit itself computes."""


def _standard_are_shares(figures: Mapping[str, float]) -> bool:
    return all(0 <= figures[name] <= 1 for name in STANDARD if name in figures)


@dataclass(frozen=True)
class Scores:
    """The figures of one learner on one domain, by metric, over n images."""

    figures: Annotated[Mapping[str, Number], Predicate(_standard_are_shares)]
    per_class: tuple[Annotated[float, Ge(0), Le(1)] | None, ...]
    """The share of each class's images that are classified right, None where it has none."""
    n: Annotated[int, Ge(0)]

    def __getitem__(self, name: str) -> float:
        return self.figures[name]

    @staticmethod
    def of(predictions: Predictions, classes: int, metrics: Mapping[str, Metric]) -> "Scores":
        figures = {name: float(metric.compute(predictions, classes)) for name, metric in metrics.items()}
        return Scores(figures, per_class(predictions, classes), len(predictions))

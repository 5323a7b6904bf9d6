"""Figures of a classifier, as fractions between 0 and 1, from torchmetrics."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Scores:
    """Figures of one learner on one domain: fractions between 0 and 1, over n pictures."""

    accuracy: float
    macro_accuracy: float
    """The mean of `per_class`."""
    top5: float
    """The share of pictures whose class is among the five likeliest; 1 where there are no more classes."""
    macro_f1: float
    """The mean over the classes that occur of the harmonic mean of their precision and recall."""
    ece: float
    """Expected calibration error, over 15 bins of confidence (Guo et al., ICML 2017)."""
    per_class: tuple[float | None, ...]
    """The share of each class's pictures that are classified right, None where it has none."""
    n: int


def predictions(logits: Float[Tensor, "B C"], label: Int[Tensor, " B"]) -> Float[Tensor, "B 3"]:
    """What the figures need of each picture: its likeliest class, is its own among the five likeliest, the confidence.

    Three numbers a picture, in float64, are kept where the logits of ImageNet would fill the memory.
    """
    logits = logits.cpu().float()
    likeliest = logits.topk(min(5, logits.shape[1])).indices
    confidence = logits.softmax(1).amax(1)
    return torch.stack([likeliest[:, 0], (likeliest == label[:, None]).any(1), confidence], 1).double()


def scores(prediction: Float[Tensor, "n 3"], label: Int[Tensor, " n"], classes: int) -> Scores:
    """The figures of n pictures, at least one.

    torchmetrics' own macro average counts a class without pictures as 0 once it is predicted; here only classes that
    occur count.
    """
    from torchmetrics.functional import classification as functional

    predicted, in_top5, confidence = prediction[:, 0].long(), prediction[:, 1], prediction[:, 2]
    right = predicted == label
    occurs = torch.bincount(label, minlength=classes) > 0
    per_class = functional.multiclass_accuracy(predicted, label, classes, average=None).double()
    f1 = functional.multiclass_f1_score(predicted, label, classes, average=None).double()
    return Scores(
        accuracy=right.double().mean().item(),
        macro_accuracy=per_class[occurs].mean().item(),
        top5=in_top5.mean().item(),
        macro_f1=f1[occurs].mean().item(),
        # With confidences and whether they were right, this is the multiclass figure, from one number a picture.
        ece=functional.binary_calibration_error(confidence.float(), right.long(), CALIBRATION_BINS, norm="l1").item(),
        per_class=tuple(
            value if seen else None for value, seen in zip(per_class.tolist(), occurs.tolist(), strict=True)
        ),
        n=len(label),
    )

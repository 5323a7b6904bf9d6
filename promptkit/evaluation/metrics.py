"""Figures of a classifier, as fractions between 0 and 1."""

import torch
from jaxtyping import Int
from torch import Tensor


def accuracy(predicted: Int[Tensor, " n"], label: Int[Tensor, " n"]) -> float:
    """The share of pictures that are classified right. n is at least 1."""
    return (predicted == label).double().mean().item()


def macro_accuracy(predicted: Int[Tensor, " n"], label: Int[Tensor, " n"]) -> float:
    """The mean over the classes that occur in `label` of the share of their pictures that are classified right."""
    total = torch.bincount(label)
    right = torch.bincount(label[predicted == label], minlength=len(total))
    occurring = total > 0
    return (right[occurring] / total[occurring].double()).mean().item()

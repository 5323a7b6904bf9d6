"""Can the gradient of a batch be the sum of those of its parts?"""

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from promptkit.errors import ConfigError
from promptkit.learner import Learner
from promptkit.tensors import Batch

TOLERANCE = 1e-4
"""Of a loss term, relative."""


def check_accumulates(learner: Learner, batch: Batch, parts: int) -> None:
    """Compare the loss terms of a batch with the mean of its parts', without dropout.

    Raises ConfigError where they differ, or the gradient is made in a way that no sum of parts can equal.
    """
    name = type(learner).__name__
    if type(learner).backward is not Learner.backward:
        raise _refused(f"{name} makes gradients of its own from the loss terms")
    if norm := next((name for name, module in learner.named_modules() if isinstance(module, _BatchNorm)), None):
        raise _refused(f"{norm} normalises over the batch")
    learner.eval()
    with torch.no_grad():
        whole = learner.loss(learner(batch))
        pieces = [(len(part.label) / len(batch.label), learner.loss(learner(part))) for part in batch.chunk(parts)]
    learner.train()
    for term, value in whole.items():
        together = torch.stack([share * terms[term] for share, terms in pieces]).sum()
        if not torch.isclose(value, together, rtol=TOLERANCE, atol=TOLERANCE):
            raise _refused(f"the loss term {term!r} is {value:.5g} of the batch, and {together:.5g} of its parts")


def _refused(reason: str) -> ConfigError:
    return ConfigError(
        f"train.accumulate would change what is computed: {reason}",
        "leave it out; --memory-gb bounds what encoding text holds, at the same gradient",
    )

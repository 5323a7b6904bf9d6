"""What a learner changes inside a tower without touching its weights: low-rank deltas of them, and residuals beside them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Weight = Literal["q", "k", "v", "out", "fc1", "fc2"]
"""A linear map of a block: queries, keys, values and output of its attention, first and second of its MLP."""
Place = Literal["block", "mlp", "after"]
"""Beside a block, fed by its first norm; beside its MLP, fed by its second norm; or behind it, fed by what it put out."""


@dataclass(frozen=True, eq=False)
class Delta:
    """An additive change of a weight (O I), `scale * up @ down`, as the factors that it is learned in."""

    down: Float[Tensor, "r I"]
    up: Float[Tensor, "O r"]
    scale: float = 1.0
    dropout: float = 0.0
    """Of the tokens that `down` sees. Drawn whenever it isn't 0, so hand over 0 outside of training."""

    def __call__(self, tokens: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        """What it adds to the map of these tokens."""
        if self.dropout:
            tokens = F.dropout(tokens, self.dropout)
        return F.linear(F.linear(tokens, self.down), self.scale * self.up)


@dataclass(frozen=True, eq=False)
class Edits:
    """Changes of a tower's blocks, counted from 0, in names that are the same for every backbone.

    A residual maps tokens (... W) to what is added to them, token by token: how many there are, and of what, is not its
    business. It may hold parameters.
    """

    deltas: Mapping[tuple[int, Weight], Delta] = field(default_factory=dict)
    residuals: Mapping[tuple[int, Place], Callable[[Tensor], Tensor]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.deltas or self.residuals)


NO_EDITS = Edits()
"""A tower as it is."""

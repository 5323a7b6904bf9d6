"""How many texts one pass through a text tower takes, and what each pass keeps for its backward pass."""

from dataclasses import dataclass
from typing import Any, Literal

import psutil
import torch

from promptkit.backbones.frozen_block import kept_bytes

Keep = Literal["all", "inputs", "nothing"]
"""All that gradients need; the inputs of the blocks, which compute the rest again (`frozen_block`); or nothing: the pass runs
twice."""

HEAP_HOLES = 1.5
"""What a pass makes a process on the CPU hold, over what its tensors do, as measured (`benchmarks/budget.py`)."""
LARGEST_TENSOR = 2**24
"""Bytes. Larger ones don't stay in a CPU's caches, and glibc maps and unmaps them afresh each time (beyond 2**25)."""


@dataclass(frozen=True)
class Cost:
    """Bytes that one row, a context before every class, takes in a pass, or adds to what is kept after it."""

    work: int
    """While a block computes."""
    inputs: int
    everything: int
    largest: int
    """Of its largest tensor."""

    @staticmethod
    def of(block: Any, depth: int, tokens: int, frozen: bool, device: torch.device) -> "Cost":
        """`frozen`: the blocks keep what `frozen_block` does, not what autograd does."""
        width, hidden = block.mlp.c_fc.in_features, block.mlp.c_fc.out_features
        held = 4 * tokens * (HEAP_HOLES if device.type == "cpu" else 1)
        # Autograd keeps two inputs, q, k, v (padded: twice), the attention and what the activation needs.
        plain = 12 * width + 3 * hidden
        graph = int(held * depth * plain)
        return Cost(
            # Of the forward pass and of the backward pass; autograd computes attention again.
            work=int(held * (2 if frozen else 3) * plain),
            # What frozen blocks keep lies in an arena. Behind the inputs: embedded tokens, and what follows the blocks.
            inputs=(depth + 2) * kept_bytes(block, tokens, True, torch.float32) if frozen else graph,
            everything=depth * kept_bytes(block, tokens, False, torch.float32) if frozen else graph,
            largest=4 * tokens * hidden,
        )


def default_budget(device: torch.device) -> int:
    """Of what the device has, not of what is free at the moment: the same run is cut into the same passes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 2
    return int(psutil.virtual_memory().total) // 4


def pass_sizes(rows: int, classes: int, cost: Cost, budget: int, gradients: bool, on_cpu: bool) -> tuple[int, int]:
    """How many rows, and how many classes, a pass takes at most."""
    held = cost.work + (cost.everything if gradients else 0)
    row = max(held / budget, cost.largest / LARGEST_TENSOR if on_cpu else 0)
    return _even(rows, 1 / row), _even(classes, classes / row)


def _even(n: int, at_most: float) -> int:
    """The step that makes as many spans as `at_most` does, of nearly the same length."""
    return -(-n // -(-n // max(1, min(n, int(at_most)))))


def spans(total: int, step: int) -> list[range]:
    """Ranges of `step`; what is left over comes first, since the last pass is not computed twice."""
    return [range(max(0, end - step), end) for end in range(total % step or step, total + 1, step)]


def what_to_keep(passes: int, cost: Cost, share: float, budget: int) -> list[Keep]:
    """What each pass keeps, a pass being a `share` of a row, or several rows.

    The last, whose backward pass comes first, keeps all. Inputs for as many passes as fit come next, since a byte spent on
    them spares more time than one spent on the rest.
    """
    work, inputs, everything = (max(1, int(share * n)) for n in (cost.work, cost.inputs, cost.everything))
    left = max(0, budget - work - everything)
    some = min(passes - 1, left // inputs)
    whole = min(some, (left - some * inputs) // max(1, everything - inputs))
    order: tuple[tuple[Keep, int], ...] = (("nothing", passes - 1 - some), ("inputs", some - whole), ("all", whole + 1))
    return [keep for keep, n in order for _ in range(n)]

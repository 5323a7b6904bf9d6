"""Image towers on the CPU: a few images at a time, in memory that the process keeps from one layer to the next.

A layer's output for a whole batch is a large block. glibc maps a fresh one for every layer and unmaps it afterwards, and
the system clears every page of it: a CNN spends more time there than in arithmetic (`benchmarks/image_tower.py`).
"""

import contextlib
import ctypes
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from promptkit.tensors import ImageFeatures, ImagePrompts

BLOCK_BYTES = 32 << 20
"""At most this large is a layer's output in one pass: the largest block that every glibc can keep on its heap."""
KEPT_BYTES = 256 << 20
"""So much free memory at the end of the heap is not given back: more than a pass of such blocks was seen to take."""

ONE_PASS, SEVERAL_PASSES = 5.2, 9.0
"""What a pass, or several, make a process hold, in sizes of the largest layer's output: measured by `benchmarks/plan.py`."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_CHOSEN_BY_USER = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")

Encode = Callable[[Float[Tensor, "B 3 H Wd"], ImagePrompts | None], ImageFeatures]


@cache
def keep_freed_memory() -> bool:
    """Have glibc use freed blocks again, instead of giving them back: for the whole process, so not before it is needed.

    False, and nothing changes, where the C library is another one, or the environment sets its allocator.
    """
    if any(name in os.environ for name in _CHOSEN_BY_USER):
        return False
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other C libraries have no such call
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_M_MMAP_THRESHOLD, BLOCK_BYTES) and mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))
    return False


def largest_output(tower: nn.Module, pixels: Float[Tensor, "B 3 H Wd"]) -> int:
    """In bytes, of all layers of the tower; found by running it."""
    largest = 0

    def measure(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.nbytes)

    with torch.no_grad(), contextlib.ExitStack() as hooks:
        for module in tower.modules():
            hooks.enter_context(module.register_forward_hook(measure))
        tower(pixels)
    return largest


def encode_in_chunks(
    encode: Encode, pixels: Float[Tensor, "B 3 H Wd"], prompts: ImagePrompts | None, step: int
) -> ImageFeatures:
    """`encode` of `step` images at a time; prompts are one for all images, or one for each."""
    chunks = torch.split(pixels, step)
    each = [prompts] * len(chunks)
    if prompts is not None and prompts.tokens is not None and prompts.tokens.shape[1] > 1:
        each = [replace(prompts, tokens=tokens) for tokens in torch.split(prompts.tokens, step, dim=1)]
    parts = [encode(some, own) for some, own in zip(chunks, each, strict=True)]
    return parts[0] if len(parts) == 1 else ImageFeatures.cat(parts)


def held_at_most(images: int, largest: int) -> int:
    """Bytes that a process holds while it encodes images whose largest layer output takes `largest` each."""
    step = max(1, BLOCK_BYTES // largest)
    return int(min(images, step) * largest * (ONE_PASS if images <= step else SEVERAL_PASSES))

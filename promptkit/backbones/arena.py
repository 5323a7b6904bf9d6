"""Memory for what passes keep on a CPU: taken once and used again by every step.

On the heap it would lie between what a pass frees, whose holes fit nothing else, and each step would ask the system for
all of it anew, which clears it page by page.
"""

import math
import mmap
import weakref

import torch
from torch import Tensor

ALIGNMENT = 64
"""Bytes, as torch's own."""


class Arena:
    """Hands out the tensors of one pass. Its memory goes back where it came from with the last of them."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._used = 0

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Not a view of anything, so that writing it is not taken for a change of the others."""
        tensor = torch.frombuffer(self._memory, dtype=dtype, count=math.prod(shape), offset=self._used).view(shape)
        self._used += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        return tensor


class Arenas:
    """Arenas for pass after pass, in memory that earlier ones of the same size have given back."""

    def __init__(self) -> None:
        self._free: dict[int, list[mmap.mmap]] = {}

    def take(self, size: int) -> Arena:
        """With room for tensors of `size` bytes together."""
        if not self._free.get(size):
            self._free.clear()  # what earlier steps needed
            self._free[size] = [mmap.mmap(-1, size)]
        memory = self._free[size].pop()
        view = memoryview(memory)  # every tensor holds it
        weakref.finalize(view, self._give_back, memory)
        return Arena(view)

    def _give_back(self, memory: mmap.mmap) -> None:
        self._free.setdefault(len(memory), []).append(memory)

    def clear(self) -> None:
        self._free.clear()

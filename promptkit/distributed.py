"""One run in several processes, by torch.distributed, as `torchrun` or `accelerate launch` start them.

Each process computes its share of every batch; what a loss needs of the whole batch it gathers. Where there is one process,
everything here is the identity and nothing is initialised.
"""

import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch import distributed as dist

PATIENCE = timedelta(days=7)
"""How long a process waits for another, such as for the first to encode a large cache; torchrun ends all when one dies."""


def join(device: str) -> torch.device | None:
    """Join the other processes, if `torchrun` or `accelerate launch` started several; returns this one's device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    from accelerate import PartialState

    joined: torch.device = PartialState(cpu=device == "cpu", timeout=PATIENCE).device
    return joined


def processes() -> int:
    """How many processes share the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather(rows: Float[Tensor, "b ..."]) -> Float[Tensor, "B ..."]:
    """The rows of all processes, in their order, with gradients; every process has to bring as many.

    A loss of the gathered rows is the loss of the whole batch in every process, and the average of the processes'
    gradients (`average_gradients`) is its gradient.
    """
    if processes() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


class _Gather(torch.autograd.Function):
    """All processes' losses look at a process's rows, so their gradient is the sum of all processes'."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(processes())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return own(grad)


def own(rows: Float[Tensor, "B ..."]) -> Float[Tensor, "b ..."]:
    """This process's part of gathered rows."""
    return rows.chunk(processes())[rank()]


def average(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The mean of each tensor over processes, without gradients."""
    if processes() == 1:
        return list(tensors)
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= processes()
    means = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [mean.view_as(tensor) for mean, tensor in zip(means, tensors, strict=True)]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over processes; a parameter that no gradient reached counts as 0."""
    if processes() == 1:
        return
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    means = average([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters])
    for parameter, mean in zip(parameters, means, strict=True):
        parameter.grad = mean


def gather_objects(own_objects: list[Any]) -> list[Any]:
    """The lists of all processes, one after the other. Only for what our own processes made: it pickles."""
    if processes() == 1:
        return own_objects
    lists: list[list[Any]] = [[] for _ in range(processes())]
    dist.all_gather_object(lists, own_objects)
    return [item for part in lists for item in part]


def total(value: float) -> float:
    """The sum of a number over processes."""
    return float(sum(gather_objects([value])))

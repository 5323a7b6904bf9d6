"""Which learners are asked about the same pictures, in which views and order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from promptkit import distributed
from promptkit.data.layouts import Item
from promptkit.features.sources import Source
from promptkit.learner import Learner
from promptkit.settings import LoaderSettings


@dataclass(frozen=True, eq=False)
class Pass:
    """Learners that see the same pictures of a domain."""

    learners: Mapping[str, Learner]
    source: Source
    places: Int[Tensor, " n"]
    """Where the pictures of the source stand in the domain."""
    batch_size: int
    answers: bool
    """Does this process answer? A stream can't be shared out, so every process follows it, and the first one answers."""

    @property
    def whole(self) -> bool:
        """Is the domain one batch?"""
        return next(iter(self.learners.values())).adapts == "transductive"


def groups(learners: Mapping[str, Learner]) -> list[dict[str, Learner]]:
    """Learners that can see the same pictures: in equal views, and, where order matters, in one order."""
    found: dict[object, dict[str, Learner]] = {}
    for name, learner in learners.items():
        views = learner.test_views
        looks = type(views), repr(views.options), views.image, learner.seed if views.draws else None
        order = (learner.adapts, learner.seed) if learner.adapts in ("online", "transductive") else None
        found.setdefault((looks, order), {})[name] = learner
    return list(found.values())


def make_pass(learners: Mapping[str, Learner], images: Sequence[Item], folder: Path, loading: LoaderSettings) -> Pass:
    """The part of a domain that this process shows to a group of learners."""
    first = next(iter(learners.values()))
    rank, n = distributed.rank(), distributed.processes()
    places, batch_size = torch.arange(len(images)), loading.batch_size
    if first.adapts == "online":
        places = torch.randperm(len(images), generator=torch.Generator().manual_seed(first.seed))
    elif first.adapts == "transductive":
        batch_size = len(images)
    else:
        places = places[rank::n]
    streamed = first.adapts in ("online", "transductive")
    source = Source.evaluation([images[i] for i in places], folder, first.test_views, first.seed, loading)
    return Pass(learners, source, places, batch_size, not streamed or not rank)

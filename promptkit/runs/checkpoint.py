"""`learner.safetensors`: what was learned, and of what. Nothing in it is executed."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Len, Predicate
from torch import Tensor

from promptkit.errors import CheckpointError
from promptkit.files import Number, checked_json
from promptkit.runs import tensorfile

WEIGHTS, SETTINGS, LOG, STATE = "learner.safetensors", "run.toml", "log.jsonl", "state.safetensors"
"""The files of a run's folder."""


def _all_differ(names: Sequence[str]) -> bool:
    return len(set(names)) == len(names)


@dataclass(frozen=True)
class Metadata:
    """What the header of `learner.safetensors` says about the tensors in it."""

    recipe: str
    backbone: str
    fingerprint: str
    """Of the backbone; see `Backbone.fingerprint`."""
    data: str
    """The fingerprint of the pictures; see `Dataset.fingerprint`."""
    settings: dict[str, Any]
    """The tables of `run.toml`, so that neither file stands beside another's."""
    classnames: Annotated[list[str], Len(1), Predicate(_all_differ)]
    domains: list[str]
    """Of the training pictures."""
    descriptions: dict[str, Annotated[list[str], Len(1)]]
    """Of classes; what --descriptions gave."""
    epoch: Annotated[int, Ge(0)]
    """That the tensors were learned by."""
    epochs: Annotated[int, Ge(0)]
    finished: bool
    """Has the run come to its end?"""
    packages: dict[str, str]
    """What it was made with; see `promptkit.runs.packages`."""
    commands: Annotated[list[str], Len(1)]
    """The command lines of the processes that trained it: the first, then one each time that it was resumed."""
    figures: dict[str, Number] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.settings.get("recipe") != self.recipe:
            raise ValueError("its settings are of another recipe")


def read_metadata(run: Path) -> Metadata:
    """The header of a run's tensors. Raises CheckpointError when there is none that can be trusted."""
    path = run / WEIGHTS
    if os.path.isfile(run):
        raise CheckpointError(f"{run} is a file, and a run is the folder that holds its files", f"give {run.parent}")
    if not os.path.lexists(path):
        there = sorted(item.name for item in run.parent.glob("*") if os.path.isfile(item / WEIGHTS))
        raise CheckpointError(
            f"{run} holds no run (there is no {WEIGHTS} in it)",
            f"runs beside it: {', '.join(there)}" if there else "make one with: promptkit train RECIPE --data PATH",
        )
    try:
        return checked_json(Metadata, tensorfile.read_text(path))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None


def read_tensors(run: Path) -> dict[str, Tensor]:
    """Raises CheckpointError for a file that is not what was saved, or holds values that are not finite."""
    return tensorfile.read_tensors(run / WEIGHTS)

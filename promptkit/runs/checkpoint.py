"""`learner.safetensors`: what was learned, and of what. Nothing in it is executed."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from promptkit.errors import CheckpointError
from promptkit.files import is_number, plain_json
from promptkit.runs import tensorfile

WEIGHTS, SETTINGS, LOG, STATE = "learner.safetensors", "run.toml", "log.jsonl", "state.safetensors"
"""The files of a run's folder."""


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
    classnames: list[str]
    domains: list[str]
    """Of the training pictures."""
    epoch: int
    epochs: int
    version: str
    figures: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError naming every field that is not sound; a header may hold anything."""
        texts = ("recipe", "backbone", "fingerprint", "data", "version")
        wrong = [name for name in texts if type(getattr(self, name)) is not str]
        counts = {"epoch": self.epoch, "epochs": self.epochs}
        wrong += [name for name, value in counts.items() if type(value) is not int or value < 0]
        names = self.classnames
        if type(names) is not list or not names or not all(type(name) is str for name in names):
            wrong.append("classnames")
        elif len(set(names)) < len(names):
            wrong.append("classnames (one occurs twice)")
        if type(self.settings) is not dict or self.settings.get("recipe") != self.recipe:
            wrong.append("settings")
        if type(self.domains) is not list or not all(type(name) is str for name in self.domains):
            wrong.append("domains")
        if type(self.figures) is not dict or not all(map(is_number, self.figures.values())):
            wrong.append("figures")
        if wrong:
            raise ValueError(f"its header has no sound {', '.join(wrong)}")

    @property
    def finished(self) -> bool:
        return self.epoch >= self.epochs


def read_metadata(run: Path) -> Metadata:
    """The header of a run's tensors. Raises CheckpointError when there is none that can be trusted."""
    path = run / WEIGHTS
    if not os.path.lexists(path):
        there = sorted(item.name for item in run.parent.glob("*") if os.path.isfile(item / WEIGHTS))
        raise CheckpointError(
            f"{run} holds no run (there is no {WEIGHTS} in it)",
            f"runs beside it: {', '.join(there)}" if there else "make one with: promptkit train RECIPE --data PATH",
        )
    try:
        return Metadata(**plain_json(tensorfile.read_text(path)))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None


def read_tensors(run: Path) -> dict[str, Tensor]:
    """Raises CheckpointError for a file that is not what was saved, or holds values that are not finite."""
    return tensorfile.read_tensors(run / WEIGHTS)

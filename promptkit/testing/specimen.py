"""What is checked: a recipe, or a component within one, on the tiny backbone with a few pictures."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from promptkit.backbones.base import Backbone
from promptkit.backbones.tiny import tiny_backbone
from promptkit.build import build_learner, build_views
from promptkit.components import ContextPrompts, Scene, TeacherRun, Views
from promptkit.config import COMPONENT_SLOTS, RunConfig, resolve
from promptkit.data.loading import views_to_test
from promptkit.learner import Learner, Recipe
from promptkit.registry import SLOT_KINDS, Entry, Registry, installed
from promptkit.tensors import Batch
from promptkit.testing.data import SHAPES, STYLES, draw_image
from promptkit.training.optimizer import make_optimizer

CLASSES = ("circle", "cross", "square", "star")
OTHER_CLASSES = ("striped tent", "arrow", "signet ring")
"""Of another number, and of names with another number of tokens."""


_PLAIN = "plain prompts of the check"
"""Learned context vectors, for components that come without a recipe of their own."""


class Specimen:
    """The subject of a check and what it needs around it, each made when first asked for.

    A component is checked in the first recipe that uses it, its own package's before others: there it has the company
    it was written for. Without one it is put beside plain learned contexts.
    """

    def __init__(self, registry: Registry, kind: str, name: str) -> None:
        self.registry = registry
        self.entry = registry.entry(kind, name)
        self.kind = kind
        self.name = name

    @cached_property
    def recipe(self) -> Recipe:
        if self.kind == "recipe":
            recipe: Recipe = self.entry.value
            return recipe
        using = [
            entry for entry in self.registry.entries["recipe"].values() if getattr(entry.value, self.kind) == self.name
        ]
        if using:
            found: Recipe = min(using, key=lambda entry: entry.package != self.entry.package).value
            return found
        slots = {"prompts": _PLAIN, "views": self._views_for_loss(), self.kind: self.name}
        for slot, needed in getattr(self.entry.value, "needs", {}).items():
            fitting = (
                name
                for name, entry in sorted(self.registry.entries[SLOT_KINDS[slot]].items())
                if issubclass(entry.value, needed)
            )
            slots[slot] = next(fitting, slots.get(slot, getattr(Recipe, slot, "")))
        return Recipe("a component on its own", **slots)  # type: ignore[arg-type]

    def _views_for_loss(self) -> str:
        """Views that make what a loss needs; the standard ones where none do."""
        needed = set(self.entry.value.views) if self.kind == "loss" else set()
        fitting = [
            entry
            for entry in self.registry.entries["views"].values()
            if needed <= set(getattr(entry.value, "names", ()))
        ]
        fitting.sort(key=lambda entry: (entry.name != "standard", entry.package != self.entry.package))
        return fitting[0].name if fitting else "standard"

    @cached_property
    def scratch(self) -> Registry:
        """The registry with the recipe under check and the plain prompts in it."""
        entries = {kind: dict(known) for kind, known in self.registry.entries.items()}
        entries["recipe"][self.name] = Entry("recipe", self.name, self.recipe, self.entry.package, self.entry.version)
        entries["prompts"][_PLAIN] = Entry("prompts", _PLAIN, ContextPrompts, "promptkit", "")
        return Registry(entries)

    @cached_property
    def config(self) -> RunConfig:
        return resolve(self.scratch, self.name, flags={"backbone.name": "tiny", "backbone.weights": "none"})

    @property
    def components(self) -> Mapping[str, type]:
        """The classes under check, by slot: a recipe's, or the component's own."""
        if self.kind == "recipe":
            return {slot: self.registry.component(slot, getattr(self.recipe, slot)) for slot in COMPONENT_SLOTS}
        return {self.kind: self.entry.value}

    def of_interest(self, parameter: str) -> bool:
        """Does a learner's parameter belong to what is checked?"""
        return self.kind in ("recipe", "views", "learner") or parameter.startswith(f"{self.kind}.")

    @cached_property
    def backbone(self) -> Backbone:
        """A backbone that every check but that of its own integrity may share."""
        if self.kind == "backbone":
            backbone: Backbone = self.entry.value("none")
            return backbone
        return tiny_backbone()

    @cached_property
    def views(self) -> Views:
        return build_views(self.config, self.scratch, self.backbone)

    @cached_property
    def batch(self) -> Batch:
        """One picture of each class in the views of the recipe."""
        made = [self.views(image(i), np.random.default_rng(i)) for i in range(len(CLASSES))]
        stacked = {name: torch.stack([torch.from_numpy(view[name]) for view in made]) for name in made[0]}
        places = torch.arange(len(CLASSES))
        batch = Batch(stacked, places, index=places)
        asks = self.registry.component("loss", self.config.components["loss"].name).unlabelled
        return replace(batch, unlabelled=replace(batch, label=torch.full((len(CLASSES),), -1))) if asks else batch

    @cached_property
    def one_by_one(self) -> list[Batch]:
        """A picture of each class to be predicted, in the test views of the recipe, each by itself."""
        views = build_views(self.config, self.scratch, self.backbone, "test_views")
        made = [views_to_test(views, image(i), 1) for i in range(len(CLASSES))]
        return [Batch({name: view[None] for name, view in one.items()}, torch.full((1,), -1)) for one in made]

    @cached_property
    def asked(self) -> Batch:
        """All of these together."""
        views = {name: torch.cat([one.views[name] for one in self.one_by_one]) for name in self.one_by_one[0].views}
        return Batch(views, torch.full((len(CLASSES),), -1))

    def answer(self, learner: Learner, batch: Batch | None = None) -> Tensor:
        """What a learner that has seen no test picture before predicts of all of these."""
        learner.reset()
        return learner.predict(batch or self.asked)

    def learner(self, seed: int = 1, backbone: Backbone | None = None) -> Learner:
        """A fresh learner that has not been trained."""
        config = replace(self.config, train=replace(self.config.train, seed=seed))
        parts = [self.scratch.component(slot, chosen.name) for slot, chosen in config.components.items()]
        said = {name: [f"it looks like a {name}.", "it has a name."] for name in (*CLASSES, *OTHER_CLASSES)}
        scene = Scene(
            backbone or self.backbone,
            CLASSES,
            descriptions=said if any(getattr(part, "described", False) for part in parts) else {},
            teacher=self._teacher() if any(getattr(part, "taught", False) for part in parts) else None,
        )
        return build_learner(config, self.scratch, scene)

    def _teacher(self) -> TeacherRun:
        """Zero-shot CLIP of another joint width, and what it says of the pictures of `batch`."""
        config = resolve(self.scratch, "zeroshot", flags={"backbone.name": "tiny", "backbone.weights": "none"})
        backbone = tiny_backbone(embed_dim=20)
        run = TeacherRun(lambda: build_learner(config, self.scratch, Scene(backbone, CLASSES), to_train=False).eval())
        run.logits = run.learner.predict(Batch.of(self.batch.views["image"]))
        return run

    def trained(self, seed: int = 1, backbone: Backbone | None = None, steps: int = 2) -> Learner:
        """A learner after an epoch of a few steps at the recipe's own rate, in evaluation mode."""
        learner = self.learner(seed, backbone)
        torch.manual_seed(seed)
        learner.eval()
        learner.start([self.batch])
        if any(True for _ in learner.parameters()):
            optimizer = make_optimizer(learner, self.config.train)
            learner.train()
            learner.epoch_start(1, 1)
            for step in range(1, steps + 1):
                optimizer.zero_grad()
                learner.backward(learner.loss(learner(self.batch)))
                optimizer.step()
                learner.step_end(step)
            learner.epoch_end(1, 1)
        return learner.eval()


def build_recipe(name: str, classnames: Sequence[str] = CLASSES, sets: Iterable[str] = ()) -> Learner:
    """A registered recipe's learner on the tiny backbone, untrained; `sets` are texts as --set takes them."""
    config = resolve(installed(), name, sets=sets, flags={"backbone.name": "tiny", "backbone.weights": "none"})
    return build_learner(config, installed(), Scene(tiny_backbone(), tuple(classnames)))


def image(number: int) -> Any:
    """An RGB picture (H W 3, uint8), of another size for each number."""
    rng = np.random.default_rng(number)
    drawn = draw_image(SHAPES[number % len(SHAPES)], STYLES[number % len(STYLES)], 40 + 8 * number, rng)
    return np.asarray(drawn)[: 40 + 7 * number]


def stir() -> None:
    """Move every global generator on, so that whoever draws from one gives himself away."""
    random.random()
    np.random.random()
    torch.rand(1)


def close(a: Tensor, b: Tensor) -> bool:
    """Equal but for rounding, on the scale of the values."""
    a, b = a.detach(), b.detach()
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-4 * max(1.0, float(b.abs().max())))

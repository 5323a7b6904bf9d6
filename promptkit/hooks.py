"""The nine hooks of a plugin.

A plugin is a module that an entry point of the group `promptkit` names. It implements the hooks it needs; each is handed
`register` and calls it once for everything it offers. Hooks are for discovery alone: once a run is built, none is called.

    from promptkit import hookimpl

    @hookimpl
    def register_losses(register):
        register("focal", FocalLoss)
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from promptkit.backbones.base import Backbone
    from promptkit.components import Loss, Projector, PromptGenerator, Views
    from promptkit.data.catalog import NamedDataset
    from promptkit.learner import Learner, Recipe
    from promptkit.metrics import Metric

PROJECT = "promptkit"

KINDS: dict[str, str] = {
    "recipe": "register_recipes",
    "learner": "register_learners",
    "prompts": "register_prompts",
    "projector": "register_projectors",
    "views": "register_views",
    "loss": "register_losses",
    "backbone": "register_backbones",
    "dataset": "register_datasets",
    "metric": "register_metrics",
}
"""Every kind of thing a plugin can offer, and its hook."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


BackboneLoader = Callable[[str], "Backbone"]
"""Loads a frozen CLIP from what the user gave for --weights."""

RegisterBackbone = Callable[[str, BackboneLoader], None]
RegisterPrompts = Callable[[str, "type[PromptGenerator]"], None]
RegisterProjector = Callable[[str, "type[Projector]"], None]
RegisterViews = Callable[[str, "type[Views]"], None]
RegisterLoss = Callable[[str, "type[Loss]"], None]
RegisterLearner = Callable[[str, "type[Learner]"], None]
RegisterRecipe = Callable[[str, "Recipe"], None]
RegisterDataset = Callable[[str, "NamedDataset"], None]
RegisterMetric = Callable[["Metric"], None]


@hookspec
def register_backbones(register: RegisterBackbone) -> None:
    """Offer frozen CLIP models under names of their own. Names nobody registers go to open_clip.

    Args:
        register: Called as `register(name, loader)`, the first line of the loader's docstring being its summary.
    """


@hookspec
def register_prompts(register: RegisterPrompts) -> None:
    """Offer prompt generators.

    Args:
        register: Called as `register(name, cls)`, the first line of the class's docstring being its summary.
    """


@hookspec
def register_projectors(register: RegisterProjector) -> None:
    """Offer projectors, which map features of both towers to the space they are compared in.

    Args:
        register: Called as `register(name, cls)`.
    """


@hookspec
def register_views(register: RegisterViews) -> None:
    """Offer augmentation pipelines that make the views of a picture.

    Args:
        register: Called as `register(name, cls)`.
    """


@hookspec
def register_losses(register: RegisterLoss) -> None:
    """Offer losses.

    Args:
        register: Called as `register(name, cls)`.
    """


@hookspec
def register_learners(register: RegisterLearner) -> None:
    """Offer learners: how components are put together, and what happens in and between steps.

    Args:
        register: Called as `register(name, cls)`, the first line of the class's docstring being its summary.
    """


@hookspec
def register_recipes(register: RegisterRecipe) -> None:
    """Offer recipes: a learner by the names of its components, with the settings it was published with.

    Args:
        register: Called as `register(name, recipe)`.
    """


@hookspec
def register_datasets(register: RegisterDataset) -> None:
    """Offer published data sets under the names that `--dataset` takes: how each is read from disk, and its templates.

    Args:
        register: Called as `register(name, dataset)`, with a promptkit.data.catalog.NamedDataset.
    """


@hookspec
def register_metrics(register: RegisterMetric) -> None:
    """Offer metrics, which `eval`, `bench` and `table` compute and show beside promptkit's own.

    Args:
        register: Called as `register(metric)`, with what the decorator promptkit.metrics.metric makes.
    """

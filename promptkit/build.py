"""From a configuration to the objects of a run: the backbone, the learner and its views."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from promptkit.backbones.base import Backbone
from promptkit.components import Component, Loss, PromptGenerator, Scene, TeacherRun, Views
from promptkit.config import RunConfig
from promptkit.data.descriptions import read_descriptions
from promptkit.data.layouts import Dataset
from promptkit.errors import ConfigError, PluginError
from promptkit.imports import uncollected
from promptkit.learner import Learner, Recipe
from promptkit.registry import SLOT_KINDS, Registry
from promptkit.settings import BackboneSettings
from promptkit.tensors import Outputs


def pick_device(name: str) -> torch.device:
    """ "auto" is the best device at hand. Raises ConfigError for one that does not exist here."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} can't be used: {str(error).splitlines()[0]}", "try --device auto") from None
    return device


def load_backbone(settings: BackboneSettings, registry: Registry) -> Backbone:
    """A registered backbone by its name; every other name is open_clip's."""
    with uncollected():
        if settings.name in registry.entries["backbone"]:
            backbone: Backbone = registry.get("backbone", settings.name)(settings.weights)
        else:
            from promptkit.backbones.openclip import load_openclip

            backbone = load_openclip(settings.name, settings.weights)
    backbone.configure(settings)
    return backbone


class Untrained(Loss):
    """In the place of a loss where a learner is built to predict: what only training needs is not asked for."""

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Raises PluginError: there are no terms."""
        raise PluginError("this learner was built to predict, without its loss", "train it with promptkit train")


def training_scene(config: RunConfig, backbone: Backbone, dataset: Dataset, teacher: TeacherRun | None = None) -> Scene:
    """What there is to train on. Raises DataError for descriptions that can't be read."""
    path = config.data.descriptions
    descriptions = read_descriptions(Path(path)) if path else {}
    return Scene(backbone, dataset.classnames, dataset.domains, descriptions, teacher)


def build_learner(config: RunConfig, registry: Registry, scene: Scene, to_train: bool = True) -> Learner:
    """Compose the learner on the backbone's device; its initial values depend on the seed alone.

    Without `to_train`, what only training needs is not built. Raises ConfigError when an option has no sensible meaning
    for this backbone or these classes, and when a component needs another than stands in a slot.
    """
    classes = {slot: registry.component(slot, chosen.name) for slot, chosen in config.components.items()}
    losses = ["loss"] if to_train else []
    for slot in ("prompts", "projector", *losses):
        _check_given(classes[slot], f"{slot} {config.components[slot].name!r}", scene)
    for slot in ("prompts", "projector", "learner", *losses):
        _check_needs(config, registry, slot)

    def component(slot: str) -> Any:
        return classes[slot](config.components[slot].options, scene)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        prompts, projector = component("prompts"), component("projector")
        loss = component("loss") if to_train else Untrained(config.components["loss"].options, scene)
        options = config.components["learner"].options
        learner: Learner = classes["learner"](options, scene, prompts, projector, loss)
    learner.test_views = build_views(config, registry, scene.backbone, "test_views")
    learner.seed = config.train.seed
    return learner.to(scene.backbone.device)


def _check_given(component: type[Component], what: str, scene: Scene) -> None:
    """Raises ConfigError when a run lacks what a component learns from beside pictures."""
    need = "need" if issubclass(component, PromptGenerator) else "needs"
    if component.described and not scene.descriptions:
        raise ConfigError(
            f"{what} {need} sentences about the classes",
            "--descriptions FILE names a JSON file of them, such as the CuPL_prompts_*.json that CuPL publishes",
        )
    if component.taught and scene.teacher is None:
        raise ConfigError(f"{what} {need} a run to learn from", "--teacher RUN names a finished one, on any backbone")


def _check_needs(config: RunConfig, registry: Registry, slot: str) -> None:
    """Raises ConfigError when what stands in another slot is not what the component of this one needs."""
    chosen = config.components[slot].name
    for other, needed in registry.component(slot, chosen).needs.items():
        there = config.components[other].name
        if issubclass(registry.component(other, there), needed):
            continue
        fitting = [
            name for name, entry in registry.entries[SLOT_KINDS[other]].items() if issubclass(entry.value, needed)
        ]
        ways = [f"{other}={name}" for name in sorted(fitting)]
        if plain := getattr(Recipe, slot, ""):
            ways.append(f"{slot}={plain}")
        need = "need" if slot == "prompts" else "needs"
        raise ConfigError(
            f"{slot} {chosen!r} {need} {needed.__name__} in the slot {other}, where {there!r} stands",
            f"fits: --set {', or --set '.join(ways)}",
        )


def build_views(config: RunConfig, registry: Registry, backbone: Backbone, slot: str = "views") -> Views:
    """The views of a training picture, or of one to classify ("test_views").

    Raises ConfigError when the loss needs a view of training pictures that is not made.
    """
    chosen, loss = config.components[slot], config.components["loss"]
    with uncollected():  # albumentations
        views: Views = registry.component(slot, chosen.name)(chosen.options, backbone.image)
    if slot != "views":
        return views
    needed = registry.get("loss", loss.name).views
    missing = [name for name in needed if name not in views.names]
    if missing:
        raise ConfigError(
            f"loss {loss.name!r} needs the views {_quoted(missing)}; views {chosen.name!r} makes {_quoted(views.names)}",
            f"pick views that make them, such as --set views={loss.name}, or another loss",
        )
    return views


def _quoted(names: "list[str] | tuple[str, ...]") -> str:
    return " and ".join(f'"{name}"' for name in names)

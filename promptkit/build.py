"""From a configuration to the objects of a run: the backbone, the learner and its views."""

import torch

from promptkit.backbones.base import Backbone
from promptkit.components import Scene, Views
from promptkit.config import RunConfig
from promptkit.errors import ConfigError
from promptkit.learner import Learner
from promptkit.registry import Registry
from promptkit.settings import BackboneSettings


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
    if settings.name in registry.entries["backbone"]:
        backbone: Backbone = registry.get("backbone", settings.name)(settings.weights)
    else:
        from promptkit.backbones.openclip import load_openclip

        backbone = load_openclip(settings.name, settings.weights)
    backbone.configure(settings)
    return backbone


def build_learner(config: RunConfig, registry: Registry, backbone: Backbone, classnames: tuple[str, ...]) -> Learner:
    """Compose the learner on the backbone's device; its initial values depend on the seed alone.

    Raises ConfigError when an option has no sensible meaning for this backbone or these classes.
    """
    scene = Scene(backbone, classnames)

    def component(slot: str) -> object:
        chosen = config.components[slot]
        return registry.get(slot, chosen.name)(chosen.options, scene)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        learner: Learner = registry.get("recipe", config.recipe).learner(
            component("prompts"), component("projector"), component("loss"), scene
        )
    return learner.to(backbone.device)


def build_views(config: RunConfig, registry: Registry, backbone: Backbone) -> Views:
    """The views of a training picture. Raises ConfigError when the loss needs one that is not made."""
    chosen, loss = config.components["views"], config.components["loss"]
    views: Views = registry.get("views", chosen.name)(chosen.options, backbone.image)
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

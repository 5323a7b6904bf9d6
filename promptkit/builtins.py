"""What the core offers by itself, through the same hooks as any plugin."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional as F

from promptkit.backbones.base import Backbone
from promptkit.components import Loss, PipelineViews, PlainViews, Projector, TemplatePrompts
from promptkit.data.coop import COOP
from promptkit.data.generalization import GENERALIZATION
from promptkit.hooks import (
    RegisterBackbone,
    RegisterDataset,
    RegisterLearner,
    RegisterLoss,
    RegisterMetric,
    RegisterProjector,
    RegisterPrompts,
    RegisterRecipe,
    RegisterViews,
    hookimpl,
)
from promptkit.learner import Learner, Recipe
from promptkit.metrics import STANDARD
from promptkit.tensors import Outputs

if TYPE_CHECKING:
    import albumentations


class StandardViews(PipelineViews):
    """One view, as CoOp trains on: random resized crop and horizontal flip."""

    @dataclass(frozen=True)
    class Options:
        min_scale: Annotated[float, "smallest share of the picture that a crop keeps", Gt(0), Le(1)] = 0.08
        flip: Annotated[float, "probability of a horizontal flip", Ge(0), Le(1)] = 0.5

    def pipelines(self) -> "Mapping[str, Sequence[albumentations.BasicTransform]]":
        return {"image": self.crop_and_flip(self.options.min_scale, self.options.flip)}


class CrossEntropy(Loss):
    """Cross-entropy of the logits of the "image" view."""

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(outputs.logits, outputs.label)}


def load_tiny(weights: str) -> Backbone:
    """A random CLIP with a few thousand parameters besides its vocabulary, for tests and for trying things out."""
    from promptkit.backbones import tiny

    return tiny.load_tiny(weights)


def load_demo(weights: str) -> Backbone:
    """A small CLIP that was trained on the pictures of `promptkit demo-data`. It has one set of weights."""
    from promptkit.backbones import demo

    return demo.load_demo_clip(weights)


@hookimpl
def register_backbones(register: RegisterBackbone) -> None:
    register("tiny", load_tiny)
    register("demo", load_demo)


@hookimpl
def register_prompts(register: RegisterPrompts) -> None:
    register("template", TemplatePrompts)


@hookimpl
def register_projectors(register: RegisterProjector) -> None:
    register("identity", Projector)


@hookimpl
def register_views(register: RegisterViews) -> None:
    register("standard", StandardViews)
    register("plain", PlainViews)


@hookimpl
def register_losses(register: RegisterLoss) -> None:
    register("cross-entropy", CrossEntropy)


@hookimpl
def register_learners(register: RegisterLearner) -> None:
    register("plain", Learner)


@hookimpl
def register_recipes(register: RegisterRecipe) -> None:
    register(
        "zeroshot",
        Recipe(
            summary="CLIP itself with hand-made prompts; nothing to train",
            prompts="template",
            settings={"train.epochs": 0},
            paper="Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021",
        ),
    )


@hookimpl
def register_metrics(register: RegisterMetric) -> None:
    for metric in STANDARD.values():
        register(metric)


@hookimpl
def register_datasets(register: RegisterDataset) -> None:
    for name, dataset in {**COOP, **GENERALIZATION}.items():
        register(name, dataset)

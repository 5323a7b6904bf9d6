"""What the core offers by itself, through the same hooks as any plugin."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from promptkit.backbones.base import Backbone
from promptkit.components import Loss, PipelineViews, Projector, PromptGenerator, Scene
from promptkit.data.coop import COOP
from promptkit.data.generalization import GENERALIZATION
from promptkit.hooks import (
    RegisterBackbone,
    RegisterDataset,
    RegisterLoss,
    RegisterProjector,
    RegisterPrompts,
    RegisterRecipe,
    RegisterViews,
    hookimpl,
)
from promptkit.learner import Recipe, read_templates, template_features
from promptkit.tensors import ClassTokens, ImageFeatures, Outputs, TextPrompts

if TYPE_CHECKING:
    import albumentations


class TemplatePrompts(PromptGenerator):
    """Hand-made prompts: one template, or several ensembled, as the 80 of ImageNet. Nothing is learned."""

    @dataclass(frozen=True)
    class Options:
        template: Annotated[
            str, 'a text with one {} for the class name; several, one a line, or "imagenet" (80) are ensembled'
        ] = "a photo of a {}."

    def __init__(self, options: Options, scene: Scene) -> None:
        super().__init__(options, scene)
        self.templates = read_templates(options.template)

    def class_tokens(self, names: Sequence[str]) -> ClassTokens:
        return self.scene.backbone.class_tokens(names, 0)

    def text(self, features: ImageFeatures | None) -> TextPrompts:
        raise NotImplementedError("templates are encoded as captions, by encode")

    def encode(self, features: ImageFeatures | None, classes: ClassTokens) -> Float[Tensor, "1 C 1 D"]:
        return template_features(self.scene, classes.names, self.templates)[None, :, None]


class StandardViews(PipelineViews):
    """One view, as CoOp trains on: random resized crop and horizontal flip."""

    @dataclass(frozen=True)
    class Options:
        min_scale: Annotated[float, "smallest share of the picture that a crop keeps, 0 to 1"] = 0.08
        flip: Annotated[float, "probability of a horizontal flip"] = 0.5

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
    from promptkit.demo import backbone

    return backbone.load_demo_clip(weights)


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


@hookimpl
def register_losses(register: RegisterLoss) -> None:
    register("cross-entropy", CrossEntropy)


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
def register_datasets(register: RegisterDataset) -> None:
    for name, dataset in {**COOP, **GENERALIZATION}.items():
        register(name, dataset)

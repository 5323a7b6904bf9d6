"""MMRL: tokens of a space of their own, mapped into the later blocks of both towers, with an image feature made of them.

Guo and Gu, MMRL: Multi-Modal Representation Learning for Vision-Language Models, CVPR 2025. As `trainers/mmrl.py` and
`clip/model_mmrl.py` of the released code (yunncheng/MMRL).
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from promptkit import ConfigError, hookimpl
from promptkit.components import Loss, PromptGenerator, Scene, read_templates
from promptkit.learner import Learner, Recipe
from promptkit.tensors import ClassTokens, ImageFeatures, ImagePrompts, Outputs, TextPrompts, View


class MMRLPrompts(PromptGenerator):
    """Tokens that enter both towers at a later block, in front of a hand-made prompt and among the patches."""

    @dataclass(frozen=True)
    class Options:
        n_tokens: Annotated[int, "tokens in each block", Ge(1)] = 5
        width: Annotated[int, "of the space that they are learned in", Ge(1)] = 512
        first: Annotated[int, "block that they enter, from 2 on; the last one of a tower with fewer", Ge(2)] = 6
        last: Annotated[int, "block that gets tokens of its own, at most", Ge(2)] = 12
        alpha: Annotated[float, "share of the class token in the logits and in the loss", Ge(0), Le(1)] = 0.7
        template: Annotated[str, "the prompt, with one {} for the class name and a full stop"] = "a photo of a {}."

    def __init__(self, options: Any, scene: Scene) -> None:
        """Raises ConfigError for a template that is none or more than one, and a text tower of one block."""
        super().__init__(options, scene)
        (self.template, *more) = read_templates(options.template)
        if more or not self.template.endswith("."):
            raise ConfigError(f"prompts.template={options.template!r} is not one prompt that ends with a full stop")
        backbone, width = scene.backbone, scene.backbone.intermediate_widths[0]
        depth = min(options.last, backbone.text_depth, len(backbone.intermediate_widths))
        self.first = min(options.first, depth) - 1  # from 0 on
        if not self.first:
            raise ConfigError("MMRL needs towers of more than one block")
        self.tokens = nn.Parameter(0.02 * torch.randn(options.n_tokens, options.width))
        image, text = nn.Linear(options.width, width), nn.Linear(options.width, backbone.text_width)
        n = depth - self.first
        self.to_image, self.to_text = (nn.ModuleList(deepcopy(map_) for _ in range(n)) for map_ in (image, text))
        self.projection = nn.Parameter(width**-0.5 * torch.randn(width, backbone.joint_width))

    def class_tokens(self, names: Sequence[str]) -> ClassTokens:
        phrases = [self.template.format(name)[:-1] for name in names]
        return self.scene.backbone.class_tokens(phrases, self.options.n_tokens)

    def encode(self, features: ImageFeatures | None, classes: ClassTokens) -> Float[Tensor, "1 C 1 D"]:
        tokens = torch.stack([to_text(self.tokens) for to_text in self.to_text])[:, None]
        return self.scene.backbone.encode_text(TextPrompts(None, tokens, self.first), classes)

    def vision(self) -> ImagePrompts:
        tokens = torch.stack([to_image(self.tokens) for to_image in self.to_image])[:, None]
        return ImagePrompts(tokens, self.first, keep=True, projection=self.projection)

    def extra(self, features: ImageFeatures | None, text: Float[Tensor, "1 C 1 D"]) -> Mapping[str, Tensor]:
        return {"alpha": text.new_tensor(self.options.alpha)}


def similarities(view: View) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B C"]]:
    """Cosines of classes with the class token, and with the mean of the learned tokens."""
    assert view.prompts is not None
    text, tokens = view.text[0, :, 0], F.normalize(view.prompts.mean(1), dim=-1)
    return view.image @ text.T, tokens @ text.T


class MMRL(Learner):
    """Classes that were trained on are scored by both features, others by the class token alone."""

    needs = {"prompts": MMRLPrompts}  # noqa: RUF012

    def logits(self, view: View) -> Float[Tensor, "B C"]:
        image, tokens = similarities(view)
        alpha = self.prompts.options.alpha if set(self.classnames) <= set(self.scene.classnames) else 1.0
        return self.scene.backbone.logit_scale * (alpha * image + (1 - alpha) * tokens)


class MMRLLoss(Loss):
    """Cross-entropy of both features, and how far class token and text went from those of frozen CLIP."""

    needs = {"prompts": MMRLPrompts}  # noqa: RUF012

    @dataclass(frozen=True)
    class Options:
        weight: Annotated[float, "weight of the distances", Ge(0)] = 1.0
        template: Annotated[str, "the frozen tower's prompt, with one {} for the class name"] = "a photo of a {}."

    def templates(self) -> Sequence[str]:
        return read_templates(self.options.template, "loss.template")

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        view, teacher, alpha = outputs.views["image"], outputs.teacher, outputs.extra["alpha"]
        assert teacher is not None
        image, tokens = (self.scene.backbone.logit_scale * cosine for cosine in similarities(view))
        return {
            "ce": alpha * F.cross_entropy(image, outputs.label),
            "ce_tokens": (1 - alpha) * F.cross_entropy(tokens, outputs.label),
            "image": self.options.weight * (1 - (view.image * teacher.image).sum(-1).mean()),
            "text": self.options.weight * (1 - (view.text[0, :, 0] * teacher.text).sum(-1).mean()),
        }


DISTANCES = {
    "stanford_cars": 7.0, "fgvc_aircraft": 6.0, "sun397": 6.0, "dtd": 6.0, "food101": 5.0, "oxford_flowers": 4.0,
    "ucf101": 3.0, "imagenet": 0.5, "caltech101": 0.5, "oxford_pets": 0.2, "eurosat": 0.01,
}  # fmt: skip
"""Weights of the distances, of `trainers/config.py`."""


@hookimpl
def register_prompts(register: Callable[[str, type[PromptGenerator]], None]) -> None:
    register("mmrl", MMRLPrompts)


@hookimpl
def register_losses(register: Callable[[str, type[Loss]], None]) -> None:
    register("mmrl", MMRLLoss)


@hookimpl
def register_learners(register: Callable[[str, type[Learner]], None]) -> None:
    register("mmrl", MMRL)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    datasets: dict[str, dict[str, str | int | float | bool]] = {
        name: {"loss.weight": weight} for name, weight in DISTANCES.items()
    }
    datasets["eurosat"] |= {"prompts.width": 2048}
    datasets["imagenet"] |= {"train.epochs": 5, "train.batch_size": 32}
    register(
        "mmrl",
        Recipe(
            summary="MMRL: tokens of a shared space in the later blocks of both towers, and a feature made of them",
            prompts="mmrl",
            loss="mmrl",
            learner="mmrl",
            settings={
                "train.epochs": 10,
                "train.batch_size": 4,
                "train.lr": 0.001,
                "train.optimizer": "adamw",
                "data.shots": 16,
                "views.min_scale": 0.5,
            },
            datasets=datasets,
            paper="Guo and Gu, MMRL: Multi-Modal Representation Learning for Vision-Language Models, CVPR 2025",
        ),
    )

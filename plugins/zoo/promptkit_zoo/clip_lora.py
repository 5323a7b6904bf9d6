"""CLIP-LoRA: low-rank changes of the attention weights of both towers, under a hand-made prompt.

Zanella and Ben Ayed, Low-Rank Few-Shot Adaptation of Vision-Language Models, CVPR 2024 Workshops. As `loralib/layers.py` and
`lora.py` of the released code (MaxZanella/CLIP-LoRA), whose scale is alpha over the square root of the rank.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from jaxtyping import Float
from torch import Tensor, nn

from promptkit import ConfigError, hookimpl
from promptkit.components import PromptGenerator, Scene, read_templates
from promptkit.edits import Delta, Edits, Weight
from promptkit.learner import Recipe
from promptkit.tensors import ClassTokens, ImageFeatures, ImagePrompts, TextPrompts

WEIGHTS: tuple[Weight, ...] = ("q", "k", "v", "out")
SHARES = {
    "all": (0, 1),
    "bottom": (0, 1 / 3),
    "mid": (1 / 3, 2 / 3),
    "up": (2 / 3, 1),
    "half-bottom": (0, 1 / 2),
    "half-up": (1 / 2, 1),
}
"""Which blocks of a tower, as shares of its depth."""


class LowRank(nn.Module):
    """Deltas of some weights in some blocks of a tower, 0 at first."""

    def __init__(self, blocks: Sequence[int], weights: Sequence[Weight], width: int, options: Any) -> None:
        super().__init__()
        self.places = [(block, weight) for block in blocks for weight in weights]
        n, self.options = len(self.places), options
        self.down = nn.Parameter(torch.empty(n, options.rank, width).uniform_(-(width**-0.5), width**-0.5))
        self.up = nn.Parameter(torch.zeros(n, width, options.rank))

    def forward(self) -> Edits:
        scale = self.options.alpha / math.sqrt(self.options.rank)
        dropout = self.options.dropout if self.training else 0.0
        factors = zip(self.places, self.down, self.up, strict=True)
        return Edits({place: Delta(down, up, scale, dropout) for place, down, up in factors})


class LoRAPrompts(PromptGenerator):
    """A hand-made prompt, read by a text tower that is learned, as the image tower is."""

    @dataclass(frozen=True)
    class Options:
        template: Annotated[str, "the prompt, with one {} for the class name and a full stop"] = "a photo of a {}."
        rank: Annotated[int, "of a change", Ge(1)] = 2
        alpha: Annotated[float, "a change is scaled by alpha over the root of its rank"] = 1.0
        dropout: Annotated[float, "share of inputs of a change that are dropped in training", Ge(0), Lt(1)] = 0.25
        weights: Annotated[str, "which weights are changed: some of q, k, v, out"] = "q k v"
        towers: Annotated[Literal["both", "text", "image"], "which towers are changed"] = "both"
        position: Annotated[
            Literal["all", "bottom", "mid", "up", "half-bottom", "half-up"], "which blocks are changed"
        ] = "all"

    def __init__(self, options: Any, scene: Scene) -> None:
        """Raises ConfigError for another weight, and a template that is none or more than one."""
        super().__init__(options, scene)
        (self.template, *more) = read_templates(options.template)
        if more or not self.template.endswith("."):
            raise ConfigError(f"prompts.template={options.template!r} is not one prompt that ends with a full stop")
        weights = [weight for weight in WEIGHTS if weight in options.weights.split()]
        if not weights or len(weights) != len(options.weights.split()):
            raise ConfigError(f"prompts.weights={options.weights!r} are not some of {' '.join(WEIGHTS)}")
        backbone, shares = scene.backbone, SHARES[options.position]
        widths = backbone.intermediate_widths

        def made(depth: int, width: int) -> LowRank:
            first, last = (round(share * depth) for share in shares)
            return LowRank(range(first, last), weights, width, options)

        self.low_rank_text = made(backbone.text_depth, backbone.text_width) if options.towers != "image" else None
        self.low_rank_image = made(len(widths), widths[0]) if options.towers != "text" else None

    def class_tokens(self, names: Sequence[str]) -> ClassTokens:
        return self.scene.backbone.class_tokens([self.template.format(name)[:-1] for name in names], 0)

    def encode(self, features: ImageFeatures | None, classes: ClassTokens) -> Float[Tensor, "1 C 1 D"]:
        edits = self.low_rank_text() if self.low_rank_text else Edits()
        return self.scene.backbone.encode_text(TextPrompts(None, edits=edits), classes)

    def vision(self) -> ImagePrompts | None:
        return ImagePrompts(edits=self.low_rank_image()) if self.low_rank_image else None


@hookimpl
def register_prompts(register: Callable[[str, type[PromptGenerator]], None]) -> None:
    register("clip-lora", LoRAPrompts)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "clip-lora",
        Recipe(
            summary="CLIP-LoRA: low-rank changes of the attention weights of both towers",
            prompts="clip-lora",
            settings={
                "train.epochs": 160,
                "train.lr": 0.0002,
                "train.optimizer": "adamw",
                "train.weight_decay": 0.01,
                "train.warmup_epochs": 0,
                "data.shots": 16,
            },
            paper="Zanella and Ben Ayed, Low-Rank Few-Shot Adaptation of Vision-Language Models, CVPR Workshops 2024",
        ),
    )

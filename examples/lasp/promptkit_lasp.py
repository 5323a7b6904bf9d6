"""LASP's loss: learned texts have to be told apart by hand-made ones.

Bulat and Tzimiropoulos, LASP: Text-to-Text Optimization for Language-Aware Soft Prompting of Vision & Language Models,
CVPR 2023.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from promptkit import hookimpl
from promptkit.components import ContextPrompts, Loss, PromptGenerator, Scene, read_templates
from promptkit.learner import Recipe
from promptkit.tensors import Outputs


class LASPPrompts(ContextPrompts):
    """Learned context vectors, one set for all classes."""


class LASPLoss(Loss):
    """Cross-entropy of the images, and that of the learned texts, which each hand-made prompt tells apart."""

    @dataclass(frozen=True)
    class Options:
        weight: Annotated[float, "weight of the texts' cross-entropy", Ge(0)] = 5.0
        template: Annotated[str, 'hand-made prompts with one {} each, one a line, or "imagenet" (80)'] = "imagenet"

    def __init__(self, options: Any, scene: Scene) -> None:
        """Raises ConfigError for a template without one {}."""
        super().__init__(options, scene)
        self.prompts = read_templates(options.template, "loss.template")

    @cached_property
    def said(self) -> Float[Tensor, "R C D"]:
        """Unit-norm features of R hand-made prompts of each class. They are frozen, so they are computed once."""
        captions = [prompt.format(name) for prompt in self.prompts for name in self.scene.classnames]
        return self.scene.backbone.encode_captions(captions).unflatten(0, (len(self.prompts), -1))

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        text = outputs.views["image"].text[0, :, 0]  # (C D): the same for all images, one prompt for a class
        similarity = torch.einsum("cd,rnd->rcn", text, self.said)
        classes = torch.arange(len(text), device=text.device).expand(len(self.said), -1)
        texts = F.cross_entropy((self.scene.backbone.logit_scale * similarity).flatten(0, 1), classes.flatten())
        return {"ce": F.cross_entropy(outputs.logits, outputs.label), "texts": self.options.weight * texts}


@hookimpl
def register_prompts(register: Callable[[str, type[PromptGenerator]], None]) -> None:
    register("lasp", LASPPrompts)


@hookimpl
def register_losses(register: Callable[[str, type[Loss]], None]) -> None:
    register("lasp", LASPLoss)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "lasp",
        Recipe(
            summary="LASP's loss: learned contexts whose texts hand-made prompts tell apart",
            prompts="lasp",
            loss="lasp",
            settings={
                "train.epochs": 25,
                "train.batch_size": 32,
                "train.lr": 0.032,
                "train.warmup_epochs": 3,
                "data.shots": 16,
            },
            paper="Bulat and Tzimiropoulos, LASP, CVPR 2023",
        ),
    )

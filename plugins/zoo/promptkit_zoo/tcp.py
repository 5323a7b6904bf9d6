"""TCP: each class's hand-made prompt says what the context tokens are from a middle block of the text tower on.

Yao, Zhang and Xu, TCP: Textual-based Class-aware Prompt Tuning for Visual-Language Model, CVPR 2024. As `trainers/tcp.py` and
`trainers/clip_text/model.py` of the released code (htyao89/Textual-based_Class-aware_prompt_tuning).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from promptkit import ConfigError, hookimpl
from promptkit.components import ContextPrompts, Loss, PromptGenerator, Scene, read_templates, template_features
from promptkit.learner import Recipe
from promptkit.tensors import ClassTokens, ImageFeatures, Outputs, TextPrompts


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class TCPPrompts(ContextPrompts):
    """One context for all classes, whose tokens are replaced by those of each class in a later block."""

    @dataclass(frozen=True)
    class Options:
        n_ctx: Annotated[int, "context tokens; ctx_init sets them where it is given", Ge(1)] = 4
        ctx_init: Annotated[str, "words to start from; without them, noise of deviation 0.02"] = ""
        phrase: Annotated[str, "what follows the context, with one {} for the class name"] = "{}"
        template: Annotated[str, "the prompt that each class's tokens are made of"] = "a photo of a {}."
        block: Annotated[int, "at whose input they stand, from 1 on; the last one of a tower with fewer", Ge(1)] = 8

    def __init__(self, options: Any, scene: Scene) -> None:
        """Raises ConfigError for a phrase or a template without one {}, and a text tower of one block."""
        super().__init__(options, scene)
        backbone, tokens = scene.backbone, self.ctx.shape[-2]
        self.templates = read_templates(options.template)
        (self.phrase, *_) = read_templates(options.phrase, "prompts.phrase")
        self.block = min(options.block, backbone.text_depth - 1)
        if not self.block:
            raise ConfigError("TCP needs a text tower of more than one block")
        hidden = backbone.joint_width // 4
        self.meta_net = nn.Sequential(
            nn.Linear(backbone.joint_width, hidden), QuickGELU(), nn.Linear(hidden, tokens * backbone.text_width)
        )
        self.known: WeakKeyDictionary[ClassTokens, Tensor] = WeakKeyDictionary()

    def class_tokens(self, names: Sequence[str]) -> ClassTokens:
        classes = super().class_tokens([self.phrase.format(name) for name in names])
        with torch.inference_mode(False):
            self.known[classes] = template_features(self.scene, names, self.templates)
        return classes

    def encode(self, features: ImageFeatures | None, classes: ClassTokens) -> Float[Tensor, "1 C 1 D"]:
        self.fixed = self.known[classes].to(self.ctx)
        deep = self.meta_net(self.fixed).unflatten(-1, self.ctx.shape[-2:])[None]  # (1 C M W)
        return self.scene.backbone.encode_text(TextPrompts(self.ctx[None], deep, self.block), classes)

    def extra(self, features: ImageFeatures | None, text: Float[Tensor, "1 C 1 D"]) -> Mapping[str, Tensor]:
        """What the hand-made prompts say of the classes, (C D), for the loss."""
        return {"hand_made": self.fixed}


class TCPLoss(Loss):
    """Cross-entropy, and the distance of text features from hand-made ones: the mean over classes of 1 - cosine."""

    needs = {"prompts": TCPPrompts}  # noqa: RUF012

    @dataclass(frozen=True)
    class Options:
        weight: Annotated[float, "weight of the distance", Ge(0)] = 8.0

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        text = outputs.views["image"].text[0, :, 0]
        distance = 1 - F.cosine_similarity(text, outputs.extra["hand_made"], dim=1, eps=1e-7).mean()
        return {"ce": F.cross_entropy(outputs.logits, outputs.label), "knowledge": self.options.weight * distance}


PHRASES = {
    "oxford_pets": ("{}, a type of pet", "a photo of a {}, a type of pet."),
    "oxford_flowers": ("{}, a type of flower", "a photo of a {}, a type of flower."),
    "fgvc_aircraft": ("{}, a type of aircraft", "a photo of an aircraft {}."),
    "dtd": ("{} texture", "a photo of a {}, a type of texture."),
    "eurosat": ("{}", "a centered satellite photo of {}."),
    "stanford_cars": ("{}, a type of car", "a photo of a {}."),
    "food101": ("{}, a type of food", "a photo of a {}, a type of food."),
    "ucf101": ("person doing {}", "a photo of a person doing {}."),
}
"""`CUSTOM_TEMPLATES` behind the context, and `CUSTOM_TEMPLATES_ori`."""


@hookimpl
def register_prompts(register: Callable[[str, type[PromptGenerator]], None]) -> None:
    register("tcp", TCPPrompts)


@hookimpl
def register_losses(register: Callable[[str, type[Loss]], None]) -> None:
    register("tcp", TCPLoss)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "tcp",
        Recipe(
            summary="TCP: contexts that each class's hand-made prompt replaces in a middle block",
            prompts="tcp",
            loss="tcp",
            settings={"train.epochs": 50, "train.optimizer": "adam", "train.lr": 0.002, "data.shots": 16},
            datasets={
                name: {"prompts.phrase": phrase, "prompts.template": template}
                for name, (phrase, template) in PHRASES.items()
            },
            paper="Yao et al., TCP: Textual-based Class-aware Prompt Tuning for Visual-Language Model, CVPR 2024",
        ),
    )

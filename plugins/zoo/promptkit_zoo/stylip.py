"""StyLIP: context tokens that the picture's style makes at every block, and texts with its content mixed into them.

Bose et al., StyLIP: Multi-Scale Style-Conditioned Prompt Learning for CLIP-based Domain Generalization, WACV 2024. None of
its code was released. As a re-implementation, `trainers/stylip.py` of mayone23/testodg.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from promptkit import ConfigError, hookimpl
from promptkit.backbones.base import Intermediates
from promptkit.components import PromptGenerator, Scene
from promptkit.learner import Recipe
from promptkit.tensors import ClassTokens, ImageFeatures, TextPrompts


class StyLIPPrompts(PromptGenerator):
    """Projectors of each block's mean and deviation make the context; a projector of all means changes the text features.

    For block t with mean mu_t and deviation sigma_t over tokens, both (B V), linear maps S_t, C, P and F:

        context = mean over t of S_t([mu_t, sigma_t, mu_t])     (B W), the same for every token
        content = P([C(mu_1), .., C(mu_T)])                     (B D)
        text    = F([content, text feature under the context])  (B C D), to unit norm
    """

    conditional = True

    @dataclass(frozen=True)
    class Options:
        n_ctx: Annotated[int, "context tokens", Ge(1)] = 4
        width: Annotated[int, "what each block's mean is mapped to", Ge(1)] = 256

    def __init__(self, options: Any, scene: Scene) -> None:
        """Raises ConfigError for an image tower whose blocks differ in width."""
        super().__init__(options, scene)
        backbone, widths = scene.backbone, scene.backbone.intermediate_widths
        if len({*widths}) > 1:
            raise ConfigError(
                f"StyLIP maps all blocks by one projector, and those of this tower are {', '.join(map(str, widths))} wide",
                "pick a --backbone with a ViT",
            )
        width, joint = widths[0], backbone.joint_width
        self.style = nn.ModuleList(nn.Linear(3 * width, backbone.text_width) for _ in widths)
        self.content = nn.Linear(width, options.width)
        self.contents = nn.Linear(options.width * len(widths), joint)
        self.fusion = nn.Linear(2 * joint, joint)

    def intermediates(self) -> Intermediates:
        return Intermediates(mean_and_deviation)

    def class_tokens(self, names: Sequence[str]) -> ClassTokens:
        return self.scene.backbone.class_tokens(names, self.options.n_ctx)

    def encode(self, features: ImageFeatures | None, classes: ClassTokens) -> Float[Tensor, "B C 1 D"]:
        assert features is not None, "conditional prompts need an image"
        moments = features.intermediates
        style = [linear(block[:, [0, 1, 0]].flatten(1)) for linear, block in zip(self.style, moments, strict=True)]
        token = torch.stack(style).mean(0)[:, None, None, None]
        context = token.expand(-1, -1, -1, self.options.n_ctx, -1)
        text = self.scene.backbone.encode_text(TextPrompts(context), classes)
        content = self.contents(torch.cat([self.content(block[:, 0]) for block in moments], 1))
        both = torch.cat([content[:, None, None].expand_as(text), text], -1)
        return F.normalize(self.fusion(both), dim=-1)


def mean_and_deviation(tokens: Float[Tensor, "B N V"]) -> Float[Tensor, "B 2 V"]:
    """Mean and population deviation over all tokens, class token included; 2.3e-8 keeps the root's slope finite."""
    tokens = tokens.float()
    mean = tokens.mean(1)
    squares = (tokens - mean[:, None]).square().sum(1)
    return torch.stack([mean, ((squares + 2.3e-8) / tokens.shape[1]).sqrt()], dim=1)


@hookimpl
def register_prompts(register: Callable[[str, type[PromptGenerator]], None]) -> None:
    register("stylip", StyLIPPrompts)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "stylip",
        Recipe(
            summary="StyLIP: contexts from the style of every block of the image tower, texts with the picture's content",
            prompts="stylip",
            settings={
                "train.epochs": 5,
                "train.batch_size": 4,
                "train.lr": 0.001,
                "train.optimizer": "adamw",
                "train.weight_decay": 1e-5,
                "data.shots": 16,
            },
            paper="Bose et al., StyLIP: Multi-Scale Style-Conditioned Prompt Learning, WACV 2024",
        ),
    )

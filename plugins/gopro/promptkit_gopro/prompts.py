"""Contexts from the style and content of an image, read at the blocks of the image tower."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from promptkit import ConfigError
from promptkit.backbones.base import Intermediates
from promptkit.components import ContextOptions, ContextPrompts, Scene
from promptkit.tensors import ImageFeatures, TextPrompts
from promptkit_gopro.views import VIEWS


class GOProPrompts(ContextPrompts):
    """Learned context vectors that the image's style and content, read at each block that the image tower offers, shift.

    For block t with mean mu_t and deviation sigma_t over tokens, both (B V), linear maps S_t and C_t to the text width
    and a linear map rho over the T blocks:

        style_t   = S_t([mu_t, sigma_t])          or, with style=average, S_t((mu_t + sigma_t) / 2)
        content_t = C_t(mu_t)
        shift     = rho((style_t + content_t) / 2 for t = 1..T)         (B W)
        context_m = ctx_m + shift                                       the same shift for every token

    With style=average, heads=shared and init=torch this is the arithmetic of the released code (`trainers/gopro.py`,
    `PromptLearner`). As there, no gradient reaches the vision tower.
    """

    conditional = True

    @dataclass(frozen=True)
    class Options(ContextOptions):
        style: Annotated[
            Literal["separate", "average"], "mean and deviation side by side (paper), or their average (released code)"
        ] = "separate"
        heads: Annotated[
            Literal["per-view", "shared"], "a head over the blocks for each view (paper), or one (released code)"
        ] = "per-view"
        init: Annotated[
            Literal["small", "torch"],
            "heads that start near 0, so that contexts start near ctx_init; or torch's default",
        ] = "small"

    def __init__(self, options: Options, scene: Scene) -> None:
        super().__init__(options, scene)
        widths, text_width = scene.backbone.intermediate_widths, scene.backbone.text_width
        moments = 2 if options.style == "separate" else 1
        self.style = nn.ModuleList(nn.Linear(moments * width, text_width) for width in widths)
        self.content = nn.ModuleList(nn.Linear(width, text_width) for width in widths)
        names = VIEWS if options.heads == "per-view" else ("shared",)
        heads = {name: nn.Linear(len(widths), 1) for name in names}
        if options.init == "small":
            # A block's outputs are about 1 and token embeddings about 0.02: torch's default would drown the context.
            for head in heads.values():
                nn.init.normal_(head.weight, std=1e-3)
                nn.init.zeros_(head.bias)
        self.rho = nn.ModuleDict(heads)

    def intermediates(self) -> Intermediates:
        return Intermediates(mean_and_deviation)

    def text(self, features: ImageFeatures | None) -> TextPrompts:
        """Contexts (B 1 1 M W), the views along B.

        Raises ConfigError for a view that has no head.
        """
        assert features is not None, "conditional prompts need an image"
        blocks = torch.unflatten(self.style_and_content(features.intermediates), 0, (len(features.views), -1))
        shift = torch.cat(
            [self.head(view)(part.mT).squeeze(-1) for view, part in zip(features.views, blocks, strict=True)]
        )
        return TextPrompts(self.ctx + shift[:, None, None, None])

    def style_and_content(self, intermediates: tuple[Float[Tensor, "B 2 _"], ...]) -> Float[Tensor, "B T W"]:
        """What each block says about the image, at the text width: "feature rescaling" in the released code."""
        merge = torch.flatten if self.options.style == "separate" else torch.mean
        style = [linear(merge(intermediate, 1)) for linear, intermediate in zip(self.style, intermediates, strict=True)]
        content = [linear(intermediate[:, 0]) for linear, intermediate in zip(self.content, intermediates, strict=True)]
        return (torch.stack(style, 1) + torch.stack(content, 1)) / 2

    def head(self, view: str) -> nn.Module:
        name = "shared" if self.options.heads == "shared" else view
        if name not in self.rho:
            raise ConfigError(
                f"prompts 'gopro' have a head for each of the views {', '.join(self.rho)}, and none for {view!r}",
                "--set prompts.heads=shared uses one head for all views",
            )
        return self.rho[name]


def mean_and_deviation(tokens: Float[Tensor, "B N V"]) -> Float[Tensor, "B 2 V"]:
    """Mean and population deviation over all tokens, class token included, in float32.

    The 2.3e-8 of the released code is inside the sum, before the division by N: it keeps the root's slope finite.
    """
    tokens = tokens.float()
    mean = tokens.mean(1)
    squares = (tokens - mean[:, None]).square().sum(1)
    return torch.stack([mean, ((squares + 2.3e-8) / tokens.shape[1]).sqrt()], dim=1)

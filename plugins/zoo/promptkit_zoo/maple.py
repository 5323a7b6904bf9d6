"""MaPLe: deep prompts in the text tower, and in the image tower what linear maps make of them.

Khattak et al., MaPLe: Multi-modal Prompt Learning, CVPR 2023. As `trainers/maple.py` and `clip/model.py` of the released code
(muzairkhattak/multimodal-prompt-learning): of "a photo of a", the first two words are where the two tokens start, and "of a"
stays as it is; the maps of all blocks but the first start as copies of one.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from promptkit import hookimpl
from promptkit.components import ContextPrompts, PromptGenerator, Scene
from promptkit.learner import Recipe
from promptkit.tensors import ImageFeatures, TextPrompts


class MaPLePrompts(ContextPrompts):
    """Contexts for the first blocks of the text tower, mapped block by block to prompts of the image tower."""

    @dataclass(frozen=True)
    class Options:
        n_ctx: Annotated[int, "learned tokens in each tower; further words of ctx_init stay as they are", Ge(1)] = 2
        ctx_init: Annotated[str, "words to start from; without them, noise of deviation 0.02"] = "a photo of a"
        depth: Annotated[int, "blocks with prompts, the first included; fewer where a tower has fewer", Ge(1)] = 9

    def __init__(self, options: Any, scene: Scene) -> None:
        """Raises ConfigError for an n_ctx where no word of ctx_init ends."""
        super().__init__(options, scene)
        self.learn_first(options.n_ctx)
        backbone = scene.backbone
        depth = min(options.depth, backbone.text_depth, len(backbone.intermediate_widths))
        tokens = self.ctx.shape[-2]
        self.deep = nn.Parameter(0.02 * torch.randn(depth - 1, tokens, backbone.text_width))
        first, deeper = (nn.Linear(backbone.text_width, backbone.intermediate_widths[0]) for _ in range(2))
        self.couple = nn.ModuleList([first, *(deepcopy(deeper) for _ in range(depth - 1))])

    def text(self, features: ImageFeatures | None) -> TextPrompts:
        return TextPrompts(self.ctx[None], self.deep[:, None] if len(self.deep) else None)

    def vision(self) -> Float[Tensor, "J 1 M V"]:
        texts = torch.cat([self.ctx[0], self.deep])
        return torch.stack([couple(text) for couple, text in zip(self.couple, texts, strict=True)])[:, None]


@hookimpl
def register_prompts(register: Callable[[str, type[PromptGenerator]], None]) -> None:
    register("maple", MaPLePrompts)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "maple",
        Recipe(
            summary="MaPLe: deep prompts in both towers, the image's made from the text's",
            prompts="maple",
            settings={"train.epochs": 5, "train.batch_size": 4, "train.lr": 0.0035, "data.shots": 16},
            paper="Khattak et al., MaPLe: Multi-modal Prompt Learning, CVPR 2023",
        ),
    )

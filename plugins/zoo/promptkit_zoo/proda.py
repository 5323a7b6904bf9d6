"""ProDA: a Gaussian of classifiers, which a collection of prompts spans, and whose bound of the expected loss is minimised.

Lu et al., Prompt Distribution Learning, CVPR 2022. Written after the paper's description and compared with no code: the
authors' repository (bbbdylan/proda) holds none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from promptkit import hookimpl
from promptkit.backbones.base import Position
from promptkit.components import ContextPrompts, Loss, PromptGenerator, Scene
from promptkit.learner import Recipe
from promptkit.tensors import ClassTokens, ImageFeatures, Outputs, TextPrompts


class ProDAPrompts(ContextPrompts):
    """K prompts for a class: a quarter with the name in front, a quarter with it in the middle, the rest at the end."""

    @dataclass(frozen=True)
    class Options:
        n_prompts: Annotated[int, "prompts of the collection", Ge(4)] = 32
        n_batch: Annotated[int, "prompts of it in a training step", Ge(2)] = 4
        n_ctx: Annotated[int, "context tokens of a prompt", Ge(2)] = 16
        ctx_init: Annotated[str, "words to start from; without them, noise of deviation 0.02"] = ""

    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        quarter = options.n_prompts // 4
        self.positions: dict[Position, range] = {
            "front": range(quarter),
            "middle": range(quarter, 2 * quarter),
            "end": range(2 * quarter, options.n_prompts),
        }
        self.known: dict[tuple[tuple[str, ...], Position], ClassTokens] = {}
        self.drawn = list(range(options.n_prompts))

    def encode(self, features: ImageFeatures | None, classes: ClassTokens) -> Float[Tensor, "1 C K D"]:
        """Of all prompts, or of those drawn for this step."""
        kept = list(range(self.options.n_prompts))
        if self.training:
            kept = sorted(torch.randperm(self.options.n_prompts)[: self.options.n_batch].tolist())
        self.drawn = kept
        return self.placed(classes.names)

    def placed(self, names: tuple[str, ...]) -> Float[Tensor, "1 C K D"]:
        """The texts of the drawn prompts, each with the names in its place."""
        parts = []
        for position, places in self.positions.items():
            if rows := [row for row in self.drawn if row in places]:
                key = names, position
                if key not in self.known:
                    self.known[key] = self.scene.backbone.class_tokens(names, self.ctx.shape[-2], position)
                parts.append(self.scene.backbone.encode_text(TextPrompts(self.ctx[None, :, rows]), self.known[key]))
        return torch.cat(parts, 2)

    def extra(self, features: ImageFeatures | None, text: Float[Tensor, "1 C K D"]) -> Mapping[str, Tensor]:
        """The drawn prompts without a class name (K D)."""
        return {"nameless": self.placed(("",))[0, 0]}


class ProDALoss(Loss):
    """The bound of the expected cross-entropy under the Gaussian of the classifiers, and the prompts' similarity."""

    @dataclass(frozen=True)
    class Options:
        weight: Annotated[float, "weight of the similarity", Ge(0)] = 0.1

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        view, scale = outputs.views["image"], self.scene.backbone.logit_scale
        scores = scale * torch.einsum("bd,ckd->bkc", view.image, view.text[0]).float()  # (B K C)
        mean = scores.mean(1)
        apart = scores - mean[:, None]
        # z' A z of a class against the label's: the variance of the difference of their scores.
        own = apart.gather(2, outputs.label[:, None, None].expand(-1, apart.shape[1], 1))
        spread = (apart - own).square().mean(1)
        bound = F.cross_entropy(mean + spread / 2, outputs.label)
        said = F.normalize(outputs.extra["nameless"].float(), dim=-1)
        pairs = (said @ said.T).abs() - torch.eye(len(said), device=said.device)
        similar = pairs.sum() / (len(said) * (len(said) - 1))
        return {"bound": bound, "similarity": self.options.weight * similar}


@hookimpl
def register_prompts(register: Callable[[str, type[PromptGenerator]], None]) -> None:
    register("proda", ProDAPrompts)


@hookimpl
def register_losses(register: Callable[[str, type[Loss]], None]) -> None:
    register("proda", ProDALoss)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "proda",
        Recipe(
            summary="ProDA: a Gaussian of classifiers that a collection of prompts spans",
            prompts="proda",
            loss="proda",
            settings={"train.epochs": 100, "train.batch_size": 20, "train.lr": 0.001, "data.shots": 16},
            paper="Lu et al., Prompt Distribution Learning, CVPR 2022",
        ),
    )

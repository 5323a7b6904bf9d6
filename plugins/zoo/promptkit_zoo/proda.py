"""ProDA: a Gaussian of classifiers that a collection of prompts spans; a bound of its expected loss is minimised.

Lu et al., Prompt Distribution Learning, CVPR 2022. The authors' repository (bbbdylan/proda) holds no code. As
`trainers/classification/proda.py` of ml-stat-Sustech/CLIP_Calibration, whose bound Cogito2012/PLID computes alike
(`models/losses.py`): the channels of a classifier are taken as independent, and the sum of squares over prompts is divided
by one more than there are prompts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from promptkit import ConfigError, hookimpl
from promptkit.backbones.base import Position
from promptkit.components import ContextPrompts, Loss, PromptGenerator, Scene
from promptkit.learner import Recipe
from promptkit.tensors import ClassTokens, ImageFeatures, Outputs, TextPrompts


class ProDAPrompts(ContextPrompts):
    """K prompts for a class: a quarter with the name in front, a quarter with it in the middle, the rest at the end.

    A training step takes some of them, each once before any comes again.
    """

    @dataclass(frozen=True)
    class Options:
        n_prompts: Annotated[int, "prompts of the collection", Ge(4)] = 32
        n_batch: Annotated[int, "prompts of it in a training step, which divide it", Ge(2)] = 4
        n_ctx: Annotated[int, "context tokens of a prompt", Ge(2)] = 16
        ctx_init: Annotated[str, "words to start from; without them, noise of deviation 0.02"] = ""

    seed: Tensor
    taken: Tensor

    def __init__(self, options: Any, scene: Scene) -> None:
        """Raises ConfigError where the prompts of a step don't divide the collection."""
        super().__init__(options, scene)
        n = options.n_prompts
        if n % options.n_batch:
            raise ConfigError(f"prompts.n_batch={options.n_batch} does not divide prompts.n_prompts={n}")
        self.positions: dict[Position, range] = {
            "front": range(n // 4),
            "middle": range(n // 4, n // 4 * 2),
            "end": range(n // 4 * 2, n),
        }
        self.known: dict[tuple[tuple[str, ...], Position], ClassTokens] = {}
        self.register_buffer("seed", torch.randint(2**31, ()))
        self.register_buffer("taken", torch.zeros((), dtype=torch.long))

    def encode(self, features: ImageFeatures | None, classes: ClassTokens) -> Float[Tensor, "1 C K D"]:
        """Of all prompts, or of those that this step takes."""
        drawn = self.draw() if self.training else range(self.options.n_prompts)
        parts = []
        for position, places in self.positions.items():
            if rows := [row for row in drawn if row in places]:
                key = classes.names, position
                if key not in self.known:
                    self.known[key] = self.scene.backbone.class_tokens(classes.names, self.ctx.shape[-2], position)
                parts.append(self.scene.backbone.encode_text(TextPrompts(self.ctx[None, :, rows]), self.known[key]))
        return torch.cat(parts, 2)

    def draw(self) -> list[int]:
        """The next prompts, in an order that is another when all have been taken; the same in every process."""
        n = self.options.n_prompts
        turn, first = divmod(int(self.taken), n)
        self.taken += self.options.n_batch
        order = torch.randperm(n, generator=torch.Generator().manual_seed(int(self.seed) + turn)).tolist()
        return sorted(order[first : first + self.options.n_batch])

    def extra(self, features: ImageFeatures | None, text: Float[Tensor, "1 C K D"]) -> Mapping[str, Tensor]:
        """All prompts without a class name (K D)."""
        return {"nameless": self.scene.backbone.encode_text(TextPrompts(self.ctx[None]), self.nobody)[0, 0]}

    @cached_property
    def nobody(self) -> ClassTokens:
        """A class without a name."""
        return self.scene.backbone.class_tokens(("",), self.ctx.shape[-2])


class ProDALoss(Loss):
    """The bound of the expected cross-entropy under the Gaussian of the classifiers, and the prompts' similarity.

    With classifiers w (C K D) of mean m, a picture z and its label y, over the channels d:

        bound = cross-entropy of  s z.m_c + s^2/2 sum_d z_d^2 var_d(w_c - w_y)
    """

    needs: ClassVar[Mapping[str, type]] = {"prompts": ProDAPrompts}

    @dataclass(frozen=True)
    class Options:
        weight: Annotated[float, "weight of the similarity", Ge(0)] = 0.1

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        view, scale, label = outputs.views["image"], self.scene.backbone.logit_scale, outputs.label
        text, squares = view.text[0].float(), view.image.float().square()
        apart = text - text.mean(1, keepdim=True)
        spread = squares @ apart.square().sum(1).T  # (B C)
        both = torch.einsum("bd,bkd,ckd->bc", squares, apart[label], apart)
        spread = (spread + spread.gather(1, label[:, None]) - 2 * both) / (text.shape[1] + 1)
        bound = F.cross_entropy(outputs.logits.float() + scale**2 / 2 * spread, label)
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

"""Tip-Adapter: zero-shot CLIP, plus a cache of the training pictures' features that votes for their classes.

Zhang et al., Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification, ECCV 2022. The
released code (gaopengcuhk/Tip-Adapter) averages each picture's key over ten random crops and searches alpha and beta on the
val split; here a key is one crop, and both are options.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from promptkit import ConfigError, hookimpl
from promptkit.components import PromptGenerator, Scene, TemplatePrompts
from promptkit.learner import Learner, Recipe
from promptkit.tensors import Batch, View


class TipAdapterCache(TemplatePrompts):
    """A hand-made prompt, and keys (C S D) with S places for the pictures of each class."""

    class_specific = True
    filled: Tensor

    @dataclass(frozen=True)
    class Options:
        places: Annotated[int, "most training pictures of a class, over all domains", Ge(1)] = 16
        alpha: Annotated[float, "weight of the cache"] = 1.0
        beta: Annotated[float, "how sharply a key answers"] = 5.5
        template: Annotated[str, "the prompt, with one {} for the class name"] = "a photo of a {}."

    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        shape = len(scene.classnames), options.places
        self.keys = nn.Parameter(torch.zeros(*shape, scene.backbone.joint_width))
        self.register_buffer("filled", torch.zeros(shape))

    @torch.no_grad()
    def add(self, features: Float[Tensor, "B D"], label: Tensor) -> None:
        """Raises ConfigError when a class has more pictures than places."""
        for key, row in zip(features, label.tolist(), strict=True):
            place = int(self.filled[row].sum())
            if place == self.options.places:
                name = self.scene.classnames[row]
                raise ConfigError(
                    f"class {name!r} has more than prompts.places={place} training pictures",
                    "raise it with --set prompts.places=..., or train on fewer with --shots",
                )
            self.keys[row, place] = key
            self.filled[row, place] = 1

    def votes(self, image: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Of all keys of a class, alpha exp(-beta (1 - key . image))."""
        affinity = torch.einsum("bd,csd->bcs", image, self.keys)
        answers = (-self.options.beta * (1 - affinity)).exp() * self.filled
        votes: Tensor = self.options.alpha * answers.sum(-1)
        return votes


class TipAdapter(Learner):
    """Fills the cache before the first step; training then moves its keys."""

    prompts: TipAdapterCache
    needs: ClassVar[Mapping[str, type]] = {"prompts": TipAdapterCache}

    @torch.no_grad()
    def start(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            self.prompts.add(self.encode_image(batch.views["image"]).pooled, batch.label)

    def logits(self, view: View) -> Float[Tensor, "B C"]:
        votes = self.prompts.votes(view.image)
        return super().logits(view) + (votes if self.class_rows is None else votes[:, self.class_rows])


TipAdapterCache.needs = {"learner": TipAdapter}  # no other fills it


@hookimpl
def register_prompts(register: Callable[[str, type[PromptGenerator]], None]) -> None:
    register("tip-adapter", TipAdapterCache)


@hookimpl
def register_learners(register: Callable[[str, type[Learner]], None]) -> None:
    register("tip-adapter", TipAdapter)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "tip-adapter",
        Recipe(
            summary="Tip-Adapter-F: zero-shot CLIP and a cache of training features, whose keys are trained",
            prompts="tip-adapter",
            learner="tip-adapter",
            settings={
                "train.epochs": 20,
                "train.batch_size": 256,
                "train.lr": 0.001,
                "train.optimizer": "adamw",
                "train.weight_decay": 0.01,
                "train.warmup_epochs": 0,
                "views.min_scale": 0.5,
                "data.shots": 16,
            },
            datasets={"imagenet": {"prompts.template": "imagenet-simple"}},
            paper="Zhang et al., Tip-Adapter, ECCV 2022",
        ),
    )

"""CoPrompt: MaPLe's prompts and two adapters, whose features stay near frozen CLIP's of another view and another sentence.

Roy and Etemad, Consistency-guided Prompt Learning for Vision-Language Models, ICLR 2024. As `trainers/coprompt.py` of the
released code (ShuvenduRoy/CoPrompt).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Le
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from promptkit import hookimpl
from promptkit.backbones.base import FeatureSpec, ImageSpec
from promptkit.components import Loss, NoOptions, PlainViews, Projector, Scene, Views
from promptkit.learner import Learner, Recipe
from promptkit.tensors import Batch, ImageFeatures, Outputs


class CoPromptViews(Views):
    """Two RandAugments of the picture: one for the learner, one for frozen CLIP."""

    @dataclass(frozen=True)
    class Options:
        operations: Annotated[int, "of a RandAugment", Ge(1)] = 2
        magnitude: Annotated[int, "of each, of 30", Ge(0), Le(30)] = 10

    names = ("image", "second")

    def __init__(self, options: Any, image: ImageSpec) -> None:
        super().__init__(options, image)
        from torchvision.transforms import RandAugment

        self.augment = RandAugment(options.operations, options.magnitude)
        self.plain = PlainViews(NoOptions(), image)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        picture, views = Image.fromarray(image), {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**63)))
            for name in self.names:
                views[name] = self.plain(np.asarray(self.augment(picture)), rng)["image"]
        return views


class CoPromptAdapters(Projector):
    """Features of each tower with a share of what an adapter of two layers makes of them."""

    @dataclass(frozen=True)
    class Options:
        image: Annotated[float, "share of the adapter's output in image features, 0 to 1"] = 0.1
        text: Annotated[float, "share in text features"] = 0.2

    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        self.image_adapter, self.text_adapter = (adapter(scene.backbone.joint_width) for _ in range(2))

    def image(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        share = self.options.image
        return F.normalize(share * self.image_adapter(features) + (1 - share) * features, dim=-1)

    def text(self, features: Float[Tensor, "#B C K D"]) -> Float[Tensor, "#B C K D"]:
        share = self.options.text
        return F.normalize(share * self.text_adapter(features) + (1 - share) * features, dim=-1)


def adapter(width: int) -> nn.Sequential:
    down, up = nn.Linear(width, width // 4, bias=False), nn.Linear(width // 4, width, bias=False)
    return nn.Sequential(down, nn.ReLU(), up, nn.ReLU())


class CoPrompt(Learner):
    """Shows the second view to frozen CLIP alone."""

    def required_features(self) -> FeatureSpec | None:
        return None

    def image_features(self, batch: Batch) -> ImageFeatures:
        if "second" not in batch.views:
            return super().image_features(batch)
        seen = replace(self.encode_image(batch.views["image"]), prompts=None)
        frozen = self.scene.backbone.encode_image(batch.views["second"], None, self.prompts.intermediates())
        return replace(ImageFeatures.cat([seen, frozen]), views=("image", "second"))


class CoPromptLoss(Loss):
    """Cross-entropy, and 1 - cosine to frozen CLIP's features: of the other view, and of a sentence about each class."""

    views = ("image", "second")
    described = True
    needs: ClassVar[Mapping[str, type]] = {"learner": CoPrompt}

    @dataclass(frozen=True)
    class Options:
        weight: Annotated[float, "weight of both distances", Ge(0)] = 1.0

    @cached_property
    def said(self) -> list[Float[Tensor, "S D"]]:
        """Unit-norm features of the sentences about each class."""
        texts = [self.scene.sentences(name) for name in self.scene.classnames]
        features = self.scene.backbone.encode_captions([one for text in texts for one in text])
        return list(torch.split(features, [len(text) for text in texts]))

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        view, frozen = outputs.views["image"], outputs.views["second"].image
        # One place for all classes, as theirs have equally many sentences.
        place = int(torch.randint(max(map(len, self.said)), ()))
        sentences = torch.stack([said[place % len(said)] for said in self.said])
        text = (view.text_projected[0, :, 0] * sentences).sum(-1)
        image = (view.image_projected * frozen).sum(-1)
        return {
            "ce": F.cross_entropy(outputs.logits, outputs.label),
            "text": self.options.weight * (1 - text.mean()),
            "image": self.options.weight * (1 - image.mean()),
        }


@hookimpl
def register_views(register: Callable[[str, type[Views]], None]) -> None:
    register("coprompt", CoPromptViews)


@hookimpl
def register_projectors(register: Callable[[str, type[Projector]], None]) -> None:
    register("coprompt", CoPromptAdapters)


@hookimpl
def register_losses(register: Callable[[str, type[Loss]], None]) -> None:
    register("coprompt", CoPromptLoss)


@hookimpl
def register_learners(register: Callable[[str, type[Learner]], None]) -> None:
    register("coprompt", CoPrompt)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "coprompt",
        Recipe(
            summary="CoPrompt: MaPLe's prompts and adapters, consistent with frozen CLIP",
            prompts="maple",
            views="coprompt",
            projector="coprompt",
            loss="coprompt",
            learner="coprompt",
            settings={"train.epochs": 8, "train.batch_size": 4, "train.lr": 0.0035, "data.shots": 16},
            paper="Roy and Etemad, Consistency-guided Prompt Learning, ICLR 2024",
        ),
    )

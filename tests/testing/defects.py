"""A sound plugin, and one for each broken contract. Every defect is the smallest change of the sound one."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from promptkit import hookimpl
from promptkit.backbones.base import Backbone, ImageSpec
from promptkit.components import ContextPrompts, Loss, Projector, PromptGenerator, Scene, Views
from promptkit.learner import Learner, Recipe
from promptkit.tensors import Batch, ClassTokens, ImageFeatures, Outputs, TextPrompts, View
from promptkit.testing import tiny_backbone


class Sound(ContextPrompts):
    """Contexts that the image shifts."""

    conditional = True

    @dataclass(frozen=True)
    class Options:
        n_ctx: Annotated[int, "context tokens"] = 2
        ctx_init: Annotated[str, "words to start from"] = ""
        strength: Annotated[float | None, "of the shift"] = 1.0

    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        self.shift = nn.Linear(scene.backbone.joint_width, scene.backbone.text_width)

    def text(self, features: ImageFeatures | None) -> TextPrompts:
        assert features is not None
        return TextPrompts(self.ctx + self.shift(features.pooled)[:, None, None, None])


class SoundProjector(Projector):
    """A linear map of both."""

    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        self.map = nn.Linear(scene.backbone.joint_width, 7)

    def image(self, features: Tensor) -> Tensor:
        return F.normalize(self.map(features), dim=-1)

    def text(self, features: Tensor) -> Tensor:
        return F.normalize(self.map(features), dim=-1)


class SoundViews(Views):
    """The picture, and the picture with noise on it."""

    names = ("image", "noisy")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        height, width = self.image.size
        rows, columns = (
            np.linspace(0, side - 1, n).astype(int) for side, n in zip(image.shape[:2], (height, width), strict=True)
        )
        pixels = image[rows][:, columns].transpose(2, 0, 1).astype(np.float32) / 255 - 0.5
        return {"image": pixels, "noisy": pixels + rng.normal(size=pixels.shape).astype(np.float32)}


class SoundLoss(Loss):
    """Cross-entropy, and agreement of the two views."""

    views = ("image", "noisy")

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        image, noisy = (outputs.views[name] for name in ("image", "noisy"))
        return {
            "ce": F.cross_entropy(outputs.logits, outputs.label),
            "agreement": F.mse_loss(image.text_projected, noisy.text_projected),
        }


# Options.


class MutableOptions(Sound):
    @dataclass
    class Options:
        n_ctx: Annotated[int, "context tokens"] = 2
        ctx_init: Annotated[str, "words"] = ""


class PlainOptions(Sound):
    class Options:
        n_ctx = 2
        ctx_init = ""


class NoHelp(Sound):
    @dataclass(frozen=True)
    class Options:
        n_ctx: int = 2
        ctx_init: Annotated[str, "words"] = ""


class ListOption(Sound):
    @dataclass(frozen=True)
    class Options:
        n_ctx: Annotated[int, "context tokens"] = 2
        ctx_init: Annotated[str, "words"] = ""
        depths: Annotated[tuple[int, ...], "blocks"] = (1, 2)


class NoDefault(Sound):
    @dataclass(frozen=True)
    class Options:
        n_ctx: Annotated[int, "context tokens"]
        ctx_init: Annotated[str, "words"] = ""


# Prompt generators.


class WrongShape(Sound):
    def text(self, features: ImageFeatures | None) -> TextPrompts:
        assert features is not None
        shift = self.shift(features.pooled)[:, None, None, None]
        return TextPrompts(torch.cat([self.ctx + shift] * 2, dim=3))


class Unannounced(Sound):
    conditional = False


class NoNorm(Sound):
    def encode(self, features: ImageFeatures | None, classes: ClassTokens) -> Tensor:
        return 2 * super().encode(features, classes)


class Unreached(Sound):
    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        self.forgotten = nn.Parameter(torch.zeros(3))


class Detached(Sound):
    def text(self, features: ImageFeatures | None) -> TextPrompts:
        return TextPrompts(super().text(features).context.detach())


class ChangesBackbone(Sound):
    def text(self, features: ImageFeatures | None) -> TextPrompts:
        if self.training:
            with torch.no_grad():
                next(self.scene.backbone.parameters()).mul_(1.01)
        return super().text(features)


class OpensBackbone(Sound):
    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        scene.backbone.requires_grad_(True)


class OwnsBackbone(Sound):
    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        self.backbone = scene.backbone


class LeavesHook(Sound):
    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        self.hooked = False

    def text(self, features: ImageFeatures | None) -> TextPrompts:
        if self.training and not self.hooked:
            self.hooked = True
            block = self.scene.backbone.image_tower.blocks[0]  # type: ignore[attr-defined]
            block.register_forward_hook(lambda module, args, output: output + 0.1 * torch.ones_like(output).cumsum(-1))
        return super().text(features)


class LooksAround(Sound):
    def text(self, features: ImageFeatures | None) -> TextPrompts:
        assert features is not None
        return TextPrompts(self.ctx + self.shift(features.pooled - features.pooled.mean(0))[:, None, None, None])


class Forgets(Sound):
    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        self.drawn = torch.randn(scene.backbone.text_width)

    def text(self, features: ImageFeatures | None) -> TextPrompts:
        return TextPrompts(super().text(features).context + self.drawn)


class Grows(Sound):
    def text(self, features: ImageFeatures | None) -> TextPrompts:
        self.register_buffer("seen", torch.ones(1))
        return super().text(features)


class OwnClassesOnly(Sound):
    def class_tokens(self, names: Sequence[str]) -> ClassTokens:
        return super().class_tokens(self.scene.classnames)


class Unseeded(Sound):
    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        nn.init.constant_(self.shift.bias, random.random())


class Overflows(Sound):
    def text(self, features: ImageFeatures | None) -> TextPrompts:
        context = super().text(features).context
        half = torch.matmul(torch.ones(1, 1), torch.ones(1, 1)).dtype is torch.bfloat16
        return TextPrompts(context * (torch.inf if half else 1.0))


class ListOfPrompts(Sound):
    def vision(self) -> Any:
        return [torch.zeros(1, 2, 32)]


class BareTensor(Sound):
    def text(self, features: ImageFeatures | None) -> Any:
        return super().text(features).context


class KnownNamesOnly(Sound):
    def class_tokens(self, names: Sequence[str]) -> ClassTokens:
        known = {name: name for name in self.scene.classnames}
        return super().class_tokens([known[name] for name in names])


class RemembersNames(Sound):
    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        self.asked: set[str] = set()

    def class_tokens(self, names: Sequence[str]) -> ClassTokens:
        self.asked |= set(names)
        return super().class_tokens(names)

    def text(self, features: ImageFeatures | None) -> TextPrompts:
        return TextPrompts(super().text(features).context * len(self.asked))


class GuessesAnew(Sound):
    def text(self, features: ImageFeatures | None) -> TextPrompts:
        return TextPrompts(super().text(features).context * (1 if self.training else random.random()))


class SteepAtZero(Sound):
    """The root of a parameter that is 0: the value is sound, its slope is not."""

    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        self.scale = nn.Parameter(torch.zeros(1))

    def text(self, features: ImageFeatures | None) -> TextPrompts:
        return TextPrompts(super().text(features).context + self.scale.sqrt())


class SteepInBf16(SteepAtZero):
    def text(self, features: ImageFeatures | None) -> TextPrompts:
        if torch.matmul(torch.ones(1, 1), torch.ones(1, 1)).dtype is torch.bfloat16:
            return super().text(features)
        return TextPrompts(Sound.text(self, features).context + self.scale)


class OwnContexts(ContextPrompts):
    """A context for each class: sound."""

    class_specific = True

    @dataclass(frozen=True)
    class Options:
        n_ctx: Annotated[int, "context tokens"] = 2
        ctx_init: Annotated[str, "words to start from"] = ""


# Projectors, views, losses.


class Unbounded(Sound):
    def encode(self, features: ImageFeatures | None, classes: ClassTokens) -> Tensor:
        return super().encode(features, classes) / 0.0


class WrongProjector(SoundProjector):
    def text(self, features: Tensor) -> Tensor:
        return super().text(features)[..., :5]


class NoPickle(SoundViews):
    def __init__(self, options: Any, image: ImageSpec) -> None:
        super().__init__(options, image)
        self.scale = lambda x: x


class WrongNames(SoundViews):
    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        made = super().__call__(image, rng)
        return {"image": made["image"], "nosy": made["noisy"]}


class NoImage(SoundViews):
    names = ("noisy",)


class NotFinite(SoundViews):
    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        return {name: view + np.float32("inf") for name, view in super().__call__(image, rng).items()}


class ForgetsInPickle(SoundViews):
    brightness = 0.0

    def __init__(self, options: Any, image: ImageSpec) -> None:
        super().__init__(options, image)
        self.brightness = 1.0

    def __getstate__(self) -> dict[str, Any]:
        return {"options": self.options, "image": self.image}

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        return {name: view + np.float32(self.brightness) for name, view in super().__call__(image, rng).items()}


class ChannelsLast(SoundViews):
    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        return {name: view.transpose(1, 2, 0) for name, view in super().__call__(image, rng).items()}


class Doubles(SoundViews):
    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        return {name: view.astype(np.float64) for name, view in super().__call__(image, rng).items()}


class OwnDice(SoundViews):
    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        return super().__call__(image, np.random.default_rng(random.getrandbits(32)))


class Vector(SoundLoss):
    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(outputs.logits, outputs.label, reduction="none")}


class Float(SoundLoss):
    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        return {**super().forward(outputs), "weight": 0.5}  # type: ignore[dict-item]


class Infinite(SoundLoss):
    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        return {**super().forward(outputs), "log": (outputs.logits - outputs.logits).sum().log()}


class Empty(SoundLoss):
    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        return {}


class Ungraded(SoundLoss):
    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        with torch.no_grad():
            return super().forward(outputs)


class NoisyAlone(SoundLoss):
    views = ("noisy",)


class Undeclared(SoundLoss):
    views = ("image",)


class Unhanded(SoundLoss):
    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        return {"head": outputs.extra["head"].mean()}


class NeedsMore(SoundLoss):
    views = ("image", "noisy", "cropped")


class Raises(SoundLoss):
    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        raise ValueError("half done")


# A learner, and backbones.


class InOrder(Learner):
    def logits(self, view: View) -> Tensor:
        logits = super().logits(view)
        return logits + torch.arange(logits.shape[1])


class ResetsBackbone(Learner):
    def epoch_end(self, epoch: int, epochs: int) -> None:
        self.scene.backbone.model.train()  # type: ignore[operator, union-attr]


class LeavesGradients(Learner):
    def backward(self, terms: Mapping[str, Tensor]) -> None:
        super().backward(terms)
        parameter = next(self.scene.backbone.parameters())
        parameter.requires_grad_(True)
        parameter.sum().backward()
        parameter.requires_grad_(False)


class Counts(Learner):
    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.register_buffer("asked", torch.zeros(()))

    def predict(self, batch: Batch) -> Tensor:
        self.asked += 1
        return super().predict(batch)


class LooksAhead(Learner):
    adapts = "online"

    def predict(self, batch: Batch) -> Tensor:
        logits = super().predict(batch)
        return logits - logits.mean(0)


class BanksDiffer(Learner):
    def predict(self, batch: Batch) -> Tensor:
        return super().predict(batch) + (0 if batch.features is None else 1)


class NeverForgets(Learner):
    adapts = "online"

    def predict(self, batch: Batch) -> Tensor:
        self.seen = getattr(self, "seen", 0)
        rows = []
        for row in super().predict(batch):
            self.seen += 1
            rows.append(row + self.seen)
        return torch.stack(rows)


class TwoWays(Learner):
    """Answers otherwise where features have come beside the pixels."""

    def predict(self, batch: Batch) -> Tensor:
        logits = super().predict(batch)
        return logits if batch.features is None or not batch.views else logits.flip(1)


class FrozenForGood(Learner):
    def epoch_start(self, epoch: int, epochs: int) -> None:
        self.prompts.shift.bias.requires_grad_(False)  # type: ignore[operator, union-attr]


class InOneOrder(Learner):
    adapts = "transductive"

    def predict(self, batch: Batch) -> Tensor:
        logits = super().predict(batch)
        return logits * torch.arange(1, len(logits) + 1)[:, None]


class ForgetsHalf(Learner):
    """Keeps the first picture that it has ever seen."""

    adapts = "online"
    first: Tensor | None = None

    def predict(self, batch: Batch) -> Tensor:
        logits = super().predict(batch)
        if self.first is None:
            self.first = logits[:1].clone()
        return logits + self.first


class Deaf(Loss):
    """Looks at pictures alone."""

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        return {"ce": outputs.views["image"].image_projected.sum()}


def deaf(weights: str) -> Backbone:
    """A text tower that no context gets into."""
    backbone = tiny_backbone()
    encode = backbone.encode_text

    def encode_text(prompts: TextPrompts, classes: ClassTokens) -> Tensor:
        words = backbone.embed_words("a photo of a")[:1].expand_as(prompts.context)
        return encode(TextPrompts(words + 0 * prompts.context), classes)

    backbone.encode_text = encode_text  # type: ignore[method-assign]
    return backbone


def blind(weights: str) -> Backbone:
    """An image tower that drops its prompts without a word."""
    backbone = tiny_backbone()
    encode = backbone.encode_image
    backbone.encode_image = lambda pixels, *_, **rest: encode(pixels, **rest)  # type: ignore[method-assign]
    return backbone


def misread(weights: str) -> Backbone:
    """Class names are tokenised with the full stop missing."""
    backbone = tiny_backbone()
    make = backbone.class_tokens
    backbone.class_tokens = lambda names, n, position="front", words="": make(names, n, "front", words)  # type: ignore[method-assign, misc]
    return backbone


def thawed(weights: str) -> Backbone:
    """Weights that take gradients."""
    return tiny_backbone().requires_grad_(True)


def long(weights: str) -> Backbone:
    """Features that are not of unit norm."""
    backbone = tiny_backbone()
    encode = backbone.encode_captions
    backbone.encode_captions = lambda captions: 2 * encode(captions)  # type: ignore[method-assign]
    return backbone


def altered(**attributes: Any) -> Callable[[str], Backbone]:
    """A loader of the tiny backbone with other attributes, on a class of its own."""

    def load(weights: str) -> Backbone:
        backbone = tiny_backbone()
        backbone.__class__ = type("Altered", (type(backbone),), attributes)
        return backbone

    return load


awake = altered(train=nn.Module.train)
nameless = altered(fingerprint="")
misjudged = altered(intermediate_widths=property(lambda self: (7, 7), lambda self, widths: None))


def narrow(weights: str) -> Backbone:
    """Captions lose a channel."""
    backbone = tiny_backbone()
    encode = backbone.encode_captions
    backbone.encode_captions = lambda captions: F.normalize(encode(captions)[:, 1:], dim=-1)  # type: ignore[method-assign]
    return backbone


def flat(weights: str) -> Backbone:
    """Text features lose the axis of prompts."""
    backbone = tiny_backbone()
    encode = backbone.encode_text
    backbone.encode_text = lambda prompts, classes: encode(prompts, classes)[:, :, 0]  # type: ignore[method-assign]
    return backbone


def severed(weights: str) -> Backbone:
    """The text tower runs without gradients."""
    backbone = tiny_backbone()
    backbone.encode_text = torch.no_grad()(backbone.encode_text)  # type: ignore[method-assign]
    return backbone


class Plugin:
    """The sound plugin, with one part replaced."""

    def __init__(self, learner: type[Learner] = Learner, **parts: type) -> None:
        self.learner = learner
        self.parts: dict[str, type] = {
            "prompts": Sound,
            "projector": SoundProjector,
            "views": SoundViews,
            "loss": SoundLoss,
            **parts,
        }

    @hookimpl
    def register_prompts(self, register: Callable[[str, type[PromptGenerator]], None]) -> None:
        register("subject", self.parts["prompts"])

    @hookimpl
    def register_projectors(self, register: Callable[[str, type[Projector]], None]) -> None:
        register("subject", self.parts["projector"])

    @hookimpl
    def register_views(self, register: Callable[[str, type[Views]], None]) -> None:
        register("subject", self.parts["views"])

    @hookimpl
    def register_losses(self, register: Callable[[str, type[Loss]], None]) -> None:
        register("subject", self.parts["loss"])

    @hookimpl
    def register_learners(self, register: Callable[[str, type[Learner]], None]) -> None:
        register("subject", self.learner)

    @hookimpl
    def register_recipes(self, register: Callable[[str, Recipe], None]) -> None:
        slots = dict.fromkeys(self.parts, "subject")
        register("subject", Recipe(summary="under check", learner="subject", **slots))

"""The components a learner is made of: base classes with defaults, for plugins to subclass.

Each is built as `cls(options, scene)` (views: `cls(options, image_spec)`). Its options are a frozen dataclass nested
in the class, the one place where defaults and help live:

    class MyPrompts(PromptGenerator):
        @dataclass(frozen=True)
        class Options:
            n_ctx: Annotated[int, "context tokens", Ge(1)] = 4

Ranges are those of annotated-types: Gt, Ge, Lt, Le.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from promptkit.backbones.base import Backbone, Intermediates, Position
from promptkit.errors import ConfigError
from promptkit.scene import Scene as Scene
from promptkit.scene import TeacherRun as TeacherRun
from promptkit.tensors import ClassTokens, ImageFeatures, ImagePrompts, Outputs, TextPrompts, View
from promptkit.views import NoOptions as NoOptions
from promptkit.views import PipelineViews as PipelineViews
from promptkit.views import PlainViews as PlainViews
from promptkit.views import Views as Views


class Component(nn.Module):
    """What prompt generators, projectors and losses share."""

    Options: ClassVar[type] = NoOptions
    described: ClassVar[bool] = False
    """Does it need `Scene.descriptions`? Then a run needs --descriptions."""
    taught: ClassVar[bool] = False
    """Does it need `Scene.teacher`? Then a run needs --teacher."""
    needs: ClassVar[Mapping[str, type]] = {}
    """What has to stand in other slots, such as {"prompts": MyPrompts}; checked when the learner is built."""

    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__()
        self.options = options
        self.scene = scene


class PromptGenerator(Component, ABC):
    """Makes context vectors for the text tower, and optionally prompts for the image tower."""

    conditional: ClassVar[bool] = False
    """Does `text` look at the image? If not, text features are computed once per step and once per evaluation."""

    @property
    def class_specific(self) -> bool:
        """Has each training class its own context? Then no other class can be asked about."""
        return False

    def intermediates(self) -> Intermediates | None:
        """Which vision blocks `text` reads, and how each one's tokens are reduced."""
        return None

    def vision(self) -> ImagePrompts | Float[Tensor, "J #B M V"] | None:
        """What is put into the image tower: prompts for its first J blocks, more in `ImagePrompts`, or None."""
        return None

    @abstractmethod
    def class_tokens(self, names: Sequence[str]) -> ClassTokens:
        """Tokenise class names.

        Args:
            names: Of C classes.

        Returns:
            Their ids (C L), with as many open places as there are context tokens.
        """

    @abstractmethod
    def encode(self, features: ImageFeatures | None, classes: ClassTokens) -> Float[Tensor, "#B C K D"]:
        """Unit-norm text features of the classes.

        Args:
            features: What the image tower saw; None only where nothing is conditional and no image was seen.
            classes: What `class_tokens` made.
        """

    def extra(self, features: ImageFeatures | None, text: Float[Tensor, "#B C K D"]) -> Mapping[str, Tensor]:
        """Tensors for losses, which find them in `Outputs.extra`; asked for in every training step, never to predict.

        Args:
            features: What the image tower saw, all views.
            text: What `encode` made of them.
        """
        return {}


@dataclass(frozen=True)
class ContextOptions:
    """Those of `ContextPrompts`; a subclass may have more of them, or others."""

    n_ctx: Annotated[int, "context tokens; ctx_init sets them where it is given", Ge(1)] = 4
    ctx_init: Annotated[str, "words to start from; without them, noise of deviation 0.02"] = "a photo of a"


class ContextPrompts(PromptGenerator):
    """A generator with one learned context `ctx` of M tokens in front of (or around) the class name.

    Its options need `n_ctx`, `ctx_init` and may have `position`, `class_specific` and `n_prompts`.
    """

    Options: ClassVar[type] = ContextOptions
    words: str = ""
    """Words in front of the class name that are not learned."""

    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        rows = len(scene.classnames) if self.class_specific else 1
        self.ctx = context_parameter(
            scene.backbone, options.n_ctx, options.ctx_init, rows, getattr(options, "n_prompts", 1)
        )

    @property
    def class_specific(self) -> bool:
        return bool(getattr(self.options, "class_specific", False))

    def class_tokens(self, names: Sequence[str]) -> ClassTokens:
        position: Position = getattr(self.options, "position", "end")
        return self.scene.backbone.class_tokens(names, self.ctx.shape[-2], position, self.words)

    def learn_first(self, n_ctx: int) -> None:
        """Learn the first `n_ctx` tokens of `ctx_init` alone; the words that follow stay as they are, for good.

        Contexts that start from noise are left alone. As `embedding[0, 1 : 1 + n_ctx]` in `trainers/maple.py` of MaPLe
        and `trainers/promptsrc.py` of PromptSRC.

        Raises ConfigError when `ctx_init` has fewer tokens, or a word of it goes on after the last one learned.
        """
        words = self.options.ctx_init.split()
        if not words:
            return
        tokens = [len(self.scene.backbone.embed_words(" ".join(words[:end]))) for end in range(len(words) + 1)]
        if n_ctx < 1 or n_ctx not in tokens:
            counts = ", ".join(f"{count} ({word!r})" for count, word in zip(tokens[1:], words, strict=True))
            raise ConfigError(
                f"prompts.n_ctx={n_ctx}: the words of ctx_init={self.options.ctx_init!r} end after tokens {counts}",
                "choose one of these, or start from noise with --set prompts.ctx_init=",
            )
        self.words = " ".join(words[tokens.index(n_ctx) :])
        self.ctx = nn.Parameter(self.ctx.detach()[..., :n_ctx, :].clone())

    def text(self, features: ImageFeatures | None) -> TextPrompts:
        """The contexts, and deep prompts where there are any.

        Args:
            features: What the image tower saw of B images, all views; None only where nothing is conditional.

        Returns:
            Contexts (#B #C K M W): B is 1 unless `conditional`, C is 1 unless each class has its own.
        """
        return TextPrompts(self.ctx[None])

    def encode(self, features: ImageFeatures | None, classes: ClassTokens) -> Float[Tensor, "#B C K D"]:
        return self.scene.backbone.encode_text(self.text(features), classes)


class TemplatePrompts(PromptGenerator):
    """Hand-made prompts: one template, or several ensembled, as the 80 of ImageNet. Nothing of them is learned.

    Where the classes are described, they are what their descriptions say (CuPL, Pratt et al., ICCV 2023).
    """

    @dataclass(frozen=True)
    class Options:
        template: Annotated[
            str, 'a text with one {} for the class name; several, one a line, are ensembled; "imagenet" is 80'
        ] = "a photo of a {}."

    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        self.templates = read_templates(options.template)
        self._known: tuple[tuple[str, ...], Tensor] | None = None

    def class_tokens(self, names: Sequence[str]) -> ClassTokens:
        """Raises ConfigError where some classes are described and others are not."""
        if self.scene.descriptions:
            for name in names:
                self.scene.sentences(name)
        return self.scene.backbone.class_tokens(names, 0)

    def encode(self, features: ImageFeatures | None, classes: ClassTokens) -> Float[Tensor, "1 C 1 D"]:
        """Computed once for the classes that are asked about."""
        if self._known is None or self._known[0] != classes.names:
            if self.scene.descriptions:
                text = description_features(self.scene, classes.names)
            else:
                text = template_features(self.scene, classes.names, self.templates)
            self._known = classes.names, text
        return self._known[1][None, :, None]


def description_features(scene: Scene, names: Sequence[str]) -> Float[Tensor, "C D"]:
    """Unit-norm mean of the unit-norm text features of each class's descriptions, without gradients.

    Raises ConfigError for a class without a description.
    """
    said = [scene.sentences(name) for name in names]
    features = scene.backbone.encode_captions([sentence for sentences in said for sentence in sentences])
    rows = torch.repeat_interleave(torch.tensor(list(map(len, said)))).to(features.device)
    sums = features.new_zeros(len(names), features.shape[1]).index_add_(0, rows, features)
    return nn.functional.normalize(sums, dim=-1)


def template_features(scene: Scene, names: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "C D"]:
    """CLIP's zero-shot classifier: unit-norm mean over the templates of unit-norm text features, without gradients."""
    captions = [template.format(name) for name in names for template in templates]
    features = scene.backbone.encode_captions(captions).reshape(len(names), len(templates), -1)
    return nn.functional.normalize(features.mean(1), dim=-1)


def read_templates(setting: str, option: str = "prompts.template") -> tuple[str, ...]:
    """The templates that an option holds, one a line; "imagenet" stands for CLIP's 80 for ImageNet, "imagenet-simple" for 7.

    The seven are those that CLIP's authors found to do best together.

    Raises ConfigError, naming the option, for a line without exactly one `{}`.
    """
    templates: list[str] = []
    for line in [line.strip() for line in setting.splitlines() if line.strip()] or [""]:
        if line in ("imagenet", "imagenet-simple"):
            from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

            named = OPENAI_IMAGENET_TEMPLATES if line == "imagenet" else SIMPLE_IMAGENET_TEMPLATES
            templates += [template("{}") for template in named]
        elif re.findall(r"{.*?}|[{}]", line) == ["{}"]:
            templates.append(line)
        else:
            raise ConfigError(
                f"{option}={line!r} needs one {{}} where the class name goes",
                f'for example: --set {option}="a sketch of a {{}}."',
            )
    return tuple(templates)


def context_parameter(
    backbone: Backbone, n_ctx: int, words: str = "", classes: int = 1, prompts: int = 1
) -> nn.Parameter:
    """Learnable context vectors (C K M W) that start from words, or from noise of deviation 0.02 where there are none.

    As in CoOp (`trainers/coop.py`, `PromptLearner`), words set the number of tokens. Several prompts that start from the
    same words would stay equal for ever, so all but the first are jittered.

    Raises ConfigError when n_ctx is not positive, or the words make no token.
    """
    if words:
        start = backbone.embed_words(words)
        if not len(start):
            raise ConfigError(f"ctx_init={words!r} has no token in it")
        context = start.expand(classes, prompts, -1, -1).clone()
        context[:, 1:] += 0.02 * torch.randn_like(context[:, 1:])
        return nn.Parameter(context)
    if n_ctx < 1:
        raise ConfigError(f"n_ctx={n_ctx}: a prompt needs at least one context token")
    return nn.Parameter(0.02 * torch.randn(classes, prompts, n_ctx, backbone.text_width))


class Projector(Component):
    """Maps features of both towers to the space they are compared in. The base class is the identity."""

    for_logits: ClassVar[bool] = True
    """Are the logits computed from projected features? If not, only losses see them."""

    def image(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B E"]:
        """Image features in the space to compare in.

        Args:
            features: (B D), of unit norm.

        Returns:
            (B E); of unit norm with `for_logits`.
        """
        return features

    def text(self, features: Float[Tensor, "#B C K D"]) -> Float[Tensor, "#B C K E"]:
        """Text features in the space to compare in.

        Args:
            features: (#B C K D), of unit norm.

        Returns:
            (#B C K E); of unit norm with `for_logits`.
        """
        return features

    def extra(self, views: Mapping[str, View]) -> Mapping[str, Tensor]:
        """Tensors for losses, as `PromptGenerator.extra`, of the encoded and projected views."""
        return {}


class Loss(Component, ABC):
    """Turns outputs into named, already weighted scalar terms; the training loss is their sum."""

    views: ClassVar[tuple[str, ...]] = ("image",)
    """The views it reads, checked when the learner is built."""
    unlabelled: ClassVar[bool] = False
    """Does it look at `Outputs.unlabelled`? Then a run needs --unlabelled."""

    def templates(self) -> Sequence[str]:
        """Prompts with one `{}` for a zero-shot teacher; where there are none, `Outputs.teacher` stays None."""
        return ()

    @abstractmethod
    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """The terms of the training loss.

        Args:
            outputs: Logits (B C), views, labels (B), and what components handed on.

        Returns:
            Scalars by name, weighted already; they are summed, and each is logged.
        """

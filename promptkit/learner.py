"""A learner composes a prompt generator, a projector and a loss around a frozen backbone."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from promptkit.components import Loss, Projector, PromptGenerator, Scene
from promptkit.errors import ConfigError
from promptkit.tensors import Batch, ClassTokens, ImageFeatures, Outputs, Teacher, View


class Learner(nn.Module):
    """What is trained and saved, and nothing else: the backbone is held in `scene`, outside the module tree.

    A method of the literature may override `logits` (how a view is scored), `start` (what it keeps of the training
    pictures), `backward` (how gradients are made from the loss terms) and `epoch_end` (what happens to the parameters
    between epochs).
    """

    needs_patches: ClassVar[bool] = False
    """Does `logits` look at `View.patches`?"""

    def __init__(self, prompts: PromptGenerator, projector: Projector, loss: Loss, scene: Scene) -> None:
        super().__init__()
        self.prompts = prompts
        self.projector = projector
        self.loss = loss
        self.scene = scene
        self.set_classes(scene.classnames)

    def set_classes(self, names: Sequence[str]) -> None:
        """Ask about these classes from now on: the ones trained on, or others.

        Raises ConfigError when contexts are class-specific and a class is none of the training classes.
        """
        names = tuple(names)
        self.class_rows: list[int] | None = None
        if self.prompts.class_specific:
            unknown = [name for name in names if name not in self.scene.classnames]
            if unknown:
                raise ConfigError(
                    f"this learner has a context of its own for each class it was trained on and none for: "
                    f"{', '.join(unknown)}",
                    "evaluate it on its training classes, or train with --set prompts.class_specific=false",
                )
            if names != self.scene.classnames:
                self.class_rows = [self.scene.classnames.index(name) for name in names]
        self.classnames = names
        self.classes: ClassTokens = self.prompts.class_tokens(
            names if self.class_rows is None else self.scene.classnames
        )
        self._text: Tensor | None = None
        self._teacher_text: Tensor | None = None

    def train(self, mode: bool = True) -> "Learner":
        """Text features that were kept for evaluation are dropped: training changes them."""
        self._text = None
        return super().train(mode)

    def forward(self, batch: Batch) -> Outputs:
        """Encode every view of the batch, all of them in one call of each tower.

        Raises nothing of its own; shapes are those of `promptkit.tensors`.
        """
        features = batch.features
        if features is None:
            pixels = torch.cat(list(batch.views.values()))
            features = replace(self.encode_image(pixels), views=tuple(batch.views))
        text = self.encode_text(features)
        texts = text.chunk(len(features.views)) if self.prompts.conditional else [text] * len(features.views)
        views = {
            name: self.view(seen, said) for (name, seen), said in zip(features.split().items(), texts, strict=True)
        }
        return Outputs(self.logits(views["image"]), views, batch.label, self.teacher(batch, views["image"]))

    @torch.no_grad()
    def predict(self, pixels: Float[Tensor, "B 3 H Wd"]) -> Float[Tensor, "B C"]:
        """Logits of the current classes: one view, one pass; a text that depends on no image is encoded once."""
        return self.predict_features(self.encode_image(pixels))

    @torch.no_grad()
    def predict_features(self, features: ImageFeatures) -> Float[Tensor, "B C"]:
        """`predict` from what the image tower saw, for features that are at hand already."""
        if self.prompts.conditional or self.training:
            text = self.encode_text(features)
        else:
            if self._text is None:
                self._text = self.encode_text(features)
            text = self._text
        return self.logits(self.view(features, text))

    # What a learner is made of, step by step.

    def encode_image(self, pixels: Float[Tensor, "B 3 H Wd"]) -> ImageFeatures:
        """Run the image tower under the generator's prompts, with its intermediates."""
        return self.scene.backbone.encode_image(
            pixels, self.prompts.vision(), self.prompts.intermediates(), self.needs_patches
        )

    def encode_text(self, features: ImageFeatures | None) -> Float[Tensor, "#B C K D"]:
        """Unit-norm text features of the current classes."""
        text = self.prompts.encode(features, self.classes)
        return text if self.class_rows is None else text[:, self.class_rows]

    def view(self, features: ImageFeatures, text: Float[Tensor, "#B C K D"]) -> View:
        """A view's features, and what the projector makes of them."""
        return View(
            image=features.pooled,
            text=text,
            image_projected=self.projector.image(features.pooled),
            text_projected=self.projector.text(text),
            patches=features.patches,
        )

    def teacher(self, batch: Batch, view: View) -> Teacher | None:
        """Zero-shot CLIP with the loss's templates; its text features are computed once for a set of classes.

        Where the image tower has prompts, it runs once more without them.
        """
        templates = self.loss.templates()
        if not templates:
            return None
        if self._teacher_text is None:
            self._teacher_text = template_features(self.scene, self.classnames, templates)
        text, image = self._teacher_text, view.image
        if self.prompts.vision() is not None:
            image = self.scene.backbone.encode_image(batch.views["image"]).pooled
        return Teacher(text, image, self.scene.backbone.logit_scale * image @ text.T)

    # What a method may override.

    def logits(self, view: View) -> Float[Tensor, "B C"]:
        """Scaled cosine similarity, the mean over the K prompts of a class."""
        if self.projector.for_logits:
            image, text = view.image_projected, view.text_projected
        else:
            image, text = view.image, view.text
        return self.scene.backbone.logit_scale * torch.einsum(
            "bd,bcd->bc", image, text.mean(2).expand(len(image), -1, -1)
        )

    def start(self, batches: Iterable[Batch]) -> None:
        """Called once before the first step. `batches` holds each training picture once, read as it is iterated.

        Every one of several processes sees all of them.
        """

    def backward(self, terms: Mapping[str, Tensor]) -> None:
        """Accumulate gradients from the loss terms: by default, of their sum."""
        torch.autograd.backward(torch.stack(list(terms.values())).sum())

    def epoch_end(self, epoch: int, epochs: int) -> None:
        """Called after the last step of epoch 1, 2, ... `epochs`."""


def template_features(scene: Scene, names: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "C D"]:
    """CLIP's zero-shot classifier: unit-norm mean over the templates of unit-norm text features, without gradients."""
    captions = [template.format(name) for name in names for template in templates]
    features = scene.backbone.encode_captions(captions).reshape(len(names), len(templates), -1)
    return nn.functional.normalize(features.mean(1), dim=-1)


def read_templates(setting: str, option: str = "prompts.template") -> tuple[str, ...]:
    """The templates that an option holds, one a line, or CLIP's 80 for ImageNet under the name "imagenet".

    Raises ConfigError, naming the option, for one without exactly one `{}`.
    """
    if setting == "imagenet":
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    templates = tuple(line.strip() for line in setting.splitlines() if line.strip())
    for line in templates or ("",):
        if re.findall(r"{.*?}|[{}]", line) != ["{}"]:
            raise ConfigError(
                f"{option}={line!r} needs one {{}} where the class name goes",
                f'for example: --set {option}="a sketch of a {{}}."',
            )
    return templates


@dataclass(frozen=True)
class Recipe:
    """A learner by the names of its components, with the settings that it was published with."""

    summary: str
    prompts: str
    views: str = "standard"
    loss: str = "cross-entropy"
    projector: str = "identity"
    learner: type[Learner] = Learner
    settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Defaults by `slot.field`, such as {"train.epochs": 50, "prompts.n_ctx": 4}."""
    datasets: Mapping[str, Mapping[str, str | int | float | bool]] = field(default_factory=dict)
    """What was published with other settings for a data set, by its name: {"imagenet": {"train.epochs": 10}}."""
    paper: str = ""

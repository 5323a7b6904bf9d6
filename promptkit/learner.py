"""A learner composes a prompt generator, a projector and a loss around a frozen backbone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from promptkit.backbones.base import FeatureSpec
from promptkit.components import (
    Loss,
    NoOptions,
    PlainViews,
    Projector,
    PromptGenerator,
    Scene,
    Views,
    template_features,
)
from promptkit.errors import ConfigError, PluginError
from promptkit.tensors import Batch, ClassTokens, ImageFeatures, Outputs, Teacher, View


class Learner(nn.Module):
    """The cosine similarity of an image and a class, times CLIP's scale.

    It is what is trained and saved, and nothing else: the backbone is held in `scene`, outside the module tree. A method
    of the literature may override `logits` (how a view is scored), `start` (what it keeps of the training images),
    `backward` (how gradients are made from the loss terms), `parameter_groups` (rates of its own), `epoch_start`,
    `step_end` and `epoch_end` (what happens to the parameters between steps), `metrics` (what to show beside the loss) and
    `predict` (how it answers). Evaluation calls `predict`, whatever is overridden.
    """

    Options: ClassVar[type] = NoOptions
    needs: ClassVar[Mapping[str, type]] = {}
    """What has to stand in other slots, such as {"prompts": MyPrompts}; checked when the learner is built."""
    needs_patches: ClassVar[bool] = False
    """Does `logits` look at `View.patches`?"""
    adapts: ClassVar[Literal["", "episodic", "online", "transductive"]] = ""
    """What `predict` does with test pictures beside answering: see `predict`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Raises PluginError for a class that makes image features in its own way and does not say what it reads."""
        super().__init_subclass__(**kwargs)
        for name in ("encode_image", "image_features"):
            own = getattr(cls, name) is not getattr(Learner, name)
            if own and cls.required_features is Learner.required_features:
                raise PluginError(
                    f"{cls.__name__} overrides {name} and not required_features, so cached features might not be its own",
                    "override required_features() too: return None where it needs the pixels",
                )

    def __init__(self, options: Any, scene: Scene, prompts: PromptGenerator, projector: Projector, loss: Loss) -> None:
        """`loss` gives no terms where the learner is built to predict alone."""
        super().__init__()
        self.options = options
        self.test_views: Views = PlainViews(NoOptions(), scene.backbone.image)
        """What pictures to predict are prepared with."""
        self.seed = 1
        """What test views are drawn from, and the order of a stream of test pictures."""
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

        Args:
            batch: Views (B 3 H W), or their features.

        Returns:
            Logits (B C) of the view "image", and whatever a loss may look at.
        """
        outputs = self._outputs(batch)
        if batch.unlabelled is None:
            return outputs
        text = None if self.prompts.conditional else outputs.views["image"].text
        return replace(outputs, unlabelled=self._outputs(batch.unlabelled, text))

    def _outputs(self, batch: Batch, text: Tensor | None = None) -> Outputs:
        """`text` where that of the classes is known already."""
        features = self.image_features(batch)
        text = self.text(features) if text is None else text
        views = self.each_view(features, text)
        return Outputs(
            self.logits(views["image"]),
            views,
            batch.label,
            self.teacher(batch, views["image"]),
            batch.domain,
            batch.index,
            _joined({"prompts": self.prompts.extra(features, text), "projector": self.projector.extra(views)}),
        )

    @torch.no_grad()
    def predict(self, batch: Batch) -> Float[Tensor, "B C"]:
        """Logits of the current classes, from the view "image". A text that depends on no image is encoded once.

        A learner that `adapts` at test time says how in its own `predict`, which has to enable gradients by itself:

        * "episodic": each picture is answered by itself, many views of it if `test_views` makes them, and leaves no trace.
        * "online": the pictures come in the order of a stream, drawn from the seed. What is kept of them is gone after
          `reset`, and an answer depends on the pictures before it alone, not on where batches end.
        * "transductive": the batch holds all pictures of a domain, as features.

        Args:
            batch: Images as pixels, or as the features that `required_features` asks for. Labels are -1.
        """
        if batch.features is None:
            batch = replace(batch, views={"image": batch.views["image"]})
        features = self.image_features(batch)
        if len(features.views) > 1:
            features = features.split()["image"]
        return self.logits(self.view(features, self.text(features)))

    def required_features(self) -> FeatureSpec | None:
        """What `forward` and `predict` read of the frozen image tower, which a cache may then serve.

        Returns:
            None where they need the pixels: under prompts of the image tower, or where a learner looks at them itself.
        """
        if self.prompts.vision() is not None:
            return None
        return FeatureSpec(self.scene.backbone, self.prompts.intermediates(), self.needs_patches)

    @property
    def read_blocks(self) -> tuple[str, ...]:
        """The names of the vision blocks that the prompts read, in this backbone."""
        intermediates, names = self.prompts.intermediates(), self.scene.backbone.intermediate_names
        if intermediates is None or intermediates.blocks is None:
            return names if intermediates else ()
        return tuple(names[index] for index in sorted({index % len(names) for index in intermediates.blocks}))

    # What a learner is made of, step by step.

    def image_features(self, batch: Batch) -> ImageFeatures:
        """What the image tower sees in all views of a batch: at hand already, or computed."""
        if batch.features is not None:
            return batch.features
        pixels = torch.cat(list(batch.views.values()))
        return replace(self.encode_image(pixels), views=tuple(batch.views))

    def encode_image(self, pixels: Float[Tensor, "B 3 H Wd"]) -> ImageFeatures:
        """Run the image tower under the generator's prompts, with its intermediates."""
        return self.scene.backbone.encode_image(
            pixels, self.prompts.vision(), self.prompts.intermediates(), self.needs_patches
        )

    def encode_text(self, features: ImageFeatures | None) -> Float[Tensor, "#B C K D"]:
        """Unit-norm text features of the current classes."""
        text = self.prompts.encode(features, self.classes)
        return text if self.class_rows is None else text[:, self.class_rows]

    def text(self, features: ImageFeatures | None) -> Float[Tensor, "#B C K D"]:
        """`encode_text`, once for all images where it depends on none and no gradients are recorded.

        It is kept until the next training step, or until other classes are set.
        """
        if self.prompts.conditional or self.training or torch.is_grad_enabled():
            return self.encode_text(features)
        if self._text is None:
            self._text = self.encode_text(features)
        return self._text

    def each_view(self, features: ImageFeatures, text: Float[Tensor, "#BV C K D"]) -> dict[str, View]:
        """The views of a batch by name, each with the text it is compared with.

        Args:
            features: Of V views of B images, view after view, as `image_features` returns them.
            text: As `text` returns them: for every view of every image where the prompts are conditional, else once.
        """
        texts = text.chunk(len(features.views)) if self.prompts.conditional else [text] * len(features.views)
        return {name: self.view(seen, said) for (name, seen), said in zip(features.split().items(), texts, strict=True)}

    def view(self, features: ImageFeatures, text: Float[Tensor, "#B C K D"]) -> View:
        """A view's features, and what the projector makes of them."""
        return View(
            image=features.pooled,
            text=text,
            image_projected=self.projector.image(features.pooled),
            text_projected=self.projector.text(text),
            patches=features.patches,
            prompts=features.prompts,
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
        """Scaled cosine similarity, the mean over the K prompts of a class.

        Args:
            view: Image features (B D) and text features (#B C K D), and what the projector made of them.

        Returns:
            (B C).
        """
        if self.projector.for_logits:
            image, text = view.image_projected, view.text_projected
        else:
            image, text = view.image, view.text
        return self.scene.backbone.logit_scale * torch.einsum(
            "bd,bcd->bc", image, text.mean(2).expand(image.shape[0], -1, -1)
        )

    def reset(self) -> None:
        """Forget all test pictures. Called before the first picture of every domain."""

    def start(self, batches: Iterable[Batch]) -> None:
        """Called once before the first step.

        Args:
            batches: Each training picture once, read as they are iterated; every one of several processes sees them all.
        """

    def backward(self, terms: Mapping[str, Tensor]) -> None:
        """Accumulate gradients from the loss terms: by default, of their sum.

        Args:
            terms: Scalars by name, as the loss returned them.
        """
        torch.autograd.backward(torch.stack(list(terms.values())).sum())

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimiser is built from: each group has "params", and may have an "lr" and "weight_decay" of its own.

        By default all parameters, those that are frozen at first too. The schedule scales each group's rate alike.
        """
        return [{"params": list(self.parameters())}]

    def epoch_start(self, epoch: int, epochs: int) -> None:
        """Called before the first step of epoch 1, 2, ... `epochs`. It may freeze parameters and thaw others.

        A run that goes on in the middle of an epoch calls it again before what was learned is filled in, so that
        attributes which it sets are as they were; a resumed run has the same parameters frozen.
        """

    def step_end(self, step: int) -> None:
        """Called after the parameters have taken step 1, 2, ..., counted over all epochs."""

    def epoch_end(self, epoch: int, epochs: int) -> None:
        """Called after the last step of epoch 1, 2, ... `epochs`."""

    def metrics(self, outputs: Outputs) -> Mapping[str, Tensor | float]:
        """Scalars to show and log beside the loss terms, each the mean over an epoch; they are no part of the loss.

        Called at every step, without gradients.
        """
        return {}


def _joined(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Named tensors of several owners in one. Raises PluginError for a name that two of them use."""
    owners: dict[str, str] = {}
    for owner, tensors in parts.items():
        for name in tensors:
            if name in owners:
                raise PluginError(
                    f"{owners[name]} and {owner} both hand the loss a tensor {name!r}", "rename it in extra() of one"
                )
            owners[name] = owner
    return {name: tensor for tensors in parts.values() for name, tensor in tensors.items()}


@dataclass(frozen=True)
class Recipe:
    """A method by the names of its components, with the settings that it was published with."""

    summary: str
    prompts: str
    views: str = "standard"
    loss: str = "cross-entropy"
    projector: str = "identity"
    learner: str = "plain"
    test_views: str = "plain"
    settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Defaults by `slot.field`, such as {"train.epochs": 50, "prompts.n_ctx": 4}."""
    datasets: Mapping[str, Mapping[str, str | int | float | bool]] = field(default_factory=dict)
    """What was published with other settings for a data set, by its name: {"imagenet": {"train.epochs": 10}}."""
    paper: str = ""

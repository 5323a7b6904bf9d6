"""What flows between the components.

Axis letters, the same everywhere:

    B  images                C  classes              K  prompts per class
    M  context tokens        L  text length          P  patches
    W  text width            V  vision width         D  joint width
    E  projected width       T  read blocks        J  blocks that take deep prompts
    N  tokens of a vision block                      #B  B or 1 (likewise #C)

Shapes are jaxtyping annotations. The test suite executes them; at run time they cost nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from promptkit.errors import PluginError


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """What the image tower saw.

    `intermediates` holds one tensor for each read block, first block first, as the generator's tap reduced it. It is a
    tuple because the stages of a ResNet differ in width.
    """

    pooled: Float[Tensor, "B D"]
    """Unit norm."""
    patches: Float[Tensor, "B P D"] | None = None
    """Unit norm, in the joint space; filled when the learner asks."""
    intermediates: tuple[Float[Tensor, "B ..."], ...] = ()
    views: tuple[str, ...] = ("image",)
    """The views that are concatenated along B, all equally long."""

    def to(self, device: torch.device) -> "ImageFeatures":
        patches = None if self.patches is None else self.patches.to(device, non_blocking=True)
        intermediates = tuple(intermediate.to(device, non_blocking=True) for intermediate in self.intermediates)
        return ImageFeatures(self.pooled.to(device, non_blocking=True), patches, intermediates, self.views)

    @staticmethod
    def together(parts: "Sequence[ImageFeatures]") -> "ImageFeatures":
        """Those of several batches in the same views, one after the other. At least one."""
        split = [part.split() for part in parts]
        seen = [part[name] for name in parts[0].views for part in split]  # view by view
        patches = [part.patches for part in seen if part.patches is not None]
        intermediates = zip(*(part.intermediates for part in seen), strict=True)
        return ImageFeatures(
            torch.cat([part.pooled for part in seen]),
            torch.cat(patches) if patches else None,
            tuple(torch.cat(block) for block in intermediates),
            parts[0].views,
        )

    def rows(self, rows: Int[Tensor, " b"]) -> "ImageFeatures":
        """The features of some of the images, in all views."""
        images = len(self.pooled) // len(self.views)
        rows = torch.cat([rows + images * view for view in range(len(self.views))])
        patches = None if self.patches is None else self.patches[rows]
        return ImageFeatures(
            self.pooled[rows], patches, tuple(intermediate[rows] for intermediate in self.intermediates), self.views
        )

    def split(self) -> dict[str, "ImageFeatures"]:
        """The features of each view."""
        n = len(self.views)
        pooled = self.pooled.chunk(n)
        patches = self.patches.chunk(n) if self.patches is not None else [None] * n
        intermediates = [intermediate.chunk(n) for intermediate in self.intermediates]
        return {
            name: ImageFeatures(
                pooled[i], patches[i], tuple(intermediate[i] for intermediate in intermediates), (name,)
            )
            for i, name in enumerate(self.views)
        }


@dataclass(frozen=True, eq=False)
class TextPrompts:
    """Context vectors for the text tower: one set per image or shared, one per class or shared."""

    context: Float[Tensor, "#B #C K M W"]
    deep: Float[Tensor, "J M W"] | None = None
    """`deep[j]` replaces the context tokens at the input of block j + 1."""


@dataclass(frozen=True, eq=False)
class ClassTokens:
    """Class names as token ids with M places left open for context vectors, made by `Backbone.class_tokens`."""

    names: tuple[str, ...]
    ids: Int[Tensor, "C L"]
    context_positions: Int[Tensor, "C M"]
    """The position of each context token; what `ids` holds there is never read."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Images in several views. `views` maps a view's name to (B 3 H W); "image" is always there.

    Where the image tower has seen the batch already, `features` are those of all the views; a batch from the feature
    cache has no pixels.
    """

    views: Mapping[str, Float[Tensor, "B 3 H W"]]
    label: Int[Tensor, " B"]
    """-1 where none is known."""
    features: ImageFeatures | None = None
    domain: Int[Tensor, " B"] = None  # type: ignore[assignment]
    """Places in `Scene.domains`; -1 where the domain is none of them. Left out: -1 everywhere."""
    index: Int[Tensor, " B"] = None  # type: ignore[assignment]
    """Places among the training pictures of the run, the same in every epoch; of unlabelled ones, among those. Left out: -1
    everywhere."""
    unlabelled: "Batch | None" = None
    """As many pictures without labels, where the loss asks for them; None where none of them is readable."""

    def __post_init__(self) -> None:
        _fill_unknown(self, "domain", "index")

    @staticmethod
    def of(pixels: Float[Tensor, "B 3 H W"]) -> "Batch":
        """Images without labels, in one view, to be predicted."""
        return Batch({"image": pixels}, torch.full((pixels.shape[0],), -1))

    def chunk(self, n: int) -> list["Batch"]:
        """Consecutive parts of the images: n of them, or one for each image where there are fewer."""
        return [self._rows(rows) for rows in torch.arange(len(self.label), device=self.label.device).chunk(n)]

    def _rows(self, rows: Int[Tensor, " b"]) -> "Batch":
        views: Mapping[str, Tensor] = self.views
        if not isinstance(views, NoPixels):
            views = {name: pixels[rows] for name, pixels in views.items()}
        features = self.features and self.features.rows(rows)
        return Batch(views, self.label[rows], features, self.domain[rows], self.index[rows])

    def to(self, device: torch.device) -> "Batch":
        if isinstance(self.views, NoPixels):
            views: Mapping[str, Tensor] = self.views
        else:
            views = {name: pixels.to(device, non_blocking=True) for name, pixels in self.views.items()}
        return Batch(
            views,
            self.label.to(device, non_blocking=True),
            self.features and self.features.to(device),
            self.domain.to(device, non_blocking=True),
            self.index.to(device, non_blocking=True),
            self.unlabelled and self.unlabelled.to(device),
        )


class NoPixels(Mapping[str, Tensor]):
    """The views of a batch that comes from the feature cache."""

    def __getitem__(self, name: str) -> Tensor:
        """Raises PluginError: a learner said that features are all it needs, and asks for pixels."""
        raise PluginError(
            f"the learner reads the pixels of view {name!r}, and this batch comes from the feature cache",
            "a learner that needs pixels returns None from required_features()",
        )

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


@dataclass(frozen=True, eq=False)
class View:
    """One view of the pictures, encoded: unit-norm features, and what the projector makes of them."""

    image: Float[Tensor, "B D"]
    text: Float[Tensor, "#B C K D"]
    image_projected: Float[Tensor, "B E"]
    text_projected: Float[Tensor, "#B C K E"]
    patches: Float[Tensor, "B P D"] | None = None


@dataclass(frozen=True, eq=False)
class Teacher:
    """Zero-shot CLIP on the "image" view, for losses that ask for it through `Loss.templates`."""

    text: Float[Tensor, "C D"]
    image: Float[Tensor, "B D"]
    logits: Float[Tensor, "B C"]


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a loss may look at."""

    logits: Float[Tensor, "B C"]
    views: Mapping[str, View]
    label: Int[Tensor, " B"]
    """-1 where none is known."""
    teacher: Teacher | None = None
    domain: Int[Tensor, " B"] = None  # type: ignore[assignment]
    """As in the batch; -1 everywhere where it is left out, and so is the index."""
    index: Int[Tensor, " B"] = None  # type: ignore[assignment]
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """What components hand to losses, by name; see `PromptGenerator.extra` and `Projector.extra`."""
    unlabelled: "Outputs | None" = None
    """Of the pictures without labels, where the loss asks for them."""

    def __post_init__(self) -> None:
        _fill_unknown(self, "domain", "index")


def _fill_unknown(pictures: Batch | Outputs, *names: str) -> None:
    for name in names:
        if getattr(pictures, name) is None:
            object.__setattr__(pictures, name, torch.full_like(pictures.label, -1))

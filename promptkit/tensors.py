"""What flows between the components.

Axis letters, the same everywhere:

    B  images                C  classes              K  prompts per class
    M  context tokens        L  text length          P  patches
    W  text width            V  vision width         D  joint width
    E  projected width       T  read blocks        J  blocks that take deep prompts
    N  tokens of a vision block                      #B  B or 1 (likewise #C)
    r  rank of a delta, of a weight (O I)            Q  read-only prompts of a class

Shapes are jaxtyping annotations. The test suite executes them; at run time they cost nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from promptkit.edits import NO_EDITS, Edits
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
    prompts: Float[Tensor, "B M D"] | None = None
    """What the last block put out where prompts stand, projected, of any norm; filled where `ImagePrompts.keep` asks."""

    def map(self, function: Callable[[Tensor], Tensor]) -> "ImageFeatures":
        """The same of every tensor; the views stay."""
        return replace(
            self,
            pooled=function(self.pooled),
            patches=None if self.patches is None else function(self.patches),
            intermediates=tuple(map(function, self.intermediates)),
            prompts=None if self.prompts is None else function(self.prompts),
        )

    def to(self, device: torch.device) -> "ImageFeatures":
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    @staticmethod
    def cat(parts: "Sequence[ImageFeatures]") -> "ImageFeatures":
        """Rows after rows. At least one part; all have the same views and hold the same."""
        patches = [part.patches for part in parts if part.patches is not None]
        prompts = [part.prompts for part in parts if part.prompts is not None]
        return ImageFeatures(
            torch.cat([part.pooled for part in parts]),
            torch.cat(patches) if patches else None,
            tuple(torch.cat(block) for block in zip(*(part.intermediates for part in parts), strict=True)),
            parts[0].views,
            torch.cat(prompts) if prompts else None,
        )

    @staticmethod
    def together(parts: "Sequence[ImageFeatures]") -> "ImageFeatures":
        """Those of several batches in the same views, one after the other. At least one."""
        split = [part.split() for part in parts]
        seen = [part[name] for name in parts[0].views for part in split]  # view by view
        return replace(ImageFeatures.cat(seen), views=parts[0].views)

    def rows(self, rows: Int[Tensor, " b"]) -> "ImageFeatures":
        """The features of some of the images, in all views."""
        images = len(self.pooled) // len(self.views)
        rows = torch.cat([rows + images * view for view in range(len(self.views))])
        return self.map(lambda tensor: tensor[rows])

    def split(self) -> dict[str, "ImageFeatures"]:
        """The features of each view."""
        n = len(self.pooled) // len(self.views)
        return {
            name: replace(self.map(lambda tensor, i=i: tensor[i * n : (i + 1) * n]), views=(name,))  # type: ignore[misc]
            for i, name in enumerate(self.views)
        }


@dataclass(frozen=True, eq=False)
class TextPrompts:
    """What a learner puts into the text tower: context vectors, one set per image or shared, one per class or shared."""

    context: Float[Tensor, "#B #C K M W"] | None
    """None: the open places are empty, seen by nothing and counted in no position, up to block `first`."""
    deep: Float[Tensor, "J #C M W"] | None = None
    """`deep[j]` takes the place of the context tokens at the input of block `first + j`."""
    first: int = 1
    read_only: Float[Tensor, "#B #C Q W"] | None = None
    """Q tokens behind each text, without positions, that see what its end token sees, and that nothing sees: neither the
    text, nor one another, nor they themselves. What they become is the features, Q of a class in place of K (RPO)."""
    edits: Edits = NO_EDITS


@dataclass(frozen=True, eq=False)
class ImagePrompts:
    """What a learner puts into the image tower, which then has to run for every picture: no bank serves it."""

    tokens: Float[Tensor, "J #B M V"] | None = None
    """`tokens[j]` stand at the input of block `first + j`, in place of those that the block before put out, and are
    dropped before pooling. Those of block 0 enter among the embedded patches, in front of the norm that a tower may have
    before its blocks, as in MaPLe, VPT and PromptSRC."""
    first: int = 0
    read_only: bool = False
    """They see the picture; nothing sees them: neither the picture, nor one another, nor they themselves (RPO)."""
    keep: bool = False
    """Are their outputs kept as `ImageFeatures.prompts`? They are normed by the tower's last norm, and projected."""
    projection: Float[Tensor, "V D"] | None = None
    """What projects them; None is the tower's own projection."""
    edits: Edits = NO_EDITS


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
    prompts: Float[Tensor, "B M D"] | None = None
    """As in `ImageFeatures`."""


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

"""The contract of a backbone: a frozen CLIP that takes prompts in and gives features out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from promptkit.edits import Weight
from promptkit.errors import BackboneError
from promptkit.settings import BackboneSettings as BackboneSettings
from promptkit.tensors import ClassTokens, ImageFeatures, ImagePrompts, TextPrompts

Position = Literal["end", "middle", "front"]
"""Where the class name stands in the prompt."""


@dataclass(frozen=True)
class ImageSpec:
    """How the image tower wants its pictures: size in pixels, channel statistics for values in 0 to 1."""

    size: tuple[int, int]
    """Height, width."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"


@dataclass(frozen=True)
class Intermediates:
    """Which vision blocks to read, and how each one's tokens (B N V) become what is kept (B ...).

    The reduction runs as soon as the block has run, so that the tokens of all blocks are never held at once. It sees the
    images of one pass, which may be fewer than the batch: what it keeps of an image depends on that image alone.
    """

    reduce: Callable[[Float[Tensor, "B N V"]], Float[Tensor, "B ..."]]
    blocks: Sequence[int] | None = None
    """Counted from 0, negative from the end; None reads all that the tower offers."""


class Blocks(ABC):
    """A tower on foot: its blocks one after the other over all tokens, plain and slow. Gradients flow as in any module."""

    depth: int
    """How many blocks there are."""
    width: int
    """Of a token."""

    @abstractmethod
    def block(self, index: int, tokens: Float[Tensor, "N L W"], mask: Tensor | None = None) -> Float[Tensor, "N L W"]:
        """What a block makes of tokens.

        Args:
            index: Of the block, from 0 on.
            tokens: (N L W).
            mask: Additive, (L L) or (N L L): -inf where a token (row) may not look at another (column). None: all look at
                all, so hand over `mask()` in a text tower.

        Returns:
            As many tokens.
        """

    @abstractmethod
    def read(self, tokens: Float[Tensor, "... W"]) -> Float[Tensor, "... D"]:
        """The tower's last norm and its projection, token by token, to features of unit norm."""

    @abstractmethod
    def weight_shape(self, index: int, weight: Weight) -> tuple[int, int]:
        """(O I) of a weight that a delta may change, such as "q". Raises BackboneError for one that no block has."""


class TextBlocks(Blocks):
    """A text tower on foot."""

    @abstractmethod
    def embed(self, classes: ClassTokens, context: Float[Tensor, "#C M W"] | None = None) -> Float[Tensor, "C Lplus W"]:
        """The input of block 0, positions included: all L of every text, and one more where a tower appends a class token.

        Args:
            classes: Ids (C L) with M open places.
            context: What stands there, where there are open places.

        Returns:
            (C L W).
        """

    @abstractmethod
    def mask(self, classes: ClassTokens) -> Tensor | None:
        """The tower's own mask, such as the causal one (L L); None where it has none."""

    @abstractmethod
    def read_at(self, classes: ClassTokens) -> Int[Tensor, " C"]:
        """The position at which each text is read."""


class ImageBlocks(Blocks):
    """An image tower on foot."""

    class_token: Float[Tensor, " V"]
    """Its embedding, without the position."""

    @abstractmethod
    def embed(
        self, pixels: Float[Tensor, "B 3 H Wd"], tokens: Float[Tensor, "#B M V"] | None = None
    ) -> Float[Tensor, "B N V"]:
        """The input of block 0: class token, patches, and more tokens behind them, in front of the norm if there is one.

        Args:
            pixels: (B 3 H Wd).
            tokens: (#B M V), without positions.

        Returns:
            (B N V), the class token first; it is what `encode_image` reads.
        """


class Backbone(nn.Module, ABC):
    """A frozen CLIP. Always in eval mode, no parameter takes a gradient; gradients flow through it to prompts."""

    name: str
    weights: str
    """What was loaded: a tag, a file, "own weights" of a folder or repository, or "none"."""
    image: ImageSpec
    context_length: int
    """Text positions, start and end tokens included."""
    text_width: int
    text_depth: int
    joint_width: int
    intermediate_widths: tuple[int, ...]
    """The width V of every block that can be read, first to last."""
    intermediate_names: tuple[str, ...]
    """What the tower calls these blocks. A tower may have more, which can't be read."""
    settings: BackboneSettings = BackboneSettings()

    def configure(self, settings: BackboneSettings) -> None:
        """Called once, before anything is encoded. A backbone follows what it can."""
        self.settings = settings

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.logit_scale.device

    @property
    def image_dtype(self) -> torch.dtype:
        """What `settings.dtype` means on the device at hand."""
        if self.settings.dtype == "auto":
            well = self.logit_scale.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
            return torch.bfloat16 if well else torch.float32
        return torch.bfloat16 if self.settings.dtype == "bf16" else torch.float32

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of architecture and weights. A learner is bound to the backbone that it was trained on."""

    @property
    @abstractmethod
    def logit_scale(self) -> Tensor:
        """The factor on cosine similarities, already exponentiated: a scalar."""

    @abstractmethod
    def encode_image(
        self,
        pixels: Float[Tensor, "B 3 H Wd"],
        prompts: ImagePrompts | Float[Tensor, "J #B M V"] | None = None,
        intermediates: Intermediates | None = None,
        patches: bool = False,
    ) -> ImageFeatures:
        """Run the image tower. Without prompts nothing is recorded for gradients.

        Args:
            pixels: (B 3 H Wd), as `image` says they are prepared.
            prompts: What a learner puts in; a tensor (J #B M V) is `ImagePrompts.tokens` from block 0 on.
            intermediates: Which blocks to read, and how each one's tokens are reduced.
            patches: Return the patch features as well.

        Returns:
            Pooled features (B D) of unit norm, and what was asked for.

        Raises:
            BackboneError: When the tower can't take prompts or edits, they don't fit, or it has no patch features.
        """

    @abstractmethod
    def encode_text(self, prompts: TextPrompts, classes: ClassTokens) -> Float[Tensor, "#B C K D"]:
        """Unit-norm features of every class under every context, differentiable in the prompts and edits.

        Args:
            prompts: Contexts (#B #C K M W), and what else there is.
            classes: Ids (C L) with M open places.

        Returns:
            (#B C K D).

        Raises:
            BackboneError: When prompts or edits don't fit the tower or the classes.
        """

    @abstractmethod
    def encode_captions(self, captions: Sequence[str], unit_norm: bool = True) -> Float[Tensor, "N D"]:
        """Features of plain texts, without gradients.

        Args:
            captions: N texts.
            unit_norm: Divide by the norm; otherwise it is the tower's own, as TaskRes wants it.

        Returns:
            (N D).

        Raises:
            BackboneError: When one doesn't fit the tower's context length.
        """

    @abstractmethod
    def class_tokens(
        self, names: Sequence[str], n_ctx: int, position: Position = "end", words: str = ""
    ) -> ClassTokens:
        """Tokenise `<n_ctx places> words name.` with the name at the end, in the middle or at the front.

        Args:
            names: Of C classes.
            n_ctx: M, the number of open places.
            position: Of the name among them.
            words: In front of each name, the same for all and not learned: the "of a" of MaPLe.

        Returns:
            Ids (C L), and where the open places are (C M).

        Raises:
            BackboneError: Naming the class, when name and context don't fit the tower's context length.
        """

    @abstractmethod
    def embed_words(self, words: str) -> Float[Tensor, "M W"]:
        """Token embeddings of a text, without start and end: to start context vectors from words."""

    @property
    def text_blocks(self) -> TextBlocks:
        """The text tower on foot. Raises BackboneError where it can't be walked."""
        raise BackboneError(f"the text tower of {self.name} can't be walked block by block")

    @property
    def image_blocks(self) -> ImageBlocks:
        """The image tower on foot. Raises BackboneError where it can't be walked."""
        raise BackboneError(f"the image tower of {self.name} can't be walked block by block")

    def use_less_memory(self) -> bool:
        """Compute in smaller pieces from now on, after a device ran out of memory. False: they are the smallest."""
        return False

    def image_bytes(self, images: int, device: torch.device) -> int:
        """What the image tower holds at most of so many images, without gradients, on a device of this kind; 0: unknown."""
        return 0

    def text_passes(
        self, rows: int, per_class: bool, classes: ClassTokens, device: torch.device
    ) -> tuple[int, int, int]:
        """How a training step's texts would be encoded on a device of this kind.

        Args:
            rows: Contexts before every class: images, views and prompts.
            per_class: Has each class contexts of its own?
            classes: Ids (C L).
            device: Which need not be here.

        Returns:
            In how many passes, the bytes that one works with at most, and those that all keep for the backward pass;
            0: unknown.
        """
        return 1, 0, 0

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in eval mode, whatever the module that holds the backbone does."""
        return super().train(False)


@dataclass(frozen=True)
class FeatureSpec:
    """What a learner reads of the image tower, when that does not depend on what it has learned."""

    backbone: Backbone
    intermediates: Intermediates | None = None
    patches: bool = False

    @property
    def demand(self) -> int:
        """How much is asked for; what serves all is among those that ask for most."""
        return (self.intermediates is not None) + self.patches

    def serves(self, other: "FeatureSpec") -> bool:
        """Does this hold all that `other` asks for?"""
        same = self.backbone is other.backbone and other.intermediates in (None, self.intermediates)
        return same and self.patches >= other.patches

    def encode(self, pixels: Float[Tensor, "B 3 H Wd"]) -> ImageFeatures:
        """Run the image tower, on its own device."""
        pixels = pixels.to(self.backbone.device, non_blocking=True)
        return self.backbone.encode_image(pixels, None, self.intermediates, self.patches)

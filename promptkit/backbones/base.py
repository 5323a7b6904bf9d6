"""The contract of a backbone: a frozen CLIP that takes prompts in and gives features out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from promptkit.settings import BackboneSettings as BackboneSettings
from promptkit.tensors import ClassTokens, ImageFeatures, TextPrompts

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
        prompts: Float[Tensor, "J #B M V"] | None = None,
        intermediates: Intermediates | None = None,
        patches: bool = False,
    ) -> ImageFeatures:
        """Run the image tower. Without prompts nothing is recorded for gradients.

        `prompts[0]` are M extra tokens among the embedded patches, in front of the norm that a tower may have before its
        blocks (`clip/model.py` of MaPLe, which VPT and PromptSRC share); `prompts[j]` stand at the input of block j, in
        place of those that block j - 1 put out. They are dropped before pooling.

        Args:
            pixels: (B 3 H Wd), as `image` says they are prepared.
            prompts: (J #B M V) for the first J blocks.
            intermediates: Which blocks to read, and how each one's tokens are reduced.
            patches: Return the patch features as well.

        Returns:
            Pooled features (B D) of unit norm, and what was asked for.

        Raises:
            BackboneError: When the tower can't take prompts or has no patch features.
        """

    @abstractmethod
    def encode_text(self, prompts: TextPrompts, classes: ClassTokens) -> Float[Tensor, "#B C K D"]:
        """Unit-norm features of every class under every context, differentiable in the prompts.

        Args:
            prompts: Contexts (#B #C K M W), and deep prompts (J M W) where there are any.
            classes: Ids (C L) with M open places.

        Returns:
            (#B C K D).
        """

    @abstractmethod
    def encode_captions(self, captions: Sequence[str]) -> Float[Tensor, "N D"]:
        """Unit-norm features of plain texts, without gradients."""

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

    def use_less_memory(self) -> bool:
        """Compute in smaller pieces from now on, after a device ran out of memory. False: they are the smallest."""
        return False

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

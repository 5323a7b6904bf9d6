"""open_clip's towers block by block, for what no prompt, delta or residual expresses."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from promptkit.backbones.base import ImageBlocks, TextBlocks
from promptkit.backbones.blocks import run_block, weight_shape
from promptkit.backbones.image_tower import ImageTower
from promptkit.backbones.text_tower import TextTower, mark_slots
from promptkit.edits import Weight
from promptkit.errors import BackboneError
from promptkit.tensors import ClassTokens


class OpenClipTextBlocks(TextBlocks):
    def __init__(self, tower: TextTower) -> None:
        self.tower = tower
        self.depth, self.width = len(tower.blocks), tower.width

    def embed(self, classes: ClassTokens, context: Float[Tensor, "#C M W"] | None = None) -> Float[Tensor, "C Lplus W"]:
        embedded = self.tower.embed(classes.ids)
        if context is not None:
            at = classes.context_positions[..., None].expand(-1, -1, self.width)
            embedded = embedded.scatter(1, at, context.to(embedded.dtype).expand(at.shape))
        return self.tower.place(embedded)

    def mask(self, classes: ClassTokens) -> Tensor | None:
        words, _ = mark_slots(classes)
        length = words.shape[1] + (self.tower.class_embedding is not None)
        return self.tower.mask(words, length, self.tower.source.positional_embedding.dtype)

    def read_at(self, classes: ClassTokens) -> Int[Tensor, " C"]:
        return self.tower.read_at(mark_slots(classes)[0])

    def block(self, index: int, tokens: Float[Tensor, "N L W"], mask: Tensor | None = None) -> Float[Tensor, "N L W"]:
        batch_first: bool = self.tower.source.transformer.batch_first
        return run_block(self.tower.blocks[index], tokens, mask, batch_first=batch_first)

    def read(self, tokens: Float[Tensor, "... W"]) -> Float[Tensor, "... D"]:
        return self.tower.project(tokens)

    def weight_shape(self, index: int, weight: Weight) -> tuple[int, int]:
        return weight_shape(self.tower.blocks[index], weight)


class OpenClipImageBlocks(ImageBlocks):
    """Raises BackboneError for a tower that is no ViT, or pools by attention."""

    def __init__(self, tower: ImageTower) -> None:
        visual: Any = tower.visual
        if not tower.is_vit or visual.attn_pool is not None:
            raise BackboneError(
                f"the image tower {type(visual).__name__} can't be walked block by block",
                "choose a ViT of open_clip, such as ViT-B-16",
            )
        self.visual, self.blocks = visual, tower.blocks
        self.depth, self.width = len(tower.blocks), tower.widths[0]
        self.class_token: Tensor = visual.class_embedding

    def embed(
        self, pixels: Float[Tensor, "B 3 H Wd"], tokens: Float[Tensor, "#B M V"] | None = None
    ) -> Float[Tensor, "B N V"]:
        embedded: Tensor = self.visual._embeds(pixels)
        if tokens is None:
            return embedded
        normed = self.visual.ln_pre(tokens).to(embedded.dtype)
        return torch.cat([embedded, normed.expand(len(embedded), -1, -1)], dim=1)

    def block(self, index: int, tokens: Float[Tensor, "B N V"], mask: Tensor | None = None) -> Float[Tensor, "B N V"]:
        return run_block(self.blocks[index], tokens, mask, batch_first=self.visual.transformer.batch_first)

    def read(self, tokens: Float[Tensor, "... V"]) -> Float[Tensor, "... D"]:
        normed = self.visual.ln_post(tokens)
        return F.normalize(normed if self.visual.proj is None else normed @ self.visual.proj, dim=-1)

    def weight_shape(self, index: int, weight: Weight) -> tuple[int, int]:
        return weight_shape(self.blocks[index], weight)

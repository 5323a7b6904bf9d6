"""open_clip's text transformers behind one face."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from promptkit.backbones.blocks import finish_block
from promptkit.errors import BackboneError
from promptkit.tensors import ClassTokens


class TextTower:
    """One face for open_clip's text transformers: spread over a `CLIP`, or whole in `model.text`.

    It reads its source at every call, so moving or casting the model needs no word to it.

    Raises BackboneError for a text encoder that takes no embeddings, or is not pooled.
    """

    def __init__(self, model: nn.Module) -> None:
        self.source: Any = getattr(model, "text", model)
        if not hasattr(self.source, "token_embedding") or self.pool_type == "none":
            raise BackboneError(
                f"prompts can't be spliced into the text encoder {type(self.source).__name__}",
                "choose a model with open_clip's own text transformer, such as ViT-B-16",
            )
        self.finish: Callable[[Any, Tensor, Tensor], Tensor] = finish_block

    def compile(self) -> None:
        """What is done token by token, for any number of tokens; attention changes its shape with the classes."""
        self.finish = torch.compile(finish_block, dynamic=True)

    @property
    def frozen(self) -> bool:
        return not any(parameter.requires_grad for parameter in self.source.parameters())

    @property
    def compiled(self) -> bool:
        return self.finish is not finish_block

    @property
    def blocks(self) -> Any:
        return self.source.transformer.resblocks

    @property
    def depth(self) -> int:
        return len(self.blocks)

    @property
    def context_length(self) -> int:
        return int(self.source.context_length)

    @property
    def traits(self) -> tuple[object, ...]:
        """What decides its features beside weights, heads and activation."""
        return (self.pool_type,)

    @property
    def words(self) -> Float[Tensor, "V W"]:
        """The embedding of every token."""
        table: Tensor = self.source.token_embedding.weight
        return table

    @property
    def width(self) -> int:
        return int(self.source.positional_embedding.shape[1])

    @property
    def joint_width(self) -> int:
        projection = self.source.text_projection
        if projection is None:
            return self.width
        return int(projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1])

    @property
    def pool_type(self) -> str:
        return str(self.source.pool_type if isinstance(self.source, TextTransformer) else self.source.text_pool_type)

    @property
    def class_embedding(self) -> Tensor | None:
        return getattr(self.source, "cls_emb", None)

    def embed(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape W"]:
        embedded: Tensor = self.source.token_embedding(ids).to(self.source.transformer.get_cast_dtype())
        return embedded

    def place(self, x: Float[Tensor, "... L W"]) -> Float[Tensor, "... Lplus W"]:
        """Embedded tokens with their positions, and the class token that a CoCa has behind them."""
        if self.class_embedding is not None:
            x = torch.cat([x, self.class_embedding.to(x.dtype).expand(*x.shape[:-2], 1, -1)], dim=-2)
        positions: Tensor = self.source.positional_embedding[: x.shape[-2]]
        return x + positions.to(x.dtype)

    def mask(self, words: Int[Tensor, "N L"], length: int, dtype: torch.dtype) -> Tensor | None:
        """The additive mask of `TextTransformer._embeds`, or of `CLIP.encode_text`. Context tokens are no padding."""
        causal: Tensor | None = self.source.attn_mask
        if self.class_embedding is None and not getattr(self.source, "use_pad_mask", False):
            return causal if causal is None else causal[:length, :length]
        padding: Tensor = self.source._build_additive_mask(words, length, dtype)
        return padding if causal is None else causal[:length, :length] + padding

    def read_at(self, words: Int[Tensor, "C L"]) -> Int[Tensor, " C"]:
        """Where each text is pooled, as in `text_global_pool`. Context tokens, -1, are no end token."""
        if self.class_embedding is not None:
            return torch.full_like(words[:, 0], words.shape[1])
        match self.pool_type:
            case "argmax":
                return words.argmax(dim=-1)
            case "eos":
                end: int = self.source.eos_id if isinstance(self.source, TextTransformer) else self.source.text_eos_id
                return (words == end).int().argmax(dim=-1)
            case "first":
                return torch.zeros_like(words[:, 0])
            case _:
                return torch.full_like(words[:, 0], words.shape[1] - 1)

    def project(self, pooled: Float[Tensor, "... W"]) -> Float[Tensor, "... D"]:
        """From the pooled tokens of the last block to unit-norm features."""
        features: Tensor = self.source.ln_final(pooled)
        projection = self.source.text_projection
        if isinstance(projection, nn.Linear):
            features = projection(features)
        elif projection is not None:
            features = features @ projection
        return F.normalize(features, dim=-1)


def check_context(context: Float[Tensor, "#B #C K M W"], classes: ClassTokens, width: int) -> None:
    """Raises BackboneError when contexts don't fit the classes, or a text tower of this width."""
    _, contexts, _, n_ctx, given = context.shape
    n_classes, n_slots = classes.context_positions.shape
    if given != width and n_ctx:
        raise BackboneError(f"context vectors are {given} wide; this text tower takes {width}")
    if n_ctx != n_slots:
        raise BackboneError(f"{n_ctx} context tokens for classes with {n_slots} open places")
    if contexts not in (1, n_classes):
        raise BackboneError(f"contexts of {contexts} classes for {n_classes} classes")


def mark_slots(classes: ClassTokens) -> tuple[Int[Tensor, "C L"], Int[Tensor, "C L"]]:
    """The ids with -1 at the slots, and the number of the context token at each position with -1 elsewhere."""
    words = classes.ids.scatter(1, classes.context_positions, -1)
    numbers = torch.arange(classes.context_positions.shape[1], device=words.device).expand_as(classes.context_positions)
    return words, torch.full_like(words, -1).scatter(1, classes.context_positions, numbers)

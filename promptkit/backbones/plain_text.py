"""The plain way through a text tower: all positions of all texts, in one row for each image and prompt of a class.

It is what the packed way is tested against, and what towers take that can't be packed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from promptkit.backbones.blocks import BlockEdits, read_block, run_block
from promptkit.backbones.text_tower import TextTower, mark_slots
from promptkit.edits import NO_EDITS, Edits
from promptkit.tensors import ClassTokens, TextPrompts


@dataclass(frozen=True, eq=False)
class Rows:
    """Text prompts with images and prompts of a class merged into R rows."""

    context: Float[Tensor, "#R #C M W"]
    deep: Float[Tensor, "J #C M W"] | None = None
    first: int = 1
    late: bool = False
    """Are the open places empty up to block `first`?"""
    read_only: Float[Tensor, "#R #C K W"] | None = None
    edits: Edits = NO_EDITS

    @staticmethod
    def of(tower: TextTower, prompts: TextPrompts, classes: ClassTokens) -> "Rows":
        context, places = prompts.context, classes.context_positions.shape[1]
        late = context is None and places > 0
        if context is None:
            context = tower.source.positional_embedding.new_zeros(1, 1, 1, places, tower.width)
        rows = context.transpose(1, 2).flatten(0, 1)
        return Rows(rows, prompts.deep, prompts.first, late, prompts.read_only, prompts.edits)

    @property
    def count(self) -> Any:
        """R; a symbol in an export, where `len` would make it a constant."""
        count = self.context.shape[0]
        return count if self.read_only is None else max(count, self.read_only.shape[0])

    @property
    def tensors(self) -> list[Tensor]:
        return [tensor for tensor in (self.context, self.deep, self.read_only) if tensor is not None]

    @property
    def learned(self) -> bool:
        """Do they take gradients? Of a residual nobody knows, so it does."""
        deltas = [tensor for delta in self.edits.deltas.values() for tensor in (delta.down, delta.up)]
        return bool(self.edits.residuals) or any(tensor.requires_grad for tensor in (*self.tensors, *deltas))

    @property
    def per_class(self) -> bool:
        """Has each class a context of its own, in some block?"""
        return any(t.shape[1] > 1 for t in (self.context, self.deep) if t is not None)

    def part(self, rows: range, classes: range) -> "Rows":
        deep = None if self.deep is None else _cut(self.deep, None, classes)
        read_only = None if self.read_only is None else _cut(self.read_only, rows, classes)
        return replace(self, context=_cut(self.context, rows, classes), deep=deep, read_only=read_only)

    def deep_at(self, block: int) -> Float[Tensor, "#C M W"] | None:
        """What takes the place of the context tokens at the input of a block."""
        if self.deep is None or not self.first <= block < self.first + len(self.deep):
            return None
        return self.deep[block - self.first]


def _cut(tensor: Tensor, rows: range | None, classes: range) -> Tensor:
    if rows is not None and len(tensor) > 1:
        tensor = tensor[rows.start : rows.stop]
    return tensor[:, classes.start : classes.stop] if tensor.shape[1] > 1 else tensor


def encode_rows(tower: TextTower, rows: Rows, classes: ClassTokens) -> Float[Tensor, "R C K D"]:
    """All positions of every text through the tower's own blocks; K is 1 unless there are read-only prompts.

    Matches `CLIP.encode_text` and `TextTransformer.forward` of open_clip, with contexts in place of embeddings.
    """
    count, n_classes = rows.count, len(classes.names)
    words, _ = mark_slots(classes)
    at = classes.context_positions[None, :, :, None].expand(count, -1, -1, tower.width)

    def put(x: Tensor, tokens: Tensor) -> Tensor:
        return x.scatter(2, at, tokens.to(x.dtype).expand(count, *at.shape[1:]))

    readers = rows.read_only
    if readers is not None:
        readers = readers.expand(count, n_classes, -1, -1).flatten(0, 1)
    begin = rows.first if rows.late else 0
    if rows.late:
        kept = _without_places(words)
        early = words.gather(1, kept)
        x, readers = _run(tower, tower.place(tower.embed(early)), early, range(begin), rows, readers)
        behind = torch.arange(words.shape[1], words.shape[1] + x.shape[2] - kept.shape[1], device=kept.device)
        kept = torch.cat([kept, behind.expand(n_classes, -1)], dim=1)
        full = x.new_zeros(count, n_classes, x.shape[2] + at.shape[2], tower.width)
        x = full.scatter(2, kept[None, :, :, None].expand(x.shape), x)
    else:
        x = tower.place(put(tower.embed(words.clamp(min=0)).expand(count, -1, -1, -1), rows.context))
    x, readers = _run(tower, x, words, range(begin, len(tower.blocks)), rows, readers, put)
    if readers is not None:
        return tower.project(torch.unflatten(readers, 0, (count, n_classes)))
    return tower.project(x[:, torch.arange(n_classes, device=x.device), tower.read_at(words)])[:, :, None]


def _run(
    tower: TextTower,
    x: Float[Tensor, "... C Lplus W"],
    words: Int[Tensor, "C L"],
    blocks: range,
    rows: Rows,
    readers: Float[Tensor, "N K W"] | None,
    put: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, "R C Lplus W"], Float[Tensor, "N K W"] | None]:
    """Some of the blocks, over the texts and over what reads them; `put` fills the places of context tokens."""
    count, n_classes, length = rows.count, len(words), x.shape[-2]
    x = x.expand(count, n_classes, length, -1)
    mask = tower.mask(words.repeat(count, 1), length, x.dtype)
    row = _row(mask, tower.read_at(words).repeat(count), tower.blocks[0].attn.num_heads)
    for block in blocks:
        deep, edits = rows.deep_at(block), BlockEdits.of(rows.edits, block)
        if put is not None and deep is not None:
            x = put(x, deep)
        flat = x.flatten(0, 1)
        if readers is None:
            flat = run_block(tower.blocks[block], flat, mask, edits, tower.source.transformer.batch_first)
        else:
            flat, readers = read_block(tower.blocks[block], flat, readers.to(flat.dtype), mask, row, edits)
        x = torch.unflatten(flat, 0, (count, n_classes))
    return x, readers


def _row(mask: Tensor | None, read_at: Int[Tensor, " N"], heads: int) -> Tensor | None:
    """What the token that is read may look at: (N 1 L), or (N H 1 L)."""
    if mask is None:
        return None
    if mask.ndim == 2:
        return mask[read_at][:, None]
    each = torch.unflatten(mask, 0, (-1, heads))[torch.arange(len(read_at), device=mask.device), :, read_at]
    return each[:, :, None]


def _without_places(words: Int[Tensor, "C L"]) -> Int[Tensor, "C l"]:
    """Where each text has words: all have the same number of them, padding included."""
    return torch.arange(words.shape[1], device=words.device).expand_as(words)[words >= 0].view(len(words), -1)


def early_tokens(tower: TextTower, classes: ClassTokens, first: int) -> Float[Tensor, "C L W"]:
    """Every position of the texts at the input of block `first`, up to which their open places are empty.

    At the open places stands anything. Only where nothing is edited.
    """
    words, _ = mark_slots(classes)
    kept = _without_places(words)
    early = words.gather(1, kept)
    longest = int(tower.read_at(early).max()) + 1  # what stands behind is seen by nothing that is read
    early = early[:, :longest]
    x = tower.place(tower.embed(early))
    x, _ = _run(tower, x, early, range(first), Rows(x.new_empty(1, 1, 0, tower.width)), None)
    column = ((words >= 0).cumsum(1) - 1).clamp(0, longest - 1)
    return x[0].gather(1, column[:, :, None].expand(-1, -1, tower.width))

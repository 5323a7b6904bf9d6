"""One pass of a causal text tower over packed texts, every level of which looks at the keys and values of those before it.

    start   tokens before the first context: the same whatever is learned, so their keys and values are constants
    shared  the rest of the prefix that all classes have in common: once for each context, (R P W)
    rest    what differs, up to the token that is read: packed over classes without padding, (R S W)

R merges images and prompts per class. Only attention sees padding. In the last block nothing but the token that is read
gets past the keys and values. Read-only prompts follow the rest's order, K for each text, and ask where its last token does.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from promptkit.backbones.arena import Arena
from promptkit.backbones.attention import Keys, attend
from promptkit.backbones.blocks import BlockEdits, finish_block, project
from promptkit.backbones.frozen_block import frozen_block, is_frozen
from promptkit.backbones.passes import Keep
from promptkit.backbones.plain_text import Rows, early_tokens
from promptkit.backbones.segments import Segment
from promptkit.backbones.text_tower import TextTower, mark_slots
from promptkit.tensors import ClassTokens

Queries = Literal["all", "last", "none"]
"""Which tokens ask in a block: all, the last of each text, or none, where only keys and values are wanted."""


@dataclass(frozen=True, eq=False)
class Layout:
    """The three levels of a set of classes, and the constant keys and values of the first, one for each block."""

    start: tuple[Keys, ...] | None
    shared: Segment | None
    rest: Segment
    late: tuple[Float[Tensor, "1 P W"] | None, Float[Tensor, "1 S W"]] | None = None
    """Where the open places are empty at first: the tokens of both levels at the block that fills them, constants too."""

    @staticmethod
    def of(
        tower: TextTower, classes: ClassTokens, per_class: bool, device: torch.device, frozen: bool, late: int = 0
    ) -> "Layout | None":
        """Nothing is constant where the tower isn't `frozen`. `late` is the block up to which open places are empty.

        None when some text is read in its prefix, which no encoder that reads an end token does.
        """
        words, numbers = (ids.cpu() for ids in mark_slots(classes))
        end = tower.read_at(words)
        common = (words == words[:1]) & (numbers == numbers[:1])
        if per_class:
            common &= numbers < 0
        prefix = min(int(common.all(0).int().cumprod(0).sum()), int(end.min()))
        open_places = (numbers[0, :prefix] >= 0).nonzero()
        start = (int(open_places[0]) if len(open_places) else prefix) if frozen else 0
        if classes.context_positions.numel() and bool((end[:, None] < classes.context_positions.cpu()).any()):
            return None
        one = words[:1], numbers[:1]
        keys = None
        if start:
            segment = Segment.of(*one, 0, torch.tensor([start])).to(device)
            keys = tuple(_run_start(tower, segment))
        shared = Segment.of(*one, start, torch.tensor([prefix])).to(device) if prefix > start else None
        rest = Segment.of(words, numbers, prefix, end + 1, padded=device.type != "cpu").to(device)
        if not late:
            return Layout(keys, shared, rest)
        early = early_tokens(tower, classes, late)
        return Layout(keys, shared, rest, (shared.gather(early) if shared else None, rest.gather(early)))

    @property
    def tokens(self) -> int:
        """Tokens that one row takes through the blocks."""
        return len(self.rest.ids) + (len(self.shared.ids) if self.shared else 0)


def _run_start(tower: TextTower, segment: Segment) -> Iterator[Keys]:
    x = segment.embed(tower, torch.empty(1, 1, 0, tower.width))
    for block in tower.blocks:
        x, keys = _step(tower, block, x, segment, None, "all")
        yield keys


def encode_packed(
    tower: TextTower, rows: Rows, layout: Layout, keep: Keep = "all", arena: Arena | None = None
) -> Float[Tensor, "R C K D"]:
    """K is 1 unless there are read-only prompts. The arena is for what frozen blocks keep."""
    shared, rest = layout.late or (
        layout.shared.embed(tower, rows.context) if layout.shared else None,
        layout.rest.embed(tower, rows.context),
    )
    readers = rows.read_only
    if readers is not None:
        readers = readers.expand(-1, len(layout.rest.restore), -1, -1)[:, layout.rest.restore.argsort()].flatten(1, 2)
    for j in range(rows.first if layout.late else 0, len(tower.blocks)):
        block, final, edits = tower.blocks[j], j == len(tower.blocks) - 1, BlockEdits.of(rows.edits, j)
        prefix = layout.start[j] if layout.start else None
        deep = rows.deep_at(j)
        if layout.shared and shared is not None:
            if deep is not None:
                shared = layout.shared.replace(shared, deep)
            queries: Queries = "none" if final else "all"
            shared, keys = _step(tower, block, shared, layout.shared, prefix, queries, edits, keep, arena)
            prefix = _append(prefix, keys)
        if deep is not None:
            rest = layout.rest.replace(rest, deep)
        queries = "all" if not final else "last" if readers is None else "none"
        arguments = tower, block, rest, layout.rest, prefix, queries, edits
        if final and keep == "inputs":  # edits may draw random numbers
            rest, keys = checkpoint(_step, *arguments, use_reentrant=False, preserve_rng_state=bool(edits))
        else:
            rest, keys = _step(*arguments, keep, arena)
        if readers is not None:
            (q,) = project(block, block.ln_1(readers), "q", edits)
            k, v = (t.transpose(1, 2) for t in keys)
            readers = _finish(tower, block, readers, attend(q, k, v, layout.rest, prefix, "last"), edits)
    pooled = rest if readers is None else readers
    pooled = torch.unflatten(pooled.expand(rows.count, -1, -1), 1, (len(layout.rest.restore), -1))
    return tower.project(pooled.index_select(1, layout.rest.restore))


def _append(prefix: Keys | None, keys: Keys) -> Keys:
    if prefix is None:
        return keys
    old_keys, old_values = (old.expand(len(new), -1, -1, -1) for old, new in zip(prefix, keys, strict=True))
    return torch.cat([old_keys, keys[0]], dim=2), torch.cat([old_values, keys[1]], dim=2)


def _step(
    tower: TextTower,
    block: Any,
    x: Float[Tensor, "#R S W"],
    segment: Segment,
    prefix: Keys | None,
    queries: Queries,
    edits: BlockEdits | None = None,
    keep: Keep = "all",
    arena: Arena | None = None,
) -> tuple[Tensor, Keys]:
    """One block over a segment: the new tokens (all, or the last of each text) and this segment's keys and values.

    The keys and values of a segment of one text are a prefix of others; those of many texts are for what reads them.
    """
    if queries == "all" and not tower.compiled and not edits and is_frozen(block):
        return frozen_block(block, x, segment, prefix, keep == "inputs", arena)
    normed = block.ln_1(x)
    if queries == "all":
        q, k, v = project(block, normed, "qkv", edits)
    else:
        k, v = project(block, normed, "kv", edits)
        if queries == "last":
            x = x.index_select(1, segment.last)
            (q,) = project(block, normed.index_select(1, segment.last), "q", edits)
    keys = k.transpose(1, 2), v.transpose(1, 2)
    if queries == "none":
        return x, keys
    return _finish(tower, block, x, attend(q, k, v, segment, prefix, queries), edits), keys


def _finish(tower: TextTower, block: Any, x: Tensor, attended: Tensor, edits: BlockEdits | None) -> Tensor:
    return finish_block(block, x, attended, edits) if edits else tower.finish(block, x, attended)

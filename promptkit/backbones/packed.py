"""One pass of a causal text tower over packed texts, every level of which looks at the keys and values of those before it.

    start   tokens before the first context: the same whatever is learned, so their keys and values are constants
    shared  the rest of the prefix that all classes have in common: once for each context, (R P W)
    rest    what differs, up to the token that is read: packed over classes without padding, (R S W)

R merges images and prompts per class. Only attention sees padding. In the last block nothing but the token that is read
gets past the keys and values.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from promptkit.backbones.attention import Keys, attend
from promptkit.backbones.frozen_block import frozen_block, is_frozen
from promptkit.backbones.passes import Keep
from promptkit.backbones.segments import Segment
from promptkit.backbones.text_tower import TextTower, mark_slots
from promptkit.tensors import ClassTokens


@dataclass(frozen=True, eq=False)
class Layout:
    """The three levels of a set of classes, and the constant keys and values of the first, one for each block."""

    start: tuple[Keys, ...] | None
    shared: Segment | None
    rest: Segment

    @staticmethod
    def of(
        tower: TextTower, classes: ClassTokens, per_class: bool, device: torch.device, frozen: bool
    ) -> "Layout | None":
        """Nothing is constant where the tower isn't `frozen`.

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
        return Layout(keys, shared, Segment.of(words, numbers, prefix, end + 1).to(device))

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
    tower: TextTower,
    context: Float[Tensor, "R #C M W"],
    deep: Float[Tensor, "J M W"] | None,
    layout: Layout,
    keep: Keep = "all",
) -> Float[Tensor, "R C D"]:
    shared = layout.shared.embed(tower, context) if layout.shared else None
    rest = layout.rest.embed(tower, context)
    for j, block in enumerate(tower.blocks):
        final = j == len(tower.blocks) - 1
        prefix = layout.start[j] if layout.start else None
        if layout.shared and shared is not None:
            if deep is not None and 1 <= j <= len(deep):
                shared = layout.shared.replace(shared, deep[j - 1][layout.shared.number][None])
            shared, keys = _step(tower, block, shared, layout.shared, prefix, "none" if final else "all", keep)
            prefix = _append(prefix, keys)
        if deep is not None and 1 <= j <= len(deep) and len(layout.rest.context_positions):
            rest = layout.rest.replace(rest, deep[j - 1][layout.rest.number][None])
        rest, _ = _step(tower, block, rest, layout.rest, prefix, "last" if final else "all", keep)
    pooled = rest.expand(len(context), -1, -1).index_select(1, layout.rest.restore)
    return tower.project(pooled)


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
    queries: Literal["all", "last", "none"],
    keep: Keep = "all",
) -> tuple[Tensor, Keys]:
    """One block over a segment: the new tokens (all, or the last of each text) and this segment's keys and values.

    The keys and values that come back are those of a segment of one text; nothing else is ever a prefix.
    """
    if queries == "all" and keep != "graph" and not tower.compiled and is_frozen(block):
        return frozen_block(block, x, segment, prefix, recompute=keep == "inputs")
    attn, heads = block.attn, block.attn.num_heads
    width = x.shape[-1]
    normed = block.ln_1(x)
    if queries == "all":
        q, k, v = F.linear(normed, attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)
    else:
        bias = attn.in_proj_bias
        q_bias, kv_bias = (None, None) if bias is None else (bias[:width], bias[width:])
        k, v = F.linear(normed, attn.in_proj_weight[width:], kv_bias).chunk(2, dim=-1)
        if queries == "last":
            x = x.index_select(1, segment.last)
            q = F.linear(normed.index_select(1, segment.last), attn.in_proj_weight[:width], q_bias)
    k, v = (torch.unflatten(t, -1, (heads, -1)) for t in (k, v))
    k = _norm(attn, "ln_k", k)
    keys = k.transpose(1, 2), v.transpose(1, 2)
    if queries == "none":
        return x, keys
    q = _norm(attn, "ln_q", torch.unflatten(q, -1, (heads, -1)))
    return tower.finish(block, x, attend(q, k, v, segment, prefix, queries)), keys


def _norm(attn: Any, name: str, x: Tensor) -> Tensor:
    normed: Tensor = getattr(attn, name)(x) if hasattr(attn, name) else x  # open_clip's custom block may have qk-norm
    return normed

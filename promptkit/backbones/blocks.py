"""One transformer block of open_clip, in either form that it comes in, with and without a learner's edits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor

from promptkit.edits import Delta, Edits, Place, Weight
from promptkit.errors import BackboneError


@dataclass(frozen=True, eq=False)
class BlockEdits:
    """What is edited in one block."""

    deltas: Mapping[Weight, Delta]
    residuals: Mapping[Place, Callable[[Tensor], Tensor]]

    @staticmethod
    def of(edits: Edits, block: int) -> "BlockEdits | None":
        """None where nothing is."""
        deltas = {weight: delta for (index, weight), delta in edits.deltas.items() if index == block}
        residuals = {place: residual for (index, place), residual in edits.residuals.items() if index == block}
        return BlockEdits(deltas, residuals) if deltas or residuals else None

    def change(self, weight: Weight, mapped: Tensor, tokens: Tensor) -> Tensor:
        """The map of tokens, and what its delta adds."""
        return mapped + self.deltas[weight](tokens) if weight in self.deltas else mapped

    def add(self, place: Place, to: Tensor, tokens: Tensor) -> Tensor:
        """`to`, and what the residual makes of tokens."""
        return to + self.residuals[place](tokens) if place in self.residuals else to


def run_block(
    block: Any,
    x: Float[Tensor, "N L W"],
    mask: Tensor | None = None,
    edits: BlockEdits | None = None,
    batch_first: bool = True,
) -> Float[Tensor, "N L W"]:
    """The block's own forward, where nothing in it is edited; else the same step by step.

    The mask is additive: (L L), (N L L), or (N*H L L) as open_clip makes it.
    """
    if edits:
        normed = block.ln_1(x)
        q, k, v = project(block, normed, "qkv", edits)
        return finish_block(block, x, _attend(q, k, v, mask), edits)
    if mask is not None and mask.ndim == 3 and len(mask) == len(x):
        mask = mask.repeat_interleave(block.attn.num_heads, dim=0)
    if batch_first:
        out: Tensor = block(x, attn_mask=mask)
        return out
    out = block(x.transpose(0, 1), attn_mask=mask)
    return out.transpose(0, 1)


def read_block(
    block: Any,
    x: Float[Tensor, "N L W"],
    readers: Float[Tensor, "N K W"],
    mask: Tensor | None = None,
    row: Tensor | None = None,
    edits: BlockEdits | None = None,
) -> tuple[Float[Tensor, "N L W"], Float[Tensor, "N K W"]]:
    """A block over tokens, and over readers that look at them and are seen by nothing.

    The additive `row` (N 1 L), or (N H 1 L), says what readers may look at.
    """
    q, k, v = project(block, block.ln_1(x), "qkv", edits)
    out = finish_block(block, x, _attend(q, k, v, mask), edits)
    (asked,) = project(block, block.ln_1(readers), "q", edits)
    return out, finish_block(block, readers, _attend(asked, k, v, row), edits)


def project(block: Any, normed: Float[Tensor, "... W"], which: str, edits: BlockEdits | None) -> tuple[Tensor, ...]:
    """Queries, keys, values ("qkv"), or some of them that stand next to each other, (... H d) each."""
    attn, width = block.attn, normed.shape[-1]
    rows = slice("qkv".index(which[0]) * width, ("qkv".index(which[-1]) + 1) * width)
    bias = None if attn.in_proj_bias is None else attn.in_proj_bias[rows]
    parts: Any = zip(which, F.linear(normed, attn.in_proj_weight[rows], bias).chunk(len(which), dim=-1), strict=True)
    if edits:
        parts = [(name, edits.change(name, part, normed)) for name, part in parts]
    return tuple(_norm(attn, name, torch.unflatten(part, -1, (attn.num_heads, -1))) for name, part in parts)


def _norm(attn: Any, name: str, x: Tensor) -> Tensor:
    norm = getattr(attn, f"ln_{name}", None)  # open_clip's custom block may have qk-norm
    normed: Tensor = x if norm is None else norm(x)
    return normed


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Float[Tensor, "N Lq H d"]:
    if mask is not None:
        mask = mask.to(q.dtype)
        if mask.ndim == 3:
            mask = torch.unflatten(mask, 0, (len(q), -1))
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def finish_block(
    block: Any, x: Float[Tensor, "#R S W"], attended: Float[Tensor, "R S H d"], edits: BlockEdits | None = None
) -> Float[Tensor, "R S W"]:
    """What follows attention in `ResidualAttentionBlock` and `CustomResidualAttentionBlock`."""
    if isinstance(block, ResidualAttentionBlock):
        merged = attended.flatten(2)
        update = block.attn.out_proj(merged)
    else:
        if block.attn.head_scale is not None:
            attended = attended * block.attn.head_scale[:, 0]
        merged = block.attn.ln_inner(attended.flatten(2))
        update = block.attn.out_proj(merged)
    if edits:
        update = edits.change("out", update, merged)
    if not isinstance(block, ResidualAttentionBlock):
        update = block.ln_attn(update)
    middle = x + block.ls_1(update)
    if not edits:
        updated: Tensor = middle + block.ls_2(block.mlp(block.ln_2(middle)))
        return updated
    normed = block.ln_2(middle)
    first, *between, second = block.mlp
    inner = edits.change("fc1", first(normed), normed)
    for layer in between:
        inner = layer(inner)
    out = edits.add("mlp", middle + block.ls_2(edits.change("fc2", second(inner), inner)), normed)
    if "block" in edits.residuals:
        out = edits.add("block", out, block.ln_1(x))
    return edits.add("after", out, out)


def weight_shape(block: Any, name: str) -> tuple[int, int]:
    """(O I). Raises BackboneError for a weight that no block has."""
    weights = {"out": block.attn.out_proj, "fc1": block.mlp.c_fc, "fc2": block.mlp.c_proj}
    if name in weights:
        return weights[name].out_features, weights[name].in_features
    if name not in ("q", "k", "v"):
        raise BackboneError(f"no weight of a block is called {name!r}; there are {', '.join(get_args(Weight))}")
    width = block.attn.in_proj_weight.shape[1]
    return width, width


def check_edits(tower: str, blocks: Any, edits: Edits) -> None:
    """Raises BackboneError for an edit that is at no place of the tower, and for a delta of another shape."""
    for index, _ in (*edits.deltas, *edits.residuals):
        if not 0 <= index < len(blocks):
            raise BackboneError(f"an edit in block {index} of the {tower} tower, which has {len(blocks)}, from 0 on")
        if getattr(blocks[index].attn, "logit_scale", None) is not None:
            raise BackboneError(f"the {tower} tower's attention is a scaled cosine, which takes no edits")
    for _, place in edits.residuals:
        if place not in get_args(Place):
            raise BackboneError(f"no residual can stand at {place!r}; there are {', '.join(get_args(Place))}")
    for (index, name), delta in edits.deltas.items():
        expected, shape = weight_shape(blocks[index], name), (delta.up.shape[0], delta.down.shape[1])
        if shape != expected:
            raise BackboneError(
                f"a delta of {shape[0]} x {shape[1]} for the weight {name!r} of block {index} of the {tower} tower, which is "
                f"{expected[0]} x {expected[1]}"
            )

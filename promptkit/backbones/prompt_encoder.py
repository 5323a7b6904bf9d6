"""The text tower under prompts: exact features for far less work than 77 tokens for each image and class.

CLIP's text tower is causal and is read at the end token, so, with nothing approximated:

    start   tokens before the first context: the same whatever is learned, so their keys and values are constants
    shared  the rest of the prefix that all classes have in common: once for each context, (R P W)
    rest    what differs, up to the token that is read: packed over classes without padding, (R S W)

R merges images and prompts per class. Every level attends to the keys and values of those before it, and only
attention sees padding. In the last block nothing but the token that is read gets past the keys and values. A tower that
isn't causal, or is read elsewhere, takes the plain path through its own blocks.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from promptkit.backbones.segments import Bucket, Segment
from promptkit.backbones.text_tower import TextTower, encode_rows, mark_slots
from promptkit.errors import BackboneError
from promptkit.tensors import ClassTokens, TextPrompts

log = logging.getLogger("promptkit")

Keys = tuple[Tensor, Tensor]
"""Keys and values of a prefix, (#R H P d) each."""


def encode_plain(tower: TextTower, prompts: TextPrompts, classes: ClassTokens) -> Float[Tensor, "#B C K D"]:
    """Unit-norm features with nothing saved: the reference that tests and benchmarks compare with."""
    images, _, n_prompts, _, _ = prompts.context.shape
    rows = prompts.context.transpose(1, 2).flatten(0, 1)
    features = encode_rows(tower, rows, prompts.deep, classes)
    return torch.unflatten(features, 0, (images, n_prompts)).transpose(1, 2)


@dataclass(frozen=True, eq=False)
class Layout:
    """The three levels of a set of classes, and the constant keys and values of the first, one for each block."""

    start: tuple[Keys, ...] | None
    shared: Segment | None
    rest: Segment

    @staticmethod
    def of(tower: TextTower, classes: ClassTokens, per_class: bool, device: torch.device) -> "Layout | None":
        """None when some text is read in its prefix, which no encoder that reads an end token does."""
        words, numbers = (ids.cpu() for ids in mark_slots(classes))
        end = tower.read_at(words)
        common = (words == words[:1]) & (numbers == numbers[:1])
        if per_class:
            common &= numbers < 0
        prefix = min(int(common.all(0).int().cumprod(0).sum()), int(end.min()))
        open_places = (numbers[0, :prefix] >= 0).nonzero()
        start = int(open_places[0]) if len(open_places) else prefix
        if classes.slots.numel() and bool((end[:, None] < classes.slots.cpu()).any()):
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


def _packed(
    tower: TextTower, context: Float[Tensor, "R #C M W"], deep: Float[Tensor, "J M W"] | None, layout: Layout
) -> Float[Tensor, "R C D"]:
    shared = layout.shared.embed(tower, context) if layout.shared else None
    rest = layout.rest.embed(tower, context)
    for j, block in enumerate(tower.blocks):
        final = j == len(tower.blocks) - 1
        prefix = layout.start[j] if layout.start else None
        if layout.shared and shared is not None:
            if deep is not None and 1 <= j <= len(deep):
                shared = layout.shared.replace(shared, deep[j - 1][layout.shared.number][None])
            shared, keys = _step(tower, block, shared, layout.shared, prefix, "none" if final else "all")
            prefix = _append(prefix, keys)
        if deep is not None and 1 <= j <= len(deep) and len(layout.rest.slots):
            rest = layout.rest.replace(rest, deep[j - 1][layout.rest.number][None])
        rest, _ = _step(tower, block, rest, layout.rest, prefix, "last" if final else "all")
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
) -> tuple[Tensor, Keys]:
    """One block over a segment: the new tokens (all, or the last of each text) and this segment's keys and values.

    The keys and values that come back are those of a segment of one text; nothing else is ever a prefix.
    """
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
    attended = [_attend(q, k, v, bucket, prefix, queries) for bucket in segment.buckets]
    return tower.finish(block, x, attended[0] if len(attended) == 1 else torch.cat(attended, dim=1)), keys


def _norm(attn: Any, name: str, x: Tensor) -> Tensor:
    normed: Tensor = getattr(attn, name)(x) if hasattr(attn, name) else x  # open_clip's custom block may have qk-norm
    return normed


def _attend(
    q: Tensor, k: Tensor, v: Tensor, bucket: Bucket, prefix: Keys | None, queries: Literal["all", "last"]
) -> Float[Tensor, "R tokens H d"]:
    """Attention of one bucket's queries (#R S H d) to the prefix and, causally, to their own text.

    The prefix is not repeated for each text: its scores are one product over the queries of all texts.
    """
    n, longest = bucket.shape

    def padded(t: Tensor) -> Tensor:  # (#R H texts L d)
        picked = t[:, bucket.tokens].index_select(1, bucket.pad)
        return torch.unflatten(picked, 1, (n, longest)).permute(0, 3, 1, 2, 4)

    if queries == "all":
        q, visible = padded(q), bucket.causal
    else:
        q, visible = q[:, bucket.texts].permute(0, 2, 1, 3)[:, :, :, None], bucket.until_last
    k, v = padded(k), padded(v)
    q = q * q.shape[-1] ** -0.5
    scores = (q @ k.transpose(-1, -2)).masked_fill(~visible, -torch.inf)
    if prefix is None:
        out = scores.softmax(-1) @ v
    else:
        prefix_keys, prefix_values = prefix
        split = prefix_keys.shape[2]
        ahead = torch.unflatten(q.flatten(2, 3) @ prefix_keys.transpose(-1, -2), 2, q.shape[2:4])
        scores = scores.expand(len(ahead), *scores.shape[1:])
        weights = torch.cat([ahead, scores], dim=-1).softmax(-1).to(v.dtype)
        out = weights[..., split:] @ v
        out = out + torch.unflatten(weights[..., :split].flatten(2, 3) @ prefix_values, 2, q.shape[2:4])
    out = out.permute(0, 2, 3, 1, 4).flatten(1, 2)
    return out.index_select(1, bucket.unpad) if queries == "all" else out


class PromptEncoder:
    """Text features under prompts, in as few passes as fit in memory.

    `memory_bytes` bounds what a pass may hold; None takes half of what the device has free. If there is more than one
    pass and gradients are recorded, passes are checkpointed.
    """

    def __init__(self, tower: TextTower) -> None:
        self.tower = tower
        self.memory_bytes: int | None = None
        self._last_pass = (1, 1)
        self._last_bytes = 0
        self._layouts: WeakKeyDictionary[ClassTokens, dict[Any, Layout | None]] = WeakKeyDictionary()
        self._plain_because = _why_plain(tower)
        if self._plain_because:
            log.debug("text goes the plain path: %s", self._plain_because)

    def __call__(self, prompts: TextPrompts, classes: ClassTokens) -> Float[Tensor, "#B C K D"]:
        """Unit-norm features of every class under every context.

        Raises BackboneError when the prompts don't fit the classes or the tower.
        """
        _check(self.tower, prompts, classes)
        context, deep = prompts.context, prompts.deep
        images, contexts, n_prompts, _, _ = context.shape
        n_classes = len(classes.names)
        if not n_classes:
            return context.new_empty(images, 0, n_prompts, self.tower.joint_width)
        rows = context.transpose(1, 2).flatten(0, 1)
        gradients = torch.is_grad_enabled() and (context.requires_grad or (deep is not None and deep.requires_grad))
        row_step, class_step = self._steps(len(rows), contexts > 1, classes, context.device, gradients)
        parts = []
        for r in range(0, len(rows), row_step):
            part = []
            for c in range(0, n_classes, class_step):
                chunk = rows[r : r + row_step, c : c + class_step] if contexts > 1 else rows[r : r + row_step]
                some = range(c, min(c + class_step, n_classes))
                if gradients and (row_step < len(rows) or class_step < n_classes):
                    features = checkpoint(
                        self._encode, chunk, deep, classes, some, use_reentrant=False, preserve_rng_state=False
                    )
                else:
                    features = self._encode(chunk, deep, classes, some)
                part.append(features)
            parts.append(torch.cat(part, dim=1))
        return torch.unflatten(torch.cat(parts), 0, (images, n_prompts)).transpose(1, 2)

    def halve_chunks(self) -> bool:
        """Let the next passes hold half of what the last ones held. False when they were of one text each."""
        if self._last_pass == (1, 1):
            return False
        self.memory_bytes = max(1, self._last_bytes // 2)
        return True

    def _encode(self, context: Tensor, deep: Tensor | None, classes: ClassTokens, some: range) -> Tensor:
        layout = self._layout(classes, some, context.shape[1] > 1, context.device)
        if layout is None:
            return encode_rows(self.tower, context, deep, _subset(classes, some))
        return _packed(self.tower, context, deep, layout)

    def _layout(self, classes: ClassTokens, some: range, per_class: bool, device: torch.device) -> Layout | None:
        """Made once for each set of classes. None: take the plain path."""
        if self._plain_because:
            return None
        autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
        key = some, per_class, device, autocast, self.tower.source.transformer.get_cast_dtype()
        layouts = self._layouts.setdefault(classes, {})
        if key not in layouts:
            # A learner may be evaluated first, and inference tensors can't be used in training later.
            with torch.inference_mode(False), torch.no_grad():
                layouts[key] = Layout.of(self.tower, _subset(classes, some), per_class, device)
        return layouts[key]

    def _steps(
        self, rows: int, per_class: bool, classes: ClassTokens, device: torch.device, gradients: bool
    ) -> tuple[int, int]:
        """How many rows, and how many classes, one pass may take."""
        n_classes = len(classes.names)
        layout = self._layout(classes, range(n_classes), per_class, device)
        tokens = layout.tokens if layout else classes.ids.numel()
        block = self.tower.blocks[0]
        width, hidden = block.mlp.c_fc.in_features, block.mlp.c_fc.out_features
        # A block keeps its two inputs, q, k, v (padded: twice), the attention and what the activation needs.
        kept = 4 * (12 * width + 3 * hidden) * (len(self.tower.blocks) if gradients else 1)
        row = max(1, kept * tokens)
        budget = self.memory_bytes or _free_bytes(device) // 2
        steps = max(1, min(rows, budget // row)), max(1, min(n_classes, n_classes * budget // row))
        self._last_pass, self._last_bytes = steps, row * steps[0] * steps[1] // n_classes
        return steps


def _subset(classes: ClassTokens, some: range) -> ClassTokens:
    picked = slice(some.start, some.stop)
    return ClassTokens(classes.names[picked], classes.ids[picked], classes.slots[picked])


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"  # macOS has the latter only
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def _why_plain(tower: TextTower) -> str:
    """The reason why a tower can't be packed; empty when it can."""
    causal = tower.source.attn_mask
    if causal is None or getattr(tower.source, "use_pad_mask", False):
        return "its attention is not causal"
    if tower.class_embedding is not None:
        return "it appends a class token"
    if tower.pool_type not in ("argmax", "eos"):
        return f"it is read at the {tower.pool_type} token"
    if getattr(tower.blocks[0].attn, "logit_scale", None) is not None:
        return "its attention is a scaled cosine"
    return ""


def _check(tower: TextTower, prompts: TextPrompts, classes: ClassTokens) -> None:
    contexts, n_ctx, width = prompts.context.shape[1], prompts.context.shape[3], prompts.context.shape[4]
    n_classes, n_slots = classes.slots.shape
    expected = tower.width
    if width != expected and n_ctx:
        raise BackboneError(f"context vectors are {width} wide; this text tower takes {expected}")
    if n_ctx != n_slots:
        raise BackboneError(f"{n_ctx} context tokens for classes with {n_slots} open places")
    if contexts not in (1, n_classes):
        raise BackboneError(f"contexts of {contexts} classes for {n_classes} classes")
    if prompts.deep is None:
        return
    if prompts.deep.shape[1:] != (n_slots, expected):
        shape = " x ".join(str(n) for n in prompts.deep.shape[1:])
        raise BackboneError(f"deep prompts are {shape}; this text tower and these classes take {n_slots} x {expected}")
    if len(prompts.deep) >= len(tower.blocks):
        raise BackboneError(
            f"deep prompts for {len(prompts.deep)} blocks after the first; the text tower has {len(tower.blocks)}"
        )

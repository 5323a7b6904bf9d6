"""The text tower under prompts: exact features for far less work than 77 tokens for each image and class.

CLIP's text tower is causal and is read at the end token, so, with nothing approximated, texts are cut behind it, what they
have in common is computed once, and the rest is packed without padding (`promptkit.backbones.packed`). All images, views
and prompts go in one pass, or in as many as memory asks for. A tower that isn't causal, or is read elsewhere, takes the
plain path through its own blocks.
"""

import contextlib
import ctypes
import logging
import sys
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from promptkit.backbones.arena import Arena, Arenas
from promptkit.backbones.blocks import check_edits
from promptkit.backbones.frozen_block import is_frozen, kept_bytes
from promptkit.backbones.packed import Layout, encode_packed
from promptkit.backbones.passes import Cost, Keep, default_budget, pass_sizes, spans, what_to_keep
from promptkit.backbones.plain_text import Rows, encode_rows
from promptkit.backbones.text_tower import TextTower, check_context
from promptkit.errors import BackboneError
from promptkit.tensors import ClassTokens, TextPrompts

log = logging.getLogger("promptkit")


def encode_plain(tower: TextTower, prompts: TextPrompts, classes: ClassTokens) -> Float[Tensor, "#B C K D"]:
    """Unit-norm features with nothing saved: the reference that tests and benchmarks compare with."""
    return _split(encode_rows(tower, Rows.of(tower, prompts, classes), classes), prompts)


def _split(features: Float[Tensor, "R C k D"], prompts: TextPrompts) -> Float[Tensor, "#B C K D"]:
    """From rows to images and prompts."""
    n_prompts = 1 if prompts.context is None else prompts.context.shape[2]
    return torch.unflatten(features, 0, (-1, n_prompts)).transpose(1, 2).flatten(2, 3)


class TextPlan(NamedTuple):
    """How texts go through the tower."""

    passes: list[tuple[range, range, Keep]]
    """Rows, classes, and what is kept, of each."""
    step: tuple[int, int]
    """How many rows and classes a pass takes at most."""
    work: int
    """Bytes that a pass holds at most while a block computes."""
    kept: int
    """Bytes that all passes hold at most for the backward pass."""


class PromptEncoder:
    """Text features under prompts, in as few passes as fit in memory.

    `memory_bytes` bounds what all passes together may hold; None takes half of a GPU's memory, or a quarter of the
    machine's. `checkpoint` says whether passes compute their activations again for the backward pass, when gradients are
    recorded; "auto": where holding them all would exceed the bound, and no more of them than that takes
    (`promptkit.backbones.passes`).
    """

    def __init__(self, tower: TextTower) -> None:
        self.tower = tower
        self.memory_bytes: int | None = None
        self.checkpoint: Literal["auto", "on", "off"] = "auto"
        self._last_pass = (1, 1)
        self._last_bytes = 0
        self._layouts: WeakKeyDictionary[ClassTokens, dict[Any, Layout | None]] = WeakKeyDictionary()
        self._arenas = Arenas()
        self._plain_because = _why_plain(tower)
        if self._plain_because:
            log.debug("text goes the plain path: %s", self._plain_because)

    def __call__(self, prompts: TextPrompts, classes: ClassTokens) -> Float[Tensor, "#B C K D"]:
        """Unit-norm features of every class under every context.

        Raises BackboneError when the prompts don't fit the classes or the tower.
        """
        _check(self.tower, prompts, classes)
        if torch.compiler.is_compiling():  # an export: what follows counts the images
            return encode_plain(self.tower, prompts, classes)
        rows, n_classes = Rows.of(self.tower, prompts, classes), len(classes.names)
        if not n_classes:
            each = 1 if rows.read_only is None else rows.read_only.shape[2]
            return _split(rows.context.new_empty(rows.count, 0, each, self.tower.joint_width), prompts)
        gradients = torch.is_grad_enabled() and (rows.learned or not self.tower.frozen)
        plan = self.plan(rows, classes, gradients, rows.context.device)
        passes, self._last_pass, self._last_bytes = plan.passes, plan.step, plan.work + plan.kept
        if not gradients:
            self._arenas.clear()
        afresh = len(passes) > 1 and rows.context.device.type == "cpu"
        features: dict[range, list[Tensor]] = {}
        for r, c, keep in passes:
            arguments = rows.part(r, c), classes, c, keep
            if afresh:
                _return_what_is_freed()
            if keep == "nothing":  # edits may draw random numbers
                part = checkpoint(self._encode, *arguments, use_reentrant=False, preserve_rng_state=bool(rows.edits))
            else:
                part = self._encode(*arguments)
            if afresh and part.requires_grad:
                torch.autograd.graph.register_multi_grad_hook([part], _return_what_is_freed)  # before its backward pass
            features.setdefault(r, []).append(part)
        return _split(torch.cat([torch.cat(parts, dim=1) for parts in features.values()]), prompts)

    def halve_chunks(self) -> bool:
        """Let the next passes hold half of what the last ones held.

        False when they were of one text each.
        """
        if self._last_pass == (1, 1):
            return False
        if self.checkpoint == "off":
            self.checkpoint = "auto"
        self.memory_bytes = max(1, self._last_bytes // 2)
        self._last_pass = (1, 1)  # if memory runs out again before text is encoded, smaller passes would not help
        return True

    def _encode(self, rows: Rows, classes: ClassTokens, some: range, keep: Keep) -> Tensor:
        layout = self._layout(classes, some, rows)
        if layout is None:
            return encode_rows(self.tower, rows, _subset(classes, some))
        return encode_packed(self.tower, rows, layout, keep, self._arena(rows, layout, keep))

    def _arena(self, rows: Rows, layout: Layout, keep: Keep) -> Arena | None:
        """For a pass on the CPU whose gradients are recorded."""
        block, dtype = self.tower.blocks[0], self.tower.source.transformer.get_cast_dtype()
        if rows.edits or rows.context.device.type != "cpu" or not torch.is_grad_enabled() or not is_frozen(block):
            return None
        tokens = rows.count * layout.tokens
        return self._arenas.take(len(self.tower.blocks) * kept_bytes(block, tokens, keep == "inputs", dtype))

    def _layout(self, classes: ClassTokens, some: range, rows: Rows) -> Layout | None:
        """Made once for each set of classes. None: take the plain path."""
        if self._plain_because or (rows.late and (rows.edits or rows.read_only is not None)):
            return None
        device, frozen = rows.context.device, self.tower.frozen and not rows.edits
        late = rows.first if rows.late else 0
        autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
        key = some, rows.per_class, device, autocast, self.tower.source.transformer.get_cast_dtype(), frozen, late
        layouts = self._layouts.setdefault(classes, {})
        if key not in layouts:
            # A learner may be evaluated first, and inference tensors can't be used in training later.
            with torch.inference_mode(False), torch.no_grad():
                layouts[key] = Layout.of(self.tower, _subset(classes, some), rows.per_class, device, frozen, late)
        return layouts[key]

    def plan(self, rows: Rows, classes: ClassTokens, gradients: bool, device: torch.device) -> TextPlan:
        """The passes on a device of this kind, which need not be that of the rows."""
        n_classes = len(classes.names)
        cost = self._cost(rows, classes, device)
        budget = self.memory_bytes or default_budget(device)
        row_step, class_step = pass_sizes(rows.count, n_classes, cost, budget, gradients, device.type == "cpu")
        passes = [(r, c) for r in spans(rows.count, row_step) for c in spans(n_classes, class_step)]
        share = row_step * class_step / n_classes
        keeps: list[Keep] = ["all"] * len(passes)
        if gradients and self.checkpoint == "on":
            keeps = ["nothing"] * len(passes)
        elif gradients:
            keeps = what_to_keep(len(passes), cost, share, budget if self.checkpoint == "auto" else sys.maxsize)
        of: dict[Keep, int] = {"all": cost.everything, "inputs": cost.inputs, "nothing": 0}
        kept = sum(of[keep] for keep in keeps) if gradients else 0
        kept_of = [(r, c, keep) for (r, c), keep in zip(passes, keeps, strict=True)]
        return TextPlan(kept_of, (row_step, class_step), int(share * cost.work), int(share * kept))

    def _cost(self, rows: Rows, classes: ClassTokens, device: torch.device) -> Cost:
        layout = self._layout(classes, range(len(classes.names)), rows)
        tokens = layout.tokens if layout else classes.ids.numel()
        if rows.read_only is not None:
            tokens += len(classes.names) * rows.read_only.shape[2]
        frozen = (
            layout is not None and not self.tower.compiled and not rows.edits and all(map(is_frozen, self.tower.blocks))
        )
        return Cost.of(self.tower.blocks[0], len(self.tower.blocks), tokens, frozen, device)


def _subset(classes: ClassTokens, some: range) -> ClassTokens:
    picked = slice(some.start, some.stop)
    return ClassTokens(classes.names[picked], classes.ids[picked], classes.context_positions[picked])


def _return_what_is_freed(*_: Any) -> None:
    """Have glibc give back what a pass has freed: small things that stay lie in it, and the next pass would not fit between.

    Other C libraries have no such call.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


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
    """Raises BackboneError when prompts don't fit the classes or the tower."""
    (n_classes, n_slots), expected, depth = classes.context_positions.shape, tower.width, len(tower.blocks)
    if prompts.context is not None:
        check_context(prompts.context, classes, expected)
        n_prompts = prompts.context.shape[2]
        if prompts.read_only is not None and n_prompts > 1:
            raise BackboneError(f"read-only prompts behind {n_prompts} contexts of a class; they take one")
    elif n_slots and prompts.deep is None:
        raise BackboneError(
            f"no context for classes with {n_slots} open places, and no deep prompts to fill them later"
        )
    _check_deep(prompts, n_classes, n_slots, expected, depth)
    if prompts.read_only is not None:
        _, contexts, _, width = prompts.read_only.shape
        if contexts not in (1, n_classes) or width != expected:
            raise BackboneError(
                f"read-only prompts of {contexts} classes, {width} wide; this text tower and these classes take {n_classes} "
                f"or 1, {expected} wide"
            )
        if getattr(tower.blocks[0].attn, "logit_scale", None) is not None:
            raise BackboneError("the text tower's attention is a scaled cosine, which takes no read-only prompts")
    check_edits("text", tower.blocks, prompts.edits)


def _check_deep(prompts: TextPrompts, classes: int, slots: int, width: int, depth: int) -> None:
    if prompts.deep is None:
        return
    if prompts.deep.shape[1] not in (1, classes) or prompts.deep.shape[2:] != (slots, width):
        shape = " x ".join(str(n) for n in prompts.deep.shape[1:])
        raise BackboneError(
            f"deep prompts are {shape}; this text tower and these classes take 1 x {slots} x {width}, or {classes} in front "
            "where each class has its own"
        )
    last = prompts.first + len(prompts.deep) - 1
    if not 1 <= prompts.first <= last < depth:
        raise BackboneError(
            f"deep prompts for blocks {prompts.first} to {last}; the text tower has {depth}, and they go from block 1 to "
            f"{depth - 1}"
        )

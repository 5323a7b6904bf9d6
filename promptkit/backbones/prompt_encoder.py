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
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from promptkit.backbones.frozen_block import is_frozen
from promptkit.backbones.packed import Layout, encode_packed
from promptkit.backbones.passes import Cost, Keep, default_budget, pass_sizes, spans, what_to_keep
from promptkit.backbones.text_tower import TextTower, encode_rows
from promptkit.errors import BackboneError
from promptkit.tensors import ClassTokens, TextPrompts

log = logging.getLogger("promptkit")


def encode_plain(tower: TextTower, prompts: TextPrompts, classes: ClassTokens) -> Float[Tensor, "#B C K D"]:
    """Unit-norm features with nothing saved: the reference that tests and benchmarks compare with."""
    images, _, n_prompts, _, _ = prompts.context.shape
    rows = prompts.context.transpose(1, 2).flatten(0, 1)
    features = encode_rows(tower, rows, prompts.deep, classes)
    return torch.unflatten(features, 0, (images, n_prompts)).transpose(1, 2)


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
        self._plain_because = _why_plain(tower)
        if self._plain_because:
            log.debug("text goes the plain path: %s", self._plain_because)

    def __call__(self, prompts: TextPrompts, classes: ClassTokens) -> Float[Tensor, "#B C K D"]:
        """Unit-norm features of every class under every context.

        Raises BackboneError when the prompts don't fit the classes or the tower.
        """
        _check(self.tower, prompts, classes)
        context, deep = prompts.context, prompts.deep
        if torch.compiler.is_compiling():  # an export: what follows counts the images
            return encode_plain(self.tower, prompts, classes)
        images, contexts, n_prompts, _, _ = context.shape
        n_classes = len(classes.names)
        if not n_classes:
            return context.new_empty(images, 0, n_prompts, self.tower.joint_width)
        rows = context.transpose(1, 2).flatten(0, 1)
        learned = context.requires_grad or (deep is not None and deep.requires_grad) or not self.tower.frozen
        gradients = torch.is_grad_enabled() and learned
        passes = self._plan(len(rows), contexts > 1, classes, context.device, gradients)
        encode = self._encode_afresh if len(passes) > 1 and context.device.type == "cpu" else self._encode
        features: dict[range, list[Tensor]] = {}
        for r, c, keep in passes:
            chunk = rows[r.start : r.stop]
            if contexts > 1:
                chunk = chunk[:, c.start : c.stop]
            arguments = chunk, deep, classes, c, keep
            if keep == "nothing":
                part = checkpoint(encode, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                part = encode(*arguments)
            features.setdefault(r, []).append(part)
        joined = torch.cat([torch.cat(parts, dim=1) for parts in features.values()])
        return torch.unflatten(joined, 0, (images, n_prompts)).transpose(1, 2)

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

    def _encode_afresh(self, *arguments: Any) -> Tensor:
        _return_what_is_freed()
        return self._encode(*arguments)

    def _encode(self, context: Tensor, deep: Tensor | None, classes: ClassTokens, some: range, keep: Keep) -> Tensor:
        layout = self._layout(classes, some, context.shape[1] > 1, context.device)
        if layout is None:
            return encode_rows(self.tower, context, deep, _subset(classes, some))
        return encode_packed(self.tower, context, deep, layout, keep)

    def _layout(self, classes: ClassTokens, some: range, per_class: bool, device: torch.device) -> Layout | None:
        """Made once for each set of classes. None: take the plain path."""
        if self._plain_because:
            return None
        autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
        key = some, per_class, device, autocast, self.tower.source.transformer.get_cast_dtype(), self.tower.frozen
        layouts = self._layouts.setdefault(classes, {})
        if key not in layouts:
            # A learner may be evaluated first, and inference tensors can't be used in training later.
            with torch.inference_mode(False), torch.no_grad():
                some_classes = _subset(classes, some)
                layouts[key] = Layout.of(self.tower, some_classes, per_class, device, self.tower.frozen)
        return layouts[key]

    def _plan(
        self, rows: int, per_class: bool, classes: ClassTokens, device: torch.device, gradients: bool
    ) -> list[tuple[range, range, Keep]]:
        """Rows, classes, and what is kept, of each pass."""
        n_classes = len(classes.names)
        cost = self._cost(per_class, classes, device)
        budget = self.memory_bytes or default_budget(device)
        row_step, class_step = pass_sizes(rows, n_classes, cost, budget, gradients, device.type == "cpu")
        passes = [(r, c) for r in spans(rows, row_step) for c in spans(n_classes, class_step)]
        share = row_step * class_step / n_classes
        keeps: list[Keep] = ["all"] * len(passes)
        if gradients and self.checkpoint == "on":
            keeps = ["nothing"] * len(passes)
        elif gradients:
            keeps = what_to_keep(len(passes), cost, share, budget if self.checkpoint == "auto" else sys.maxsize)
        of: dict[Keep, int] = {"graph": cost.graph, "all": cost.everything, "inputs": cost.inputs, "nothing": 0}
        kept = sum(of[keep] for keep in keeps) if gradients else 0
        self._last_pass, self._last_bytes = (row_step, class_step), int(share * (cost.work + kept))
        return [(r, c, keep) for (r, c), keep in zip(passes, keeps, strict=True)]

    def _cost(self, per_class: bool, classes: ClassTokens, device: torch.device) -> Cost:
        layout = self._layout(classes, range(len(classes.names)), per_class, device)
        tokens = layout.tokens if layout else classes.ids.numel()
        frozen = layout is not None and not self.tower.compiled and all(map(is_frozen, self.tower.blocks))
        return Cost.of(self.tower.blocks[0], len(self.tower.blocks), tokens, frozen, device)


def _subset(classes: ClassTokens, some: range) -> ClassTokens:
    picked = slice(some.start, some.stop)
    return ClassTokens(classes.names[picked], classes.ids[picked], classes.context_positions[picked])


def _return_what_is_freed() -> None:
    """Have glibc give back what a pass has freed: its holes would not fit the next one, and the peak was twice as high.

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
    contexts, n_ctx, width = prompts.context.shape[1], prompts.context.shape[3], prompts.context.shape[4]
    n_classes, n_slots = classes.context_positions.shape
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

"""(a), (f): the text tower forward and backward to the contexts, plain, then with each of the encoder's steps added; and to
low-rank changes of its weights."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import plain
import torch
import torch.nn.functional as F
from measuring import best, check, classnames, learner_for, report
from torch import Tensor
from torch.func import functional_call

from promptkit.backbones.packed import Layout, encode_packed
from promptkit.backbones.plain_text import Rows
from promptkit.backbones.segments import Segment
from promptkit.backbones.text_tower import TextTower, mark_slots
from promptkit.edits import Delta, Edits
from promptkit.tensors import ClassTokens, TextPrompts

FEATURES, GRADIENTS = 1e-5, 1e-4
"""Tolerances, relative to the largest entry; after twelve blocks in float32."""
AT_ONCE = 100
"""Classes of one picture that the plain side holds: 1000 of 77 tokens, with gradients, would fill 45 GB."""

Encode = Callable[[Tensor, int], Tensor]
"""One context (M W) before the classes of a part: (C D)."""


def text(options: argparse.Namespace) -> None:
    """Plain, trimmed and shared are loops over pictures, so their time is that of one, measured on few."""
    backbone: Any = learner_for("coop", options, 2).scene.backbone
    peak = matmul_rate(256 if options.smoke else 2048)
    if options.smoke:
        cases = [(3, 4, (1, 2))]
    elif options.quick:
        cases = [(n_classes, 4, (1, 4)) for n_classes in (10, 50)]
    else:
        counts = [options.classes] if options.classes else [10, 50, 100, 1000]
        cases = [(n, m, (1, 4, 32)) for n in counts for m in (4, 16) if n < 1000 or m == 4]
    for case in cases:
        row(backbone, *case, peak)


def row(backbone: Any, n_classes: int, n_ctx: int, sizes: tuple[int, ...], peak: float) -> None:
    classes = backbone.class_tokens(classnames(n_classes), n_ctx)
    context = (0.02 * torch.randn(max(sizes), n_ctx, backbone.text_width)).requires_grad_()
    weight = torch.randn(max(sizes), n_classes, backbone.joint_width)
    parts = [
        ClassTokens(classes.names[i : i + AT_ONCE], ids, context_positions)
        for i, ids, context_positions in zip(
            range(0, n_classes, AT_ONCE),
            classes.ids.split(AT_ONCE),
            classes.context_positions.split(AT_ONCE),
            strict=True,
        )
    ]
    layouts = [padded(backbone.text_tower, part) for part in parts]
    few = 1 if n_classes >= 50 else min(4, max(sizes))
    results: dict[str, tuple[Tensor, Tensor]] = {}

    def loop(name: str, encode: Encode) -> None:
        """Picture after picture, with a backward pass for each as it fits."""
        features, gradient = [], torch.zeros_like(context)
        for one, image in enumerate(context[:few]):
            for part, part_weight in enumerate(weight[one].split(AT_ONCE)):
                out = encode(image, part)
                gradient += torch.autograd.grad((out * part_weight).sum(), context, retain_graph=True)[0]
                features.append(out.detach())
        results[name] = torch.cat(features).view(few, n_classes, -1), gradient[:few]

    def packed(size: int) -> None:
        out = backbone.encode_text(TextPrompts(context[:size, None, None]), classes)[:, :, 0]
        gradient = torch.autograd.grad((out * weight[:size]).sum(), context)[0]
        results[f"packed {size}"] = out.detach()[:few], gradient[:few]

    longest = int(classes.ids.scatter(1, classes.context_positions, 0).argmax(1).max()) + 1
    loops: dict[str, Encode] = {
        "plain": lambda image, part: plain.encode_text(backbone, image, parts[part]),
        "trimmed": lambda image, part: plain.encode_text(backbone, image, parts[part], longest),
        "shared": lambda image, part: encode_packed(backbone.text_tower, Rows(image[None, None]), layouts[part])[
            0, :, 0
        ],
    }
    packed(1)  # constants are computed once
    repeats = 1 if n_classes > 100 else 2
    sides: dict[str, Callable[[], Any]] = {
        name: lambda name=name, encode=encode: loop(name, encode) for name, encode in loops.items()
    }
    sides |= {f"packed {size}": lambda size=size: packed(size) for size in sizes}
    times = best(sides, {**dict.fromkeys(loops, repeats), **{f"packed {size}": 1 if size > 4 else 3 for size in sizes}})
    off, off_gradient = 0.0, 0.0
    for name, (features, gradient) in results.items():
        seen = min(few, int(name.split()[1])) if name.startswith("packed") else few
        off = max(off, check(f"{name}, features", features[:seen], results["plain"][0][:seen], FEATURES))
        off_gradient = max(
            off_gradient, check(f"{name}, gradients", gradient[:seen], results["plain"][1][:seen], GRADIENTS)
        )
    image = {name: tuple(t / few for t in times[name]) for name in loops}
    image |= {f"packed {size}": tuple(t / size for t in times[f"packed {size}"]) for size in sizes}
    base = image["plain"]
    tokens = backbone.encoder._layout(classes, range(n_classes), Rows(context[:1, None])).tokens
    block = sum(p.numel() for p in backbone.text_tower.blocks[0].parameters() if p.ndim == 2)
    flops = 4 * tokens * block * backbone.text_depth  # of a picture: forward, and backward to the inputs
    report(
        "text",
        C=n_classes,
        M=n_ctx,
        tokens={"plain": 77 * n_classes, "trimmed": longest * n_classes, "packed": tokens},
        **{"plain cpu s a picture": base[0], "plain wall s a picture": base[1]},
        packed_wall={
            name.removeprefix("packed "): {
                "s a picture": round(wall, 4),
                "ms a class": round(1e3 * wall / n_classes, 3),
                "us a token": round(1e6 * wall / tokens, 1),
            }
            for name, (_, wall) in image.items()
            if name.startswith("packed")
        },
        times_cpu={name: round(base[0] / cpu, 2) for name, (cpu, _) in image.items()},
        times_wall={name: round(base[1] / wall, 2) for name, (_, wall) in image.items()},
        share_of_matmul={n: round(flops / image[n][1] / peak, 2) for n in image if n.startswith("packed")},
        features_off=f"{off:.1e}",
        gradients_off=f"{off_gradient:.1e}",
    )


def low_rank(options: argparse.Namespace) -> None:
    """CLIP-LoRA's text pass, forward and backward to the changes of q, k, v in every block: each picture's texts in full
    length by the model itself with changed weights, in a loop as in CoCoOp's code; and once for all pictures."""
    backbone: Any = learner_for("coop", options, 2).scene.backbone
    clip, width, n_classes = backbone.model, backbone.text_width, 3 if options.smoke else options.classes or 50
    images, generator = options.batch or 4, torch.Generator().manual_seed(0)
    classes = backbone.class_tokens(classnames(n_classes), 0, words="a photo of a")
    weight = torch.randn(n_classes, backbone.joint_width, generator=generator)
    places = [(block, name) for block in range(backbone.text_depth) for name in ("q", "k", "v")]
    learned = [
        (0.02 * torch.randn(*shape, generator=generator)).requires_grad_()
        for _ in places
        for shape in ((2, width), (width, 2))
    ]
    deltas = {place: Delta(down, up) for place, down, up in zip(places, learned[::2], learned[1::2], strict=True)}
    found: dict[str, tuple[Tensor, list[Tensor]]] = {}

    def keep(name: str, text: Tensor) -> None:
        found[name] = text.detach(), list(torch.autograd.grad((text * weight).sum(), learned))

    def changed() -> None:
        weights = {}
        for block in range(backbone.text_depth):
            name = f"transformer.resblocks.{block}.attn.in_proj_weight"
            change = [deltas[block, part].up @ deltas[block, part].down for part in ("q", "k", "v")]
            weights[name] = clip.get_parameter(name) + torch.cat(change)
        keep("plain", F.normalize(functional_call(clip, weights, (None, classes.ids))[1], dim=-1))

    def packed() -> None:
        keep("packed", backbone.encode_text(TextPrompts(None, edits=Edits(deltas)), classes)[0, :, 0])

    packed()
    times = best({"plain": changed, "packed": packed}, {"plain": 2, "packed": 4})
    (text, gradients), (expected, right) = found["packed"], found["plain"]
    off = check("low rank, features", text, expected, FEATURES)
    together = (torch.cat([gradient.flatten() for gradient in each]) for each in (gradients, right))
    off_gradient = check("low rank, gradients", *together, GRADIENTS)
    (cpu, wall), (packed_cpu, packed_wall) = times["plain"], times["packed"]
    report(
        "low rank",
        B=images,
        C=n_classes,
        **{"plain cpu s": cpu, "plain wall s": wall, "packed cpu s": packed_cpu, "packed wall s": packed_wall},
        once_times={"cpu": round(cpu / packed_cpu, 2), "wall": round(wall / packed_wall, 2)},
        loop_times={"cpu": round(images * cpu / packed_cpu, 2), "wall": round(images * wall / packed_wall, 2)},
        features_off=f"{off:.1e}",
        gradients_off=f"{off_gradient:.1e}",
    )


def padded(tower: TextTower, classes: ClassTokens) -> Layout:
    """A shared prefix, but every class's rest padded to the longest."""
    layout = Layout.of(tower, classes, False, torch.device("cpu"), True)
    assert layout is not None
    assert layout.start is not None
    assert layout.shared is not None
    words, numbers = mark_slots(classes)
    prefix = layout.start[0][0].shape[2] + len(layout.shared.ids)
    end = tower.read_at(words) - prefix
    longest = int(end.max()) + 1
    rest = Segment.of(words, numbers, prefix, torch.full_like(end, prefix + longest))
    (bucket,) = rest.buckets
    bucket = replace(bucket, until_last=(torch.arange(longest) <= end[:, None])[:, None])
    rest = replace(rest, last=torch.arange(len(end)) * longest + end, buckets=(bucket,))
    return replace(layout, rest=rest)


def matmul_rate(n: int) -> float:
    """FLOP/s of a square float32 matmul, the best of five."""
    a, b = torch.randn(n, n), torch.randn(n, n)
    return 2 * n**3 / best({"": lambda: a @ b}, {"": 5})[""][1]

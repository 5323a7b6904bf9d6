"""What the benchmarks share: class names, the learner of a recipe, timing in turns, and comparing what came out.

Loading it loads no CLIP, which not all of them need.
"""

import argparse
import ctypes
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from promptkit.learner import Learner

CALTECH = """
    accordion, airplane, anchor, ant, barrel, bass, beaver, binocular, bonsai, brain, brontosaurus, buddha,
    butterfly, camera, cannon, car side, ceiling fan, cellphone, chair, chandelier, cougar body, cougar face, crab,
    crayfish, crocodile, crocodile head, cup, dalmatian, dollar bill, dolphin, dragonfly, electric guitar, elephant,
    emu, euphonium, ewer, face, ferry, flamingo, flamingo head, garfield, gerenuk, gramophone, grand piano,
    hawksbill, headphone, hedgehog, helicopter, ibis, inline skate
"""


def classnames(n: int) -> list[str]:
    """Of the first 50 names of Caltech-101; ImageNet's, spread evenly, where more are asked for."""
    if n <= 50:
        return [name.strip() for name in CALTECH.split(",")][:n]
    from open_clip import IMAGENET_CLASSNAMES

    return list(IMAGENET_CLASSNAMES[:: 1000 // n][:n])


def learner_for(recipe: str, options: argparse.Namespace, classes: int) -> "Learner":
    from promptkit.build import build_learner, load_backbone
    from promptkit.components import Scene
    from promptkit.config import resolve
    from promptkit.registry import installed

    flags = {"backbone.name": options.backbone, "backbone.weights": "none"}
    config = resolve(installed(), recipe, flags=flags)
    backbone = load_backbone(config.backbone, installed())
    return build_learner(config, installed(), Scene(backbone, tuple(classnames(classes)))).train()


def best(sides: dict[str, Callable[[], Any]], repeats: dict[str, int]) -> dict[str, tuple[float, float]]:
    """CPU and wall seconds of each side, the best of its repeats, in turns."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number in range(max(repeats.values())):
        for name, side in sides.items():
            if number < repeats[name]:
                cpu, wall = time.process_time(), time.perf_counter()
                side()
                times[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {name: (min(t[0] for t in taken), min(t[1] for t in taken)) for name, taken in times.items()}


def check(name: str, one: torch.Tensor, other: torch.Tensor, tolerance: float) -> float:
    off = ((one - other).abs().max() / other.abs().max().clamp(min=1e-12)).item()
    if not off <= tolerance:
        raise SystemExit(f"{name}: the two sides differ by {off:.1e}, more than {tolerance:.0e}")
    return off


def a_training(about: str | None) -> argparse.ArgumentParser:
    """The arguments of a benchmark of one training."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("recipe")
    parser.add_argument("backbone")
    parser.add_argument("batch", type=int)
    parser.add_argument("classes", type=int)
    return parser


kept_in: Path | None = None
"""Where rows go, beside being printed."""


def report(table: str, **row: Any) -> None:
    line = json.dumps({"table": table, **{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}})
    print(line, flush=True)
    if kept_in:
        with kept_in.open("a") as file:
            file.write(f"{line}\n")


def ratios(times: dict[str, tuple[float, float]], base: str) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, (cpu, wall) in times.items():
        row |= {f"{name} cpu s": cpu, f"{name} wall s": wall}
        if name != base:
            row |= {f"{name} times (cpu)": times[base][0] / cpu, f"{name} times (wall)": times[base][1] / wall}
    return row


def resident(key: str) -> int:
    """In bytes (Linux): VmRSS now, RssAnon of it what is of no file, VmHWM at most since the mark was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def reset_mark() -> int:
    """Begin a new high-water mark of resident memory (Linux); what is held now, in bytes."""
    ctypes.CDLL(None).malloc_trim(0)  # what loading freed may not be used again unseen
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")

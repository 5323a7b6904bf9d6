"""Benchmarks: `python benchmarks/run.py text|steps|memory|budget|views|eval|largest|store`; `all` does one after the other.

Both sides of a ratio run in turns in one process, with the same threads, weights and inputs, and what they compute is
compared: a difference beyond the tolerance ends the run. Times are the best of several, in CPU seconds of the process
(which other work on the machine changes little) and in wall seconds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import plain
import torch
from measuring import best, check, classnames, learner_for, ratios, report, reset_mark, resident
from store import store
from text_tower import low_rank, text

from promptkit.backbones.base import Backbone
from promptkit.backbones.plain_text import Rows
from promptkit.build import build_learner, build_views, load_backbone
from promptkit.components import Scene
from promptkit.config import resolve
from promptkit.learner import Learner
from promptkit.registry import installed
from promptkit.settings import LoaderSettings
from promptkit.tensors import Batch


def random_batch(learner: Learner, views: tuple[str, ...], size: int) -> Batch:
    height, width = learner.scene.backbone.image.size
    label = torch.arange(size) % len(learner.classnames)
    return Batch({name: torch.randn(size, 3, height, width) for name in views}, label)


def sides_of(
    recipe: str, options: argparse.Namespace, warm: bool = True
) -> tuple[dict[str, Callable[[], Any]], dict[str, Any]]:
    """The plain step, the framework's, and the framework's on cached features."""
    sizes = {"coop": (4, 50), "cocoop": (1, 50), "gopro-reference": (4, 50)}
    size, classes = (3, 3) if options.smoke else sizes[recipe]
    size, classes = options.batch or size, options.classes or classes
    learner = learner_for(recipe, options, classes)
    views = ("image", "moco", "augmix") if recipe == "gopro-reference" else ("image",)
    batch = random_batch(learner, views, size)
    seen = replace(learner.encode_image(torch.cat(list(batch.views.values()))), views=views)
    results: dict[str, Any] = {}

    def finish(name: str, logits: torch.Tensor, loss: torch.Tensor) -> None:
        learner.zero_grad()
        loss.backward()
        results[name] = logits.detach(), [p.grad.clone() for p in learner.parameters() if p.grad is not None]

    def framework(name: str, batch: Batch) -> None:
        outputs = learner(batch)
        finish(name, outputs.logits, torch.stack(list(learner.loss(outputs).values())).sum())

    if warm:  # constants are computed once
        framework("warm", batch)
    sides = {
        "plain": lambda: finish("plain", *plain.STEPS[recipe](learner, batch)),
        "step": lambda: framework("step", batch),
        "cached": lambda: framework("cached", Batch({}, batch.label, seen)),
    }
    return sides, results


def steps(options: argparse.Namespace) -> None:
    """(b): the whole training step, without the optimiser, against the published one."""
    for recipe in options.recipes[:2] if options.quick else options.recipes:
        sides, results = sides_of(recipe, options)
        times = best(sides, {"plain": 1, "step": 3, "cached": 3})
        logits, gradients = results["plain"]
        for name in ("step", "cached"):
            check(f"{recipe} {name} logits", results[name][0], logits, 1e-4)
            # A bias in front of a batch norm has no gradient but rounding.
            rounding = 1e-4 * max(gradient.abs().max().item() for gradient in gradients)
            for one, other in zip(results[name][1], gradients, strict=True):
                if max(one.abs().max(), other.abs().max()) > rounding:
                    check(f"{recipe} {name} gradients", one, other, 1e-3)
        report("steps", recipe=recipe, B=len(logits), C=logits.shape[1], **ratios(times, "plain"))


def memory(options: argparse.Namespace) -> None:
    """(e): peak resident memory of one step above that of the loaded model, each side in a process of its own."""
    if not Path("/proc/self/clear_refs").exists():
        print("memory is measured on Linux only", file=sys.stderr)
        return
    for recipe in options.recipes[:1] if options.quick or options.smoke else options.recipes:
        peaks = {}
        for side in ("plain", "step", "cached"):
            words = ["--backbone", options.backbone, "--threads", str(options.threads), "--recipes", recipe]
            words += ["--smoke"] if options.smoke else []
            words += ["--batch", str(options.batch), "--classes", str(options.classes)]
            command = [sys.executable, __file__, "peak", "--side", side, *words]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            peaks[side] = int(done.stdout)
        report(
            "memory",
            recipe=recipe,
            **{f"{k} MB": v / 1000 for k, v in peaks.items()},
            times=peaks["plain"] / peaks["step"],
        )


def peak(options: argparse.Namespace) -> None:
    """One side once, in kB: the high-water mark of resident memory, reset when everything was loaded (Linux)."""
    sides, _ = sides_of(options.recipes[0], options, warm=False)
    before = reset_mark()
    sides[options.side]()
    print(max(1, (resident("VmHWM") - before) // 1024))


def budget(options: argparse.Namespace) -> None:
    """(e): peak memory of a conditional learner's text pass by `--memory-gb` (`budget.py`), in a process each."""
    if options.quick or not Path("/proc/self/clear_refs").exists():
        return
    batch, classes, budgets = (4, 20, (0.05,)) if options.smoke else (8, 250, (1, 2, 4))
    for gigabytes in budgets:
        words = ["--backbone", options.backbone, "--batch", batch, "--classes", classes, "--memory-gb", gigabytes]
        command = [sys.executable, Path(__file__).with_name("budget.py"), *words, "--threads", options.threads]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        report("budget", **json.loads(done.stdout))


def views(options: argparse.Namespace) -> None:
    """(c): GOPro's "image" and "moco" views of a 500 x 375 picture, against torchvision's transforms of the same kind."""
    from PIL import Image
    from torchvision.transforms import v2

    config = resolve(installed(), "gopro", flags={"backbone.name": "tiny", "backbone.weights": "none"})
    spec = replace(load_backbone(config.backbone, installed()).image, size=(224, 224))
    holder = argparse.Namespace(image=spec)
    made = build_views(config, installed(), holder)  # type: ignore[arg-type]
    image = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    ours = {name: made._composed[name] for name in ("image", "moco")}  # type: ignore[attr-defined]
    crop = v2.RandomResizedCrop(224, (0.08, 1.0), interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    ending = [
        v2.RandomHorizontalFlip(),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, True),
        v2.Normalize(spec.mean, spec.std),
    ]
    jitter = [v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8), v2.RandomGrayscale(0.2)]
    theirs = {
        "image": v2.Compose([crop, *ending]),
        "moco": v2.Compose([crop, *jitter, v2.GaussianBlur(23, (0.1, 2.0)), *ending]),
    }
    n = 4 if options.smoke else 15 if options.quick else 60
    for name in ours:
        sides = {
            "torchvision": lambda name=name: [theirs[name](Image.fromarray(image)) for _ in range(n)],
            "promptkit": lambda name=name: [ours[name](image=image)["image"] for _ in range(n)],
        }
        times = best(sides, dict.fromkeys(sides, 3))
        rates = {f"{side} views/s": n / cpu for side, (cpu, _) in times.items()}
        report("views", view=name, **rates, times=times["torchvision"][0] / times["promptkit"][0])


def evaluation(options: argparse.Namespace) -> None:
    """(d): 5 runs on 4 domains, first without a cache, then writing it, then reading it; equal figures."""
    import os

    from promptkit.data.layouts import read_dataset
    from promptkit.evaluation.evaluate import evaluate
    from promptkit.testing import SHAPES, STYLES, write_images

    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROMPTKIT_CACHE"] = f"{folder}/cache"
        per_class, size = (1, 64) if options.smoke else (1, 256) if options.quick else (3, 256)
        dataset = read_dataset(write_images(Path(folder) / "p", SHAPES[:7], STYLES, per_class, size))
        kinds = {"5 coop": ["coop"] * 5, "1 gopro, 4 coop": ["gopro", *["coop"] * 4]}
        for kind in list(kinds)[1:] if options.quick else kinds:
            recipes = kinds[kind]
            shared: Backbone | None = None
            learners: dict[str, Learner] = {}
            for number, recipe in enumerate(recipes):
                flags = {"backbone.name": options.backbone, "backbone.weights": "none", "train.seed": number}
                config = resolve(installed(), recipe, flags=flags)
                shared = shared or load_backbone(config.backbone, installed())
                learners[str(number)] = build_learner(config, installed(), Scene(shared, dataset.classnames)).eval()
            figures, times = [], {}
            for name, cache in (("no cache", False), ("first", True), ("second", True)):
                cpu, wall = time.process_time(), time.perf_counter()
                figures.append(evaluate(learners, dataset, LoaderSettings(workers=0), cache=cache).scores)
                times[name] = time.process_time() - cpu, time.perf_counter() - wall
            if figures[0] != figures[1] or figures[1] != figures[2]:
                raise SystemExit("the figures differ")
            report("eval", runs=kind, images=len(dataset.items), **ratios(times, "no cache"))


def largest(options: argparse.Namespace) -> None:
    """(e): for how many pictures the encoder keeps all that gradients need in a budget, by its own estimate."""
    n_classes, budget = (20, 10**8) if options.smoke else (1000, 8 * 10**9)
    backbone: Any = learner_for("coop", options, 2).scene.backbone
    classes = backbone.class_tokens(classnames(n_classes), 4)
    cost = backbone.encoder._cost(Rows(torch.zeros(1, 1, 4, backbone.text_width)), classes, torch.device("cpu"))
    report("largest", C=n_classes, M=4, budget_GB=budget / 1e9, B=budget // cost.everything)


TABLES = {
    "text": text,
    "low rank": low_rank,
    "steps": steps,
    "memory": memory,
    "budget": budget,
    "views": views,
    "eval": evaluation,
    "largest": largest,
    "store": store,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=[*TABLES, "peak", "all"])
    parser.add_argument("--backbone", default="ViT-B-16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--recipes", nargs="+", default=list(plain.STEPS), choices=list(plain.STEPS))
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--classes", type=int, default=0)
    parser.add_argument("--side", default="step", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="some rows of each table, in about three minutes")
    parser.add_argument("--smoke", action="store_true", help="the smallest sizes, to see that it runs")
    parser.add_argument("--out", type=Path, help="a file for the rows, beside what is printed")
    options = parser.parse_args()
    measuring.kept_in = options.out
    if options.out:
        options.out.write_text("")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    for name, table in ({"peak": peak} if options.table == "peak" else TABLES).items():
        if options.table in (name, "all"):
            table(options)


if __name__ == "__main__":
    main()

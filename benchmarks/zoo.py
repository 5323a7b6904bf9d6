"""The processor time of a training step of every recipe, on a backbone with random weights, for benchmarks/zoo.json."""

import argparse
import importlib
import json
import platform
import statistics
import time
import tomllib
from pathlib import Path

import torch

from promptkit.build import build_learner, build_views, load_backbone
from promptkit.components import Scene, TeacherRun
from promptkit.config import resolve
from promptkit.learner import Learner
from promptkit.settings import TrainSettings
from promptkit.tensors import Batch
from promptkit.testing import registered
from promptkit.training.optimizer import make_optimizer

ROOT = Path(__file__).parents[1]


def step_seconds(learner: Learner, batch: Batch, config: TrainSettings, steps: int) -> float:
    """The median of a few steps, after one that warms up."""
    learner.eval()
    learner.start([batch])
    optimizer = make_optimizer(learner, config)
    learner.train()
    learner.epoch_start(1, 1)
    times = []
    for _ in range(steps + 1):
        begun = time.process_time()
        optimizer.zero_grad()
        learner.backward(learner.loss(learner(batch)))
        optimizer.step()
        times.append(time.process_time() - begun)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="ViT-B-16")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--recipes", default="", help="these alone, comma-separated; what the file says of others stays"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    project = tomllib.loads((ROOT / "plugins/zoo/pyproject.toml").read_text())["project"]
    modules = [importlib.import_module(module) for module in project["entry-points"]["promptkit"].values()]
    flags = {"backbone.name": options.backbone, "backbone.weights": "none"}
    names = tuple(f"thing number {number}" for number in range(options.classes))
    asked = {name: value for name, value in vars(options).items() if name not in ("out", "recipes")}
    asked |= {"machine": platform.machine(), "torch": torch.__version__}
    seconds: dict[str, float] = {}
    if options.recipes:
        before = json.loads(options.out.read_text())
        assert before["setting"] == asked, f"{options.out} was measured with {before['setting']}"
        seconds = before["seconds"]
    with registered(modules, "clip-promptkit-zoo") as found:
        backbone = load_backbone(resolve(found, "zeroshot", flags=flags).backbone, found)
        teacher = build_learner(resolve(found, "zeroshot", flags=flags), found, Scene(backbone, names), to_train=False)
        run = TeacherRun(lambda: teacher.eval())
        run.logits = torch.zeros(options.batch, len(names))
        said = {name: [f"it looks like {name}."] for name in names}
        scene = Scene(backbone, names, ("source",), said, run)
        places = torch.arange(options.batch)
        for recipe in sorted(found.entries["recipe"]):
            config = resolve(found, recipe, flags=flags)
            if config.train.epochs == 0 or (options.recipes and recipe not in options.recipes.split(",")):
                continue
            learner = build_learner(config, found, scene)
            if not any(True for _ in learner.parameters()):
                continue
            views = build_views(config, found, backbone)
            pixels = {name: torch.randn(options.batch, 3, *backbone.image.size) for name in views.names}
            unlabelled = Batch(pixels, torch.full((options.batch,), -1)) if learner.loss.unlabelled else None
            batch = Batch(pixels, places % len(names), None, places * 0, places, unlabelled)
            seconds[recipe] = round(step_seconds(learner, batch, config.train, options.steps), 3)
            print(f"{recipe:20} {seconds[recipe]:8.3f} s", flush=True)
    options.out.write_text(json.dumps({"setting": asked, "seconds": dict(sorted(seconds.items()))}, indent=2) + "\n")


if __name__ == "__main__":
    main()

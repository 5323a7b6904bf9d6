"""What time `promptkit plan` says, against a training's: `python benchmarks/plan_times.py RECIPE BACKBONE BATCH CLASSES`.

Both are CPU seconds of one thread, so that a busy machine changes neither, of an epoch of four pictures a class. The
pictures are drawn here, and read in this process.
"""
# ruff: noqa: E402

import time

time.perf_counter = time.process_time  # before it is anybody's default

import json
import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from measuring import a_training, classnames
from PIL import Image
from rich.console import Console

import promptkit
from promptkit.build import load_backbone
from promptkit.config import resolve
from promptkit.data.selection import subset
from promptkit.registry import installed
from promptkit.training.needs import PICTURE, Planner
from promptkit.training.run import training_data


def draw(folder: Path, classes: int) -> None:
    rng = np.random.default_rng(0)
    for name in classnames(classes):
        (folder / "train" / name).mkdir(parents=True)
        for number in range(4):
            noise = rng.integers(0, 256, (*PICTURE, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / "train" / name / f"{number}.jpg")


def main() -> None:
    options = a_training(__doc__).parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # the weights are random

    with TemporaryDirectory() as folder:
        draw(Path(folder) / "pictures", options.classes)
        settings = {
            "data.path": f"{folder}/pictures", "backbone.name": options.backbone, "backbone.weights": "none",
            "train.batch_size": options.batch, "train.epochs": 1, "train.workers": 0,
        }  # fmt: skip
        config = resolve(installed(), options.recipe, flags=settings)
        dataset = training_data(config.data, config.train.seed, installed())
        planner = Planner(config, load_backbone(config.backbone, installed()), installed(), dataset)
        planned = planner.needs(options.batch).epoch
        run = Path(folder) / "run"
        promptkit.train(options.recipe, out=run, console=Console(quiet=True), **settings)
        measured = json.loads((run / "log.jsonl").read_text().splitlines()[-1])["seconds"]
    print(
        json.dumps(
            {
                "recipe": options.recipe, "backbone": options.backbone, "B": options.batch, "C": options.classes,
                "pictures": len(subset(dataset, "train").items), "planned s": round(planned, 1),
                "measured s": round(measured, 1), "planned / measured": round(planned / measured, 2),
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()

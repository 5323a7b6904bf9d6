"""`promptkit plan`: what a training takes, before it runs."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from promptkit.build import load_backbone
from promptkit.config import resolve
from promptkit.features.folder import cached_files
from promptkit.registry import installed
from promptkit.training.needs import Planner, imagined

Command = Callable[..., "Finished"]

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "plan.py"
TINY = ("--backbone", "tiny", "--workers", 0)


def planner(recipe: str, classes: int = 20, **flags: object) -> Planner:
    settings = {"backbone.name": "tiny", "backbone.weights": "none", "train.workers": 0}
    config = resolve(installed(), recipe, flags=settings | {key.replace("__", "."): flags[key] for key in flags})  # type: ignore[dict-item]
    with imagined(classes, 16 * classes) as dataset:
        return Planner(config, load_backbone(config.backbone, installed()), installed(), dataset)


def test_the_command_says_it_for_several_batches_and_for_a_gpu_that_is_not_here(
    promptkit: Command, images: Path
) -> None:
    done = promptkit("plan", "gopro", "--n-classes", 30, *TINY, "--epochs", 3, "--gpu-gb", 24)
    assert done.status == 0, done.err
    assert "gopro on tiny, 30 classes, 480 training pictures, a GPU with 24.0 GB" in done.out
    assert "4 (chosen)" in done.out
    assert "3 epochs, cached views" in done.out
    done = promptkit("plan", "coop", "--data", images, *TINY, "--shots", 2)
    assert "coop on tiny, 4 classes, 16 training pictures, cpu" in done.out, done.err
    for words in ((), ("--data", images, "--n-classes", 3)):
        done = promptkit("plan", "coop", *words, *TINY)
        assert done.status == 2
        assert "a plan is either for the pictures at --data, or for --n-classes" in done.err
    assert list(Path().iterdir()) == []  # nothing was written


def test_what_depends_on_the_picture_grows_with_the_batch() -> None:
    coop, cocoop = planner("coop"), planner("cocoop")
    assert coop.needs(8).text == coop.needs(1).text
    assert cocoop.needs(16).text > 1.8 * cocoop.needs(8).text
    assert coop.needs(8).epoch < coop.needs(1).epoch  # a text pass a step
    tight = planner("cocoop", backbone__memory_gb=0.001)
    assert tight.needs(8).passes > 1
    assert tight.needs(8).text < cocoop.needs(8).text
    gpu = planner("coop", backbone__memory_gb=4).needs(8, torch.device("cuda"))  # which need not be here
    assert gpu.peak < coop.needs(8).peak  # of its own memory, not of the process


def test_gradients_of_prompts_come_when_the_towers_have_let_go() -> None:
    plan = planner("gopro")

    def peak(gradients: int, late: int) -> int:
        plan.pieces = replace(plan.pieces, gradients=gradients, late=late)
        return plan.needs(4).peak

    none, much = peak(0, 0), 10**10
    assert peak(1000, 1000) == none
    assert peak(1000, 0) == none + 1000  # those of a projector are there from the start
    assert none < peak(much, much) < none + much


def test_the_bank_is_what_the_cache_will_hold(train: Command) -> None:
    assert train("gopro", "--out", "run", "--cached-views", 1).status == 0
    features = sum(file.size for file in cached_files())
    plan = planner("gopro", classes=4)
    planned = plan.bank / plan.pictures * 32
    assert planned < features < 1.5 * planned + 50_000  # with names, and evaluation's one view


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux does")
def test_the_estimate_is_near_the_measured_peak() -> None:
    words = [sys.executable, BENCHMARK, "cocoop", "ViT-B-32", "4", "50", "--threads", "1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert 0.75 < found["planned / measured"] < 1.25, found

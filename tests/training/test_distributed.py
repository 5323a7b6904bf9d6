"""Two processes with half the batch each compute what one computes with the whole."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

Command = Callable[..., "Finished"]


def launch(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "promptkit"]
        + [str(word) for word in words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("recipe", ["gopro", "gopro-reference"])
def test_training_is_that_of_one_process(recipe: str, train: Command, pictures: Path, tmp_path: Path) -> None:
    words = ("--batch-size", "4", "--epochs", "2", "--domains", "photo", "--lr", "0.02", "--device", "cpu")
    assert train(recipe, "--out", "one", *words).status == 0
    tiny = ("--backbone", "tiny", "--weights", "none", "--workers", "0", "--shots", "4")
    done = launch(tmp_path, "train", recipe, "--data", pictures, *tiny, *words, "--out", "two")
    assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / run / "learner.safetensors") for run in ("one", "two"))
    for name, tensor in one.items():
        assert (two[name] - tensor).abs().max() <= 1e-5 * max(1, tensor.abs().max()), name
    logs = [
        [json.loads(line) for line in (tmp_path / run / "log.jsonl").read_text().splitlines()] for run in ("one", "two")
    ]
    for a, b in zip(*logs, strict=True):
        assert a["pictures"] == b["pictures"]
        for figure in ("ce", "consistency", "contrast", "val_accuracy", "grad_norm"):
            assert b[figure] == pytest.approx(a[figure], rel=1e-4, abs=1e-7), figure
    # One of them speaks.
    assert done.stdout.count("epoch 1/2") == 1
    assert done.stdout.count("saved two") == 1


def test_a_mistake_is_said_once(pictures: Path, tmp_path: Path) -> None:
    done = launch(
        tmp_path, "train", "coop", "--data", pictures, "--backbone", "tiny", "--domains", "foto", "--device", "cpu"
    )
    assert done.returncode != 0
    # torchrun repeats what a process wrote in a report of its own, below its own heading.
    said, _, _ = done.stderr.partition("ChildFailedError")
    assert said.count("error: no domain named 'foto'") == 1


def test_a_batch_that_cannot_be_shared_is_an_error(pictures: Path, tmp_path: Path) -> None:
    words = ("train", "coop", "--data", pictures, "--backbone", "tiny", "--weights", "none", "--device", "cpu")
    done = launch(tmp_path, *words, "--batch-size", "5")
    assert "a batch of 5 pictures can't be split evenly over 2 processes" in done.stderr

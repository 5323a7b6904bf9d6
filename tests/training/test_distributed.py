"""Two processes with half the batch each compute what one computes with the whole."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import pytest
from safetensors.torch import load_file

from promptkit.testing import registered

Command = Callable[..., "Finished"]


@dataclass
class Two:
    """Starts a command, or code, in two processes as `torchrun` does."""

    warm: Callable[..., "list[Finished]"]
    folder: Path

    def __call__(self, *words: object, code: str = "") -> "Finished":
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        each = [{**group, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
        one, other = self.warm(*words, cwd=self.folder, code=code, each=each)
        return replace(one, status=one.status or other.status, out=one.out + other.out, err=one.err + other.err)


@pytest.fixture
def in_two(warm: Callable[..., "list[Finished]"], tmp_path: Path) -> Two:
    return Two(warm, tmp_path)


@pytest.mark.parametrize("recipe", ["gopro", "gopro-reference"])
def test_training_is_that_of_one_process(
    recipe: str, train: Command, in_two: Two, images: Path, tmp_path: Path
) -> None:
    words = ("--batch-size", "4", "--epochs", "2", "--domains", "photo", "--lr", "0.02", "--device", "cpu")
    assert train(recipe, "--out", "one", *words).status == 0
    tiny = ("--backbone", "tiny", "--weights", "none", "--workers", "0", "--shots", "4")
    done = in_two("train", recipe, "--data", images, *tiny, *words, "--out", "two")
    assert done.status == 0, done.err
    one, two = (load_file(tmp_path / run / "learner.safetensors") for run in ("one", "two"))
    for name, tensor in one.items():
        assert (two[name] - tensor).abs().max() <= 1e-5 * max(1, tensor.abs().max()), name
    logs = [
        [json.loads(line) for line in (tmp_path / run / "log.jsonl").read_text().splitlines()] for run in ("one", "two")
    ]
    for a, b in zip(*logs, strict=True):
        assert a["images"] == b["images"]
        for figure in ("ce", "consistency", "contrast", "val_accuracy", "grad_norm"):
            assert b[figure] == pytest.approx(a[figure], rel=1e-4, abs=1e-7), figure
    # One of them speaks.
    assert done.out.count("epoch 1/2") == 1
    assert done.out.count("saved two") == 1


def test_evaluation_is_that_of_one_process(train: Command, promptkit: Command, tmp_path: Path) -> None:
    """Every picture counts once, and one process speaks and writes."""
    assert train("gopro", "--out", "run").status == 0
    words = ("eval", "run", "--device", "cpu", "--workers", "0", "--split", "test")
    alone = promptkit(*words, "--json", "one.json")
    assert alone.status == 0
    start = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "promptkit")
    done = subprocess.run(
        [*start, *words, "--json", "two.json", "--no-cache"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == alone.out
    assert (tmp_path / "two.json").read_text() == (tmp_path / "one.json").read_text()


EXAMPLES = """
import sys
from dataclasses import dataclass, replace
from importlib import import_module
from promptkit.cli import main
from promptkit.testing import registered

out, *words = sys.argv[1:]
for name in ("tip-adapter", "prograd"):
    with registered(import_module("promptkit_zoo." + name.replace("-", "_")), "clip-promptkit-zoo"):
        own = ["--set", "prompts.ctx_init="] if name == "prograd" else []
        sys.argv = ["promptkit", "train", name, *words, *own, "--out", f"{out}/{name}"]
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise
"""


def test_what_looks_at_all_images_sees_them_in_every_process(
    train: Command, in_two: Two, images: Path, tmp_path: Path
) -> None:
    """Tip-Adapter's cache, though 4 of 16 pictures are left over in an epoch; ProGrad's conflicts of two gradients.

    ProGrad starts from noise here: from the teacher's words, one of the two is 0 but for rounding, and has any direction.
    """
    words = ["--domains", "photo", "--batch-size", "6", "--shots", "4", "--lr", "0.02", "--device", "cpu"]
    words += ["--epochs", "2", "--set", "train.optimizer=momentum"]
    for name in ("tip-adapter", "prograd"):
        with registered(import_module(f"promptkit_zoo.{name.replace('-', '_')}"), "clip-promptkit-zoo"):
            own = ["--set", "prompts.ctx_init="] if name == "prograd" else []
            assert train(name, "--out", f"one/{name}", *words, *own).status == 0
    tiny = ("--data", images, "--backbone", "tiny", "--weights", "none", "--workers", "0")
    done = in_two("two", *tiny, *words, code=EXAMPLES)
    assert done.status == 0, done.err
    for name in ("tip-adapter", "prograd"):
        one, two = (load_file(tmp_path / run / name / "learner.safetensors") for run in ("one", "two"))
        for key, tensor in one.items():
            assert (two[key] - tensor).abs().max() <= 1e-5 * max(1, tensor.abs().max()), key
    assert load_file(tmp_path / "two/tip-adapter/learner.safetensors")["prompts.filled"].sum() == 16


def test_an_unreadable_image_ends_several_processes_with_its_name(in_two: Two, images: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(images, tmp_path / "copied"))
    for path in (copied / "photo").rglob("*.png"):
        if path.stem != "000":
            path.write_bytes(b"no picture")
    tiny = ("--backbone", "tiny", "--weights", "none", "--workers", "0", "--device", "cpu", "--no-cache")
    done = in_two("train", "coop", "--data", copied, *tiny, "--domains", "photo", "--out", "run")
    assert done.status != 0
    assert "can't be read: not a picture" in done.err
    assert "remove the picture, or train in one process" in done.err


def test_a_mistake_is_said_once(in_two: Two, images: Path) -> None:
    done = in_two("train", "coop", "--data", images, "--backbone", "tiny", "--domains", "foto", "--device", "cpu")
    assert done.status != 0
    assert done.err.count("error: no domain named 'foto'") == 1


def test_a_batch_that_cannot_be_shared_is_an_error(in_two: Two, images: Path) -> None:
    words = ("train", "coop", "--data", images, "--backbone", "tiny", "--weights", "none", "--device", "cpu")
    done = in_two(*words, "--batch-size", "5")
    assert "a batch of 5 pictures can't be split evenly over 2 processes" in done.err


PATIENT = r"""
import os
import torch
from promptkit import distributed

distributed.join("cpu")
group = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
waits = group.options._timeout.total_seconds() >= 24 * 3600
os.write(1, f"waits {waits}\n".encode())  # in one piece: two processes share the pipe
"""


def test_processes_wait_for_the_one_that_encodes_a_feature_cache(in_two: Two) -> None:
    """By default they would give up after half an hour."""
    done = in_two(code=PATIENT)
    assert done.status == 0, done.err
    assert done.out.count("waits True") == 2

"""Disks that fill up, folders that vanish, workers that die: one clear message, and the last epoch whole."""

import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from promptkit.config import resolve
from promptkit.errors import OutputError
from promptkit.registry import installed
from promptkit.runs.checkpoint import LOG, WEIGHTS, read_metadata, read_tensors
from promptkit.runs.folder import RunFolder
from promptkit.runs.lock import FolderLock, is_locked
from promptkit.training.run import Run
from promptkit.training.trainer import Trainer

Command = Callable[..., "Finished"]


@contextmanager
def training(images: Path, folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A training process that would go on for ever, past its first epoch."""
    tiny = ["--backbone", "tiny", "--weights", "none", "--epochs", "100000", "--device", "cpu"]
    tiny += ["--domains", "photo", "--shots", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "promptkit", "train", "coop", "--data", str(images), *tiny, "--out", "run", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 90
        while not (folder / "run" / WEIGHTS).exists():
            assert time.monotonic() < until
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.communicate()


def message(process: subprocess.Popen[str]) -> str:
    """What a process that ends by itself says, after its warnings."""
    out, err = process.communicate(timeout=90)
    assert process.returncode == 2, (process.returncode, out, err)
    assert "Traceback" not in out + err
    errors = err[err.index("error:") :]
    assert errors.count("\n") <= 3
    return errors


def is_whole(run: Path) -> bool:
    return bool(read_tensors(run)) and read_metadata(run).epoch > 0


def children(process: subprocess.Popen[str]) -> list[int]:
    tasks = Path(f"/proc/{process.pid}/task")
    return [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]


linux = pytest.mark.skipif(
    not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="finds workers in /proc"
)


@linux
def test_a_killed_worker_is_one_message_and_the_last_epoch_stays(images: Path, tmp_path: Path) -> None:
    with training(images, tmp_path, "--workers", "2") as process:
        os.kill(children(process)[-1], signal.SIGKILL)
        said = message(process)
    assert re.search(r"error: a process that prepared pictures \(pid [\d, ]+\) died", said)
    assert "--workers 0" in said
    assert is_whole(tmp_path / "run")
    assert not is_locked(tmp_path / "run")


def test_no_room_for_a_checkpoint_leaves_the_old_one(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, fsync = [], os.fsync

    def full(file: int) -> None:
        synced.append(file)
        if len(synced) > 5:  # settings, log, state and learner of the first epoch, the next state
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    monkeypatch.setattr(os, "fsync", full)
    done = train("coop", "--out", "run", "--epochs", "9", "--no-cache")
    assert done.status == 2
    assert "run/learner.safetensors can't be written: No space left on device" in done.err
    assert is_whole(tmp_path / "run")
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".learner")]


def deleted(run: Path) -> None:
    shutil.rmtree(run)


def replaced_by_a_file(run: Path) -> None:
    run.rename(run.with_name("moved"))
    run.write_text("")


@pytest.mark.parametrize("spoil", [deleted, replaced_by_a_file], ids=lambda spoil: spoil.__name__)
def test_a_folder_that_can_no_longer_be_written(
    spoil: Callable[[Path], None], train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = RunFolder.save

    def save_and_spoil(folder: RunFolder, *arguments: Any) -> None:
        save(folder, *arguments)
        spoil(folder.path)

    monkeypatch.setattr(RunFolder, "save", save_and_spoil)
    done = train("coop", "--out", "run")
    assert done.status == 2
    said = re.search(r"error: run\S* can't be written: (No such file|Not a directory)", done.err)
    assert said, done.err
    for left in (tmp_path / "run", tmp_path / "moved"):
        if left.is_dir():
            assert is_whole(left)


# One process at a time


def test_two_trainings_of_one_folder_are_refused(
    train: Command, promptkit: Command, images: Path, tmp_path: Path
) -> None:
    with training(images, tmp_path, "--workers", "1") as process:
        before = (tmp_path / "run/run.toml").read_bytes()
        done = train("coop", "--out", "run", "--force")
        assert done.status == 2
        assert "error: another process is training into run" in done.err
        assert (tmp_path / "run/run.toml").read_bytes() == before
        assert re.search(r"run +coop .* 1 +\d+/100000 +running", promptkit("runs", ".").out)
        process.kill()
        process.wait()
        # At once, though the workers find out only after some seconds.
        assert re.search(r"run +coop .* 1 +\d+/100000 +stopped", promptkit("runs", ".").out)
    assert train("coop", "--out", "run", "--force").status == 0


def test_a_lock_is_held_once_and_released(tmp_path: Path) -> None:
    lock, other = FolderLock(tmp_path), FolderLock(tmp_path)
    lock.take()
    lock.take()
    assert is_locked(tmp_path)
    with pytest.raises(OutputError, match="another process is training"):
        other.take()
    lock.release()
    assert is_locked(tmp_path)
    lock.release()
    assert not is_locked(tmp_path)
    other.take()
    assert is_locked(tmp_path)
    other.release()


# promptkit runs


def test_runs_are_listed_with_what_they_are(
    train: Command, promptkit: Command, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    train("coop", "--out", "runs/a/coop", "--seed", "3")
    train("zeroshot", "--out", "runs/zeroshot")
    train("coop", "--out", "runs/nan", "--lr", "1e38", "--epochs", "9", "--set", "train.warmup_epochs=2")
    train("coop", "--out", "runs/broken")
    (tmp_path / "runs/broken" / WEIGHTS).write_bytes(b"x" * 100)
    (tmp_path / "runs/nothing").mkdir()
    whole = [json.loads(line) for line in (tmp_path / "runs/a/coop" / LOG).read_text().splitlines()]
    whole[0]["val_accuracy"] = 0.987  # better than what was kept
    (tmp_path / "runs/a/coop" / LOG).write_text("".join(json.dumps(line) + "\n" for line in whole))
    with (tmp_path / "runs/a/coop" / LOG).open("a") as log:
        log.write('{"epoch": 3, "val_accu')  # as a killed process leaves it
    done = promptkit("runs")
    assert done.status == 0, done.err
    rows = {line.split()[0]: line.split() for line in done.out.splitlines()[1:5]}
    assert list(rows) == ["runs/a/coop", "runs/broken", "runs/nan", "runs/zeroshot"]
    figure = ["val", f"{100 * whole[1]['val_accuracy']:.1f}", "%", "val", "98.7", "%,", "epoch", "1"]
    assert rows["runs/a/coop"] == ["runs/a/coop", "coop", str(images), "3", "2/2", "finished", *figure]
    assert rows["runs/zeroshot"][1:6] == ["zeroshot", str(images), "1", "2/2", "finished"]
    assert re.fullmatch(r"[123]/9 stopped", " ".join(rows["runs/nan"][4:6]))
    assert rows["runs/broken"] == ["runs/broken", "damaged"]
    assert "runs/broken is damaged: runs/broken/learner.safetensors is no promptkit checkpoint" in done.out


def test_a_run_that_saved_nothing_yet_is_new(promptkit: Command, train: Command, tmp_path: Path) -> None:
    train("coop", "--out", "runs/run")
    (tmp_path / "runs/run" / WEIGHTS).unlink()
    assert re.search(r"runs/run +coop .* 0/2 +new", promptkit("runs", "runs").out)


def test_runs_of_nothing(promptkit: Command, tmp_path: Path) -> None:
    assert promptkit("runs", "nowhere").status == 2
    (tmp_path / "empty").mkdir()
    assert "no runs in empty" in promptkit("runs", "empty").out


# Pictures


def test_larger_images_than_allowed_are_left_out(train: Command, promptkit: Command, images: Path) -> None:
    from PIL import Image

    with Image.open(next(images.rglob("*.png"))) as image:
        width, height = image.size
    done = train("coop", "--out", "run", "--max-pixels", width * height - 1)
    assert done.status == 2
    assert f"more than {width * height - 1:,} pixels" in done.err
    assert train("coop", "--out", "run", "--max-pixels", width * height).status == 0
    assert promptkit("eval", "run").status == 0
    done = promptkit("eval", "run", "--max-pixels", width * height - 1)
    assert done.status == 2
    assert "no readable picture" in done.err
    done = train("coop", "--out", "other", "--set", "data.max_pixels=0")
    assert done.status == 2
    assert "data.max_pixels='0': expected int, at least 1, at most 178956970" in done.err


def test_a_run_folder_in_the_api_says_why_it_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    line: dict[str, Any] = {"epoch": 1}
    with pytest.raises(OutputError, match="can't be written"):
        folder.log(line)


# What was learned is never lost


def test_an_epoch_is_saved_before_it_is_printed(images: Path, tmp_path: Path) -> None:
    """As in `promptkit train ... | head -1`."""

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            if "epoch 1" in text:
                raise BrokenPipeError
            return super().write(text)

    flags = {"data.path": str(images), "backbone.name": "tiny", "backbone.weights": "none", "train.epochs": 2}
    config = resolve(installed(), "coop", None, [], {**flags, "data.shots": 2, "train.workers": 0})
    with pytest.raises(SystemExit):  # rich's
        Run(config, tmp_path / "run").train(Console(file=Gone()))
    assert read_metadata(tmp_path / "run").epoch == 1
    resumed = Run(config, tmp_path / "run", resume=True)
    resumed.train(Console(quiet=True))
    assert read_metadata(tmp_path / "run").epoch == 2


def test_a_run_that_is_replaced_stays_until_the_new_one_has_something(
    train: Command, promptkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}

    assert train("coop", "--out", "run").status == 0
    whole = files()
    steep = ("--out", "run", "--force", "--lr", "1e38", "--set", "train.warmup_epochs=0", "--batch-size", "4")
    done = train("coop", *steep)
    assert done.status == 2
    assert "(epoch 1)" in done.err
    assert files() == whole
    with monkeypatch.context() as patch:
        patch.setattr("promptkit.training.trainer.Trainer.train", interrupted)
        done = train("coop", "--out", "run", "--force", "--seed", "2")
    assert (done.status, "nothing was saved yet" in done.out) == (130, True)
    assert files() == whole
    assert promptkit("eval", "run").status == 0
    (tmp_path / "run/.learner.safetensors.99999").write_bytes(b"half, of a process that was killed")
    assert train("coop", "--out", "run", "--force", "--seed", "2").status == 0
    assert files().keys() == whole.keys()
    assert [name for name, content in files().items() if whole[name] == content] == [".lock"]


def test_what_is_not_finished_or_not_trained_is_said(
    train: Command, promptkit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Trainer._train_epoch
    with monkeypatch.context() as patch:
        patch.setattr(
            Trainer, "_train_epoch", lambda self, heard: whole(self, heard) if self.loop.epoch == 1 else interrupted()
        )
        assert train("coop", "--out", "run", "--epochs", "2").status == 130
    assert "run is not finished: this is what it had learned by epoch 1 of 2" in promptkit("eval", "run").err
    assert train("coop", "--out", "run", "--epochs", "2", "--resume").status == 0
    assert "is not finished" not in promptkit("eval", "run").err
    assert "zeroshot has nothing to train" in train("zeroshot", "--out", "none", "--epochs", "2").err


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt

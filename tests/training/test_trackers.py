"""`--log`: figures reach the trackers."""

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import accelerate.tracking
import pytest
import torch
from accelerate.tracking import GeneralTracker

from promptkit.runs.checkpoint import read_metadata, read_tensors
from promptkit.training.callbacks import EpochResult
from promptkit.training.trackers import Trackers

Command = Callable[..., "Finished"]


class Recorder(GeneralTracker):
    """Stands in for TensorBoard, which is not installed with the tests."""

    name = "tensorboard"
    requires_logging_directory = True
    heard: list[Any] = []  # noqa: RUF012

    def __init__(self, run_name: str, logging_dir: str) -> None:
        self.heard.append(("in", logging_dir))

    tracker = None

    def start(self) -> None: ...

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.heard.append(values)

    def log(self, values: dict[str, float], step: int | None) -> None:
        self.heard.append((step, values))

    def finish(self) -> None:
        self.heard.append("finished")


@pytest.fixture(autouse=True)
def recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("tensorboard")
    module.__spec__ = sys.__spec__
    monkeypatch.setitem(sys.modules, "tensorboard", module)
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Recorder)
    monkeypatch.setattr(Recorder, "heard", [])


def test_a_tracker_hears_settings_and_every_epoch(train: Command) -> None:
    done = train("coop", "--out", "run", "--log", "tensorboard")
    assert done.status == 0, done.err
    where, settings, *epochs, end = Recorder.heard
    assert where == ("in", "run")
    assert settings["train.epochs"] == 2
    assert [step for step, _ in epochs] == [1, 2]
    assert {"ce", "val_accuracy", "lr", "grad_norm"} <= epochs[0][1].keys()
    assert end == "finished"


def test_a_resumed_run_tells_the_tracker_the_rest(stopped: Path, train: Command, promptkit: Command) -> None:
    done = promptkit("train", "--out", "run", "--resume", "--log", "tensorboard")
    assert done.status == 0, done.err
    _, _, *epochs, _ = Recorder.heard
    assert [step for step, _ in epochs] == [2]
    train("coop", "--out", "whole", "--set", "train.optimizer=adamw", "--log", "tensorboard")
    for name, tensor in read_tensors(stopped.parent / "whole").items():
        assert torch.equal(read_tensors(stopped)[name], tensor)
    assert Recorder.heard[-2] == epochs[0]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("no connection")])
@pytest.mark.parametrize("method", ["start", "store_init_configuration", "log", "finish"])
def test_a_tracker_that_fails_is_named_once_and_the_run_goes_on(
    method: str, error: Exception, train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(Recorder, method, fail)
    done = train("coop", "--out", "run", "--log", "tensorboard")
    assert done.status == 0, done.err
    said = f"warning: tensorboard is disabled after an error, for run: {type(error).__name__}: {error}; log.jsonl has it all"
    assert done.err.count(said) == 1
    assert read_metadata(tmp_path / "run").epoch == 2
    assert len((tmp_path / "run/log.jsonl").read_text().splitlines()) == 2


def test_a_tracker_that_is_not_there_is_said_before_anything_is_touched(
    train: Command, cache: Path, tmp_path: Path
) -> None:
    done = train("coop", "--out", "run", "--cached-views", 1, "--log", "tensorbord")
    assert "no tracker named 'tensorbord'; did you mean 'tensorboard'?" in done.err
    assert not (tmp_path / "run").exists()
    train("coop", "--out", "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    kept = sorted(cache.rglob("*"))
    done = train("coop", "--out", "run", "--seed", 2, "--cached-views", 1, "--force", "--log", "tensorbord")
    assert done.status == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert sorted(cache.rglob("*")) == kept
    done = train("coop", "--out", "run", "--log", "mlflow", "--force")
    assert "--log mlflow needs mlflow" in done.err
    assert "pip install mlflow" in done.err


def test_one_of_several_processes_tells_the_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptkit.distributed.rank", lambda: 1)
    trackers = Trackers("tensorboard", tmp_path, {})
    trackers.on_start()
    trackers.on_epoch(EpochResult(1, 1, 0.1, {"ce": 1.0}, 1.0, 8, 1.0, 0, []))
    trackers.on_end()
    assert Recorder.heard == []


def test_deterministic_trains(train: Command) -> None:
    assert train("gopro", "--out", "run", "--deterministic").status == 0

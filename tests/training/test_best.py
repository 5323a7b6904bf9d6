"""`--keep best`, `--patience`, `--limit` and schedules."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from promptkit.runs.checkpoint import read_metadata, read_tensors
from promptkit.runs.status import run_status
from promptkit.training.best import BestEpoch
from promptkit.training.callbacks import Callback, EpochResult
from promptkit.training.validation import Validation

Command = Callable[..., "Finished"]

ACCURACIES = (0.5, 0.75, 0.75, 0.25, 0.5)


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation finds these accuracies, whatever was learned."""

    def on_epoch(self: Validation, result: EpochResult) -> None:
        result.val_accuracy = ACCURACIES[result.epoch - 1]

    monkeypatch.setattr(Validation, "on_epoch", on_epoch)


def result(epoch: int, accuracy: float | None) -> EpochResult:
    return EpochResult(epoch, 9, 0.1, {}, 1.0, 8, 1.0, 0, (), accuracy)


def test_patience_counts_from_the_last_better_epoch() -> None:
    stopping = BestEpoch(patience=2)
    results = [result(epoch, accuracy) for epoch, accuracy in enumerate(ACCURACIES, 1)]
    for one in results:
        stopping.on_epoch(one)
    assert [one.best for one in results] == [True, True, False, False, False]
    assert [one.stop for one in results] == [False, False, False, True, True]
    # One that goes on knows what came before.
    going_on = BestEpoch(2, 0.75, 2)
    going_on.on_epoch(again := result(3, 0.7))
    assert (again.best, again.stop) == (False, False)
    never = BestEpoch(0)
    never.on_epoch(last := result(9, 0.1))
    assert last.last


@pytest.mark.usefixtures("validated")
def test_the_best_epoch_is_kept_and_the_run_is_finished(train: Command, promptkit: Command, tmp_path: Path) -> None:
    assert train("coop", "--epochs", 2, "--out", "two", "--set", "train.warmup_epochs=0", "--lr", 0).status == 0
    done = train("coop", "--epochs", 5, "--keep", "best", "--out", "best")
    assert done.status == 0, done.err
    kept = read_metadata(tmp_path / "best")
    assert (kept.epoch, kept.epochs, kept.finished) == (2, 5, True)
    assert kept.figures["val_accuracy"] == 0.75
    assert run_status(tmp_path / "best") == "finished"
    assert "2/5" in promptkit("runs", ".").out
    assert promptkit("eval", "best").status == 0

    assert train("coop", "--epochs", 5, "--out", "last").status == 0
    best, last = read_tensors(tmp_path / "best"), read_tensors(tmp_path / "last")
    assert any(not torch.equal(best[name], last[name]) for name in last)


@pytest.mark.usefixtures("validated")
def test_a_run_without_patience_left_is_finished_early(train: Command, tmp_path: Path) -> None:
    assert train("coop", "--epochs", 5, "--patience", 1, "--out", "run").status == 0
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert run_status(tmp_path / "run") == "finished"
    assert not (tmp_path / "run/state.safetensors").exists()
    again = train("coop", "--epochs", 5, "--patience", 1, "--out", "run", "--resume")
    assert "is finished already, after 3 of 5 epochs" in again.out


@pytest.mark.usefixtures("validated")
def test_a_run_that_goes_on_keeps_the_best_epoch_of_before(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Callback):
        def on_epoch(self, result: EpochResult) -> None:
            if result.epoch == 3:
                raise KeyboardInterrupt

    words = ("coop", "--epochs", 5, "--keep", "best", "--out", "run")
    with monkeypatch.context() as stopped:
        from promptkit.training.progress import TrainingProgress

        stopped.setattr(TrainingProgress, "on_epoch", Killed.on_epoch)
        train(*words)
    assert run_status(tmp_path / "run") == "stopped"
    before = read_tensors(tmp_path / "run")
    done = train(*words, "--resume")
    assert done.status == 0, done.err
    kept = read_metadata(tmp_path / "run")
    assert (kept.epoch, kept.finished) == (2, True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in read_tensors(tmp_path / "run").items())


@pytest.mark.parametrize("words", [("--keep", "best"), ("--patience", "3")])
def test_what_looks_at_validation_needs_a_val_split(
    promptkit: Command, images: Path, tmp_path: Path, words: tuple[str, str]
) -> None:
    manifest = tmp_path / "data.csv"
    rows = [f"{path},{path.parent.name},train" for path in sorted((images / "photo").rglob("*.*"))]
    manifest.write_text("\n".join(["path,label,split", *rows]))
    done = promptkit("train", "coop", "--data", manifest, "--backbone", "tiny", "--weights", "none", *words)
    assert done.status == 2
    assert "the data has no val split" in done.err


def test_a_limit_draws_some_pictures_for_a_quick_try(train: Command, tmp_path: Path) -> None:
    done = train("coop", "--limit", 5, "--epochs", 1, "--out", "run")
    assert done.status == 0, done.err
    line = json.loads((tmp_path / "run/log.jsonl").read_text())
    assert line["images"] == 5


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("cosine", [1.0, 0.933, 0.75, 0.5, 0.25, 0.067]),
        ("step", [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]),
        ("poly", [1.0, 0.913, 0.816, 0.707, 0.577, 0.408]),
    ],
)
def test_the_rate_falls_by_the_schedule(train: Command, tmp_path: Path, schedule: str, rates: list[float]) -> None:
    words = ["--set", f"train.schedule={schedule}", "--set", "train.decay_epochs=2", "--set", "train.decay_rate=0.5"]
    words += ["--set", "train.warmup_epochs=0", "--lr", "1", "--limit", "4", "--out", "run"]
    assert train("coop", "--epochs", 6, *words).status == 0
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in lines] == pytest.approx(rates, abs=1e-3)

"""`promptkit tune`: what it chooses by, what it says before anything runs, and how it goes on."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console

import promptkit
from promptkit.config import read_run_file
from promptkit.runs.checkpoint import read_metadata
from promptkit.training import validation
from promptkit.training.callbacks import EpochResult
from promptkit.training.validation import Validation

Command = Callable[..., "Finished"]

TINY = ("--backbone", "tiny", "--weights", "none", "--workers", 0, "--shots", 2, "--epochs", 2)


@pytest.fixture
def command(promptkit: Command) -> Command:
    """The fixture `promptkit`, whose name is that of the module here."""
    return promptkit


def test_the_best_of_the_val_split_is_a_run_file_that_train_takes(
    command: Command, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: set[str] = set()
    evaluate = validation.evaluate

    def spied(learners: Any, dataset: Any, *words: Any) -> Any:
        looked_at.update(item.split for item in dataset.items)
        return evaluate(learners, dataset, *words)

    monkeypatch.setattr(validation, "evaluate", spied)
    words = ["tune", "coop", "--data", images, *TINY, "--vary", "train.lr=1e-3..1:log", "--vary", "prompts.n_ctx=1,2"]
    done = command(*words, "--trials", 3, "--out", "tuned")
    assert done.status == 0, done.err
    assert looked_at == {"val"}
    assert [line.partition(":")[0] for line in done.out.splitlines() if line.startswith("trial")] == [
        f"trial {number} of 3" for number in (1, 2, 3)
    ]
    runs = [read_metadata(tmp_path / f"tuned/trial-{number:04}") for number in range(3)]
    best = max(runs, key=lambda run: run.figures["val_accuracy"])
    printed = done.out.partition("recipe =")[2]
    assert f"lr = {best.settings['train']['lr']}" in printed
    assert f"n_ctx = {best.settings['prompts']['n_ctx']}" in printed
    assert read_run_file(tmp_path / "tuned/best.toml") == best.settings
    assert command("train", "--config", "tuned/best.toml", "--out", "again").status == 0
    assert read_metadata(tmp_path / "again").figures == best.figures

    # What is done is not done again, and of lists no settings are tried twice.
    assert "trial" not in command(*words, "--trials", 3, "--out", "tuned").out.partition("the best")[0]
    tuned = promptkit.tune(
        "coop", {"prompts.n_ctx": [1, 2]}, "lists", trials=9, data=str(images), backbone="tiny", weights="none",
        workers=0, shots=2, epochs=2, console=Console(file=io.StringIO()),
    )  # fmt: skip
    assert sorted(tuned.trials["prompts.n_ctx"]) == [1, 2]
    assert tuned.accuracy == tuned.trials["accuracy"].max() == tuned.run.metadata.figures["val_accuracy"]
    assert read_run_file(tuned.config)["prompts"]["n_ctx"] == tuned.settings["prompts.n_ctx"]
    done = command(*words[:-4], "--vary", "prompts.n_ctx=1,4", "--out", "lists")
    assert done.status == 2
    assert "was begun with other settings: --vary prompts.n_ctx: 1,2 in the run, 1,4 now" in done.err


def test_a_trial_that_was_stopped_goes_on(
    command: Command, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate, epochs = Validation.on_epoch, []

    def counted(self: Validation, result: EpochResult) -> None:
        epochs.append(result.epoch)
        if len(epochs) == 4:
            raise KeyboardInterrupt
        validate(self, result)

    create, failed = optuna.create_study, []

    def created(**words: Any) -> optuna.Study:
        if not failed:  # another process makes the tables
            failed.append(1)
            raise RuntimeError("table exists")
        return create(**words)

    monkeypatch.setattr("promptkit.experiments.tuning.PATIENCE", 0)
    monkeypatch.setattr(optuna, "create_study", created)
    monkeypatch.setattr(Validation, "on_epoch", counted)
    words = ["tune", "coop", "--data", images, *TINY, "--vary", "train.lr=0..1", "--trials", 2, "--out", "tuned"]
    done = command(*words)
    assert done.status == 130
    assert "the same command goes on" in done.out
    done = command(*words)
    assert done.status == 0, done.err
    assert epochs == [1, 2, 1, 2, 2]
    assert "trial 2 of 2" in done.out
    assert sorted(path.name for path in (tmp_path / "tuned").glob("trial-*")) == ["trial-0000", "trial-0001"]


def test_a_trial_below_the_median_ends_early_and_one_that_fails_ends_no_other(
    command: Command, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def scripted(self: Validation, result: EpochResult) -> None:
        begun.extend([1] * (result.epoch == 1))
        if len(begun) == 2:
            raise promptkit.TrainingError("loss term 'x' is nan")
        result.val_accuracy = 0.1 if len(begun) == 7 else 0.8 + len(begun) / 100

    monkeypatch.setattr(Validation, "on_epoch", scripted)
    found = promptkit.tune(
        "coop", {"prompts.n_ctx": range(1, 90)}, "tuned", trials=7, data=str(images), backbone="tiny", weights="none",
        workers=0, shots=2, epochs=3, console=Console(file=io.StringIO()), **{"train.warmup_epochs": 1},
    ).trials  # fmt: skip
    assert list(found["state"]) == ["complete", "failed", *4 * ["complete"], "pruned"]
    assert list(found["epochs"].dropna()) == [3] * 5 + [2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vary", "loss.contrst=0.1..1"], "did you mean 'contrast'?"),
        (["--vary", "train.learning=1,2"], "no option of train named 'learning'"),
        (["--vary", "prompts.n_ctx=1..many"], "expected int"),
        (["--vary", "prompts.n_ctx=0..4"], "expected int, at least 1"),
        (["--vary", "train.lr=0..1:log"], "no logarithm between these ends"),
        (["--vary", "train.lr=1..0.1"], "no number between these ends"),
        (["--vary", "train.lr=1..2:lg"], "expected LOW..HIGH or LOW..HIGH:log"),
        (["--vary", "train.lr=1,2", "--vary", "train.lr=3,4"], "--vary names train.lr twice"),
        (["--vary", "train.lr=1,2", "--lr", "1"], "train.lr is both given and varied"),
        (["--vary", "data.shots=1,2"], "trials are compared on the same pictures"),
        (["--vary", "train.seed=1,2"], "give --seed"),
        ([], "there is nothing to tune"),
        (["--vary", "train.lr=1,2", "--storage", "nonsense"], "the storage of the trials can't be opened"),
    ],
)
def test_what_cannot_be_tuned_is_said_before_anything_runs(
    words: list[str], message: str, command: Command, images: Path, tmp_path: Path
) -> None:
    done = command("tune", "gopro", "--data", images, *TINY[:6], *words, "--out", "tuned")
    assert done.status == 2
    assert message in done.err
    assert not list(tmp_path.rglob("trial-*"))


def test_without_a_val_split_or_optuna_the_next_step_is_named(
    command: Command, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "test"):
        shutil.copytree(images / "photo", tmp_path / "split" / split)
    words = ["tune", "coop", *TINY, "--vary", "prompts.n_ctx=1,2", "--trials", 1]
    done = command(*words, "--data", "split")
    assert (done.status, "the data has no val split" in done.err) == (2, True)
    assert "--split draw" in done.err
    monkeypatch.setattr("promptkit.extras.find_spec", lambda name: None)
    done = command(*words, "--data", images)
    assert (done.status, "pip install optuna" in done.err) == (2, True)

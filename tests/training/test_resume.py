"""A run that is stopped, however, goes on as if it had not been: bit for bit on a CPU."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptkit.runs.checkpoint import read_metadata
from promptkit.runs.status import read_saved
from promptkit.runs.tensorfile import read_tensors, read_text
from tests.training.conftest import learned, log

Command = Callable[..., "Finished"]


def test_a_stopped_run_goes_on_from_its_folder_alone(
    stopped: Path, train: Command, promptkit: Command, tmp_path: Path
) -> None:
    done = promptkit("train", "--out", "run", "--resume")
    assert done.status == 0, done.err
    assert "going on in epoch 2" in done.out
    train("coop", "--out", "whole", "--set", "train.optimizer=adamw")
    assert learned(stopped) == learned(tmp_path / "whole")
    first, then = read_metadata(stopped).commands
    assert first.startswith("promptkit train coop --data ")
    assert then == "promptkit train --out run --resume"
    again = promptkit("train", "--out", "run", "--resume")
    assert (again.status, "finished already, after 2 epochs" in again.out) == (0, True)


def test_a_stopped_run_is_not_overwritten(stopped: Path, train: Command) -> None:
    done = train("coop", "--out", "run")
    assert done.status == 2
    assert "run holds a run that was stopped" in done.err
    assert "--resume" in done.err


def test_other_settings_are_refused_with_the_difference(stopped: Path, train: Command) -> None:
    done = train("coop", "--out", "run", "--resume", "--lr", "0.5", "--set", "prompts.n_ctx=3")
    assert done.status == 2
    assert "prompts.n_ctx: 16 in the run, 3 now; train.lr: 0.002 in the run, 0.5 now" in done.err


def test_what_has_nothing_to_train_does_not_replace_what_was_learned(stopped: Path, train: Command) -> None:
    before = learned(stopped)
    train("zeroshot", "--out", "other")
    for words in (("coop", "--epochs", 0), ("zeroshot", "--config", "other/run.toml")):
        done = train(*words, "--out", "run", "--resume")
        assert done.status == 2
        assert "run can't be resumed with other settings" in done.err
        assert learned(stopped) == before
        assert (stopped / "state.safetensors").exists()


def test_a_finished_run_is_compared_too(train: Command, promptkit: Command, tmp_path: Path) -> None:
    """In runs/RECIPE, where no --out is given."""
    train("coop")
    before = learned(tmp_path / "runs/coop")
    done = promptkit("train", "coop", "--resume", "--epochs", 100)
    assert done.status == 2
    assert "train.epochs: 2 in the run, 100 now" in done.err
    assert learned(tmp_path / "runs/coop") == before
    done = promptkit("train", "coop", "--resume")
    assert (done.status, "runs/coop is finished already, after 2 epochs" in done.out) == (0, True)


def test_another_number_of_processes_is_refused(stopped: Path, promptkit: Command, damage: Any) -> None:
    path = stopped / "state.safetensors"
    plain = json.loads(read_text(path))
    path.write_bytes(damage.signed(read_tensors(path), {**plain, "processes": 2}))
    done = promptkit("train", "--out", "run", "--resume")
    assert done.status == 2
    assert "processes: 2 in the run, 1 now" in done.err


def test_other_labels_are_refused(
    images: Path, train: Command, promptkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from promptkit.runs.folder import RunFolder

    data = Path(shutil.copytree(images, tmp_path / "copied"))

    def killed(folder: RunFolder, *arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", killed)
        assert train("coop", "--out", "run", "--data", data).status == 130
    (data / "classnames.json").write_text('{"star": "galaxy"}')
    done = promptkit("train", "--out", "run", "--resume")
    assert done.status == 2
    assert "the pictures of the data set, their labels or descriptions" in done.err


def test_other_data_is_refused(stopped: Path, promptkit: Command, tmp_path: Path) -> None:
    from promptkit.testing import write_images

    write_images(tmp_path / "other", per_class=9)
    done = promptkit("train", "--out", "run", "--resume", "--data", "other")
    assert done.status == 2
    assert "the pictures of the data set" in done.err


@pytest.mark.parametrize("number", range(0, 400, 40))
def test_a_damaged_state_is_an_error_and_leaves_the_learner(
    stopped: Path, promptkit: Command, damage: Any, number: int
) -> None:
    before = learned(stopped)
    state = stopped / "state.safetensors"
    cases = [*damage.broken_bytes(state), *damage.spoiled_tensors(state)]
    _, content = cases[number % len(cases)]
    state.write_bytes(content)
    done = promptkit("train", "--out", "run", "--resume")
    assert done.status == 2
    assert "run/state.safetensors can't be resumed from" in done.err
    assert "Traceback" not in done.err
    assert learned(stopped) == before
    assert state.read_bytes() == content


@pytest.mark.parametrize("content", [None, b"", b'{"epoch": 1}\n{"epo', b"\xff\n", "folder"])
def test_a_damaged_log_never_costs_the_run(stopped: Path, promptkit: Command, content: bytes | str | None) -> None:
    path = stopped / "log.jsonl"
    path.unlink()
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    done = promptkit("train", "--out", "run", "--resume")
    if content in (b"\xff\n", "folder"):
        assert done.status == 2
        assert "error: run/log.jsonl can't be read" in done.err
        assert "moved away" in done.err
        path.rename(stopped / "moved")
        done = promptkit("train", "--out", "run", "--resume")
    assert done.status == 0, done.err
    assert ("lacks lines of the epochs before 2" in done.err) == (content != b'{"epoch": 1}\n{"epo')
    assert [line["epoch"] for line in log(stopped)][-1] == 2


def test_a_kill_between_the_last_save_and_the_end_changes_nothing(
    stopped: Path, train: Command, promptkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from promptkit.runs.folder import RunFolder

    def killed(folder: RunFolder) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", killed)
        assert promptkit("train", "--out", "run", "--resume").status == 130
    done = promptkit("train", "--out", "run", "--resume")
    assert done.status == 0, done.err
    train("coop", "--out", "whole", "--set", "train.optimizer=adamw")
    assert learned(stopped) == learned(tmp_path / "whole")
    assert log(stopped) == log(tmp_path / "whole")
    assert not (stopped / "state.safetensors").exists()


@pytest.mark.parametrize("optimizer", ["momentum", "lamb", "adan", "adafactor"])
def test_a_kill_after_the_first_epoch_is_no_finished_run(
    optimizer: str, train: Command, promptkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was written last, the learner or the state, and wherever an optimiser keeps what it counts."""
    from promptkit.runs.folder import RunFolder

    words = ("--set", f"train.optimizer={optimizer}")
    train("coop", "--out", "whole", *words)
    for name in ("save", "save_state"):
        written = getattr(RunFolder, name)

        def killed(folder: RunFolder, *arguments: Any, written: Any = written) -> None:
            written(folder, *arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, name, killed)
            assert train("coop", "--out", name, *words).status == 130
        done = train("coop", "--out", name, *words, "--resume")
        assert done.status == 0, done.err
        assert "going on in epoch 2" in done.out
        assert learned(tmp_path / name) == learned(tmp_path / "whole")


def test_the_log_of_a_resumed_epoch_counts_all_its_unreadable_images(
    train: Command, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from promptkit.runs.folder import RunFolder

    data = Path(shutil.copytree(images, tmp_path / "copied"))
    for path in sorted(data.rglob("*.png"))[::5]:
        path.write_bytes(b"no picture")
    words = ("--data", data, "--batch-size", 4, "--set", "train.save_minutes=0", "--shots", 0)
    train("coop", "--out", "whole", *words)
    assert log(tmp_path / "whole")[0]["unreadable"] > 1
    saves: list[bytes] = []
    save_state = RunFolder.save_state

    def killed(folder: RunFolder, content: bytes) -> None:
        save_state(folder, content)
        saves.append(content)
        if len(saves) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "save_state", killed)
    assert train("coop", "--out", "run", *words).status == 130
    assert train("coop", "--out", "run", *words, "--resume").status == 0
    assert log(tmp_path / "run") == log(tmp_path / "whole")
    assert learned(tmp_path / "run") == learned(tmp_path / "whole")


def test_resume_without_a_run_begins_one(train: Command) -> None:
    assert train("coop", "--out", "run", "--resume").status == 0


def test_a_run_killed_before_its_first_state_begins_again(stopped: Path, promptkit: Command, tmp_path: Path) -> None:
    (stopped / "state.safetensors").unlink()
    done = promptkit("train", "--out", "run", "--resume")
    assert done.status == 0, done.err
    assert "finished already" not in done.out
    assert len(log(stopped)) == 2


def test_a_damaged_learner_without_a_state_is_not_replaced_by_resume(train: Command, tmp_path: Path) -> None:
    train("coop", "--out", "run")
    (tmp_path / "run/learner.safetensors").write_bytes(b"not at all")
    done = train("coop", "--out", "run", "--resume")
    assert done.status == 2
    assert "learner.safetensors is no promptkit checkpoint" in done.err
    assert (tmp_path / "run/learner.safetensors").read_bytes() == b"not at all"


def test_what_was_learned_never_stands_under_other_settings(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from promptkit.training.validation import Validation

    def interrupt(validation: Validation, result: Any) -> None:
        raise KeyboardInterrupt

    train("coop", "--out", "whole", "--seed", 2)
    train("coop", "--out", "run")
    before = learned(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Validation, "on_epoch", interrupt)
        assert train("coop", "--out", "run", "--seed", 2, "--force").status == 130
    # The new run had nothing yet that could be kept, so the old one is as it was.
    assert learned(tmp_path / "run") == before
    assert read_saved(tmp_path / "run")[0]["train"]["seed"] == 1
    assert train("coop", "--out", "run", "--seed", 2, "--force").status == 0
    assert learned(tmp_path / "run") == learned(tmp_path / "whole")

"""A run that is stopped, however, goes on as if it had not been: bit for bit on a CPU."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

Command = Callable[..., "Finished"]


def learned(run: Path) -> dict[str, bytes]:
    with safe_open(run / "learner.safetensors", framework="np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def log(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


# Forks a warm process for every training, so that twenty of them take seconds. No thread has started before a fork.
DRIVER = """
import os, random, signal, sys, time
import torch
torch.set_num_threads(1)
import promptkit.cli, promptkit.training.run, promptkit.testing, open_clip, albumentations
from promptkit.registry import installed
installed()

def start(words, quiet=True):
    child = os.fork()
    if child:
        return child
    if quiet:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
    sys.argv = ["promptkit", *words]
    try:
        promptkit.cli.main()
    except SystemExit as end:
        os._exit(int(end.code or 0))

def finish(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def drive(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    script = DRIVER + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )


def test_twenty_kills_change_nothing(pictures: Path, tmp_path: Path) -> None:
    done = drive(
        """
        out, *words = sys.argv[1:]
        begun = time.monotonic()
        assert finish(start([*words, "--out", f"{out}/whole"], quiet=False)) == 0
        lasts = time.monotonic() - begun
        rng = random.Random(0)
        killed = 0
        for trial in range(20):
            run = [*words, "--out", f"{out}/run{trial}"]
            child = start(run)
            time.sleep(rng.uniform(0.2, 1.0) * lasts)
            os.kill(child, signal.SIGKILL)
            killed += finish(child) == -signal.SIGKILL
            assert finish(start([*run, "--resume"], quiet=False)) == 0, trial
        print("killed", killed)
        """,
        tmp_path,
        *("train", "gopro", "--data", pictures, "--backbone", "tiny", "--weights", "none", "--workers", "0"),
        *("--epochs", "3", "--shots", "4", "--domains", "photo", "--set", "train.optimizer=adamw"),
        *("--set", "train.save_minutes=0"),  # after every step, so that many kills fall into a save
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-1]) >= 10, "most runs should have been killed before their end"
    assert "going on in epoch" in done.stdout
    whole = tmp_path / "whole"
    assert len(log(whole)) == 3
    for trial in range(20):
        run = tmp_path / f"run{trial}"
        assert learned(run) == learned(whole)
        assert log(run) == log(whole)
        assert not (run / "state.safetensors").exists()


@pytest.fixture
def stopped(train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of coop that an interrupt stopped in its second epoch."""
    from promptkit.training.run import Run

    validate = Run._validate

    def interrupt(run: Run) -> float | None:
        if run.saved_epoch == 1:
            raise KeyboardInterrupt
        return validate(run)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_validate", interrupt)
        assert train("coop", "--out", "run").status == 130
    assert (tmp_path / "run/state.safetensors").exists()
    return tmp_path / "run"


def test_a_stopped_run_goes_on_from_its_folder_alone(
    stopped: Path, train: Command, promptkit: Command, tmp_path: Path
) -> None:
    done = promptkit("train", "--out", "run", "--resume")
    assert done.status == 0, done.err
    assert "going on in epoch 2" in done.out
    train("coop", "--out", "whole")
    assert learned(stopped) == learned(tmp_path / "whole")
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


def test_other_data_is_refused(stopped: Path, promptkit: Command, tmp_path: Path) -> None:
    from promptkit.testing import write_pictures

    write_pictures(tmp_path / "other", per_class=9)
    done = promptkit("train", "--out", "run", "--resume", "--data", "other")
    assert done.status == 2
    assert "the pictures of the data set" in done.err


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_damaged_state_is_an_error_and_leaves_the_learner(stopped: Path, promptkit: Command, keep: int) -> None:
    before = learned(stopped)
    state = stopped / "state.safetensors"
    state.write_bytes(state.read_bytes()[:keep])
    done = promptkit("train", "--out", "run", "--resume")
    assert done.status == 2
    assert "run/state.safetensors can't be resumed from" in done.err
    assert learned(stopped) == before


def test_resume_without_a_run_begins_one(train: Command) -> None:
    assert train("coop", "--out", "run", "--resume").status == 0


def test_a_run_killed_before_its_first_state_begins_again(stopped: Path, promptkit: Command, tmp_path: Path) -> None:
    (stopped / "state.safetensors").unlink()
    done = promptkit("train", "--out", "run", "--resume")
    assert done.status == 0, done.err
    assert "finished already" not in done.out
    assert len(log(stopped)) == 2


def test_a_run_killed_after_its_last_epoch_only_ends(
    train: Command, promptkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from promptkit.training.checkpoint import RunFolder

    def interrupt(folder: RunFolder) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", interrupt)
        assert train("coop", "--out", "run").status == 130
    before = learned(tmp_path / "run"), log(tmp_path / "run")
    done = promptkit("train", "--out", "run", "--resume")
    assert done.status == 0, done.err
    assert (learned(tmp_path / "run"), log(tmp_path / "run")) == before
    assert not (tmp_path / "run/state.safetensors").exists()

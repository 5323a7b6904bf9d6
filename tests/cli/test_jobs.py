"""`promptkit bench --jobs`: runs side by side in processes of their own."""

import multiprocessing
import os
import pickle
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
import torch

from promptkit.errors import PromptkitError, UnknownNameError
from promptkit.experiments import jobs

Command = Callable[..., "Finished"]
Figures = Callable[[Path], dict[tuple[object, ...], object]]

QUICK = (
    *("--backbone", "tiny", "--weights", "none", "--workers", "0", "--device", "cpu", "--batch-size", "8"),
    *("--learners", "coop,gopro,bad=coop[train.lr=1e30,train.warmup_epochs=0]"),
    *("--seeds", "1,2", "--shots", "9", "--epochs", "6", "--source", "photo", "--set", "train.save_minutes=0"),
)


def finished(folder: Path) -> dict[Path, int]:
    """The runs that nothing is left to train of, and when they were written."""
    found = [path for path in folder.rglob("learner.safetensors") if not (path.parent / "state.safetensors").exists()]
    return {path: path.stat().st_mtime_ns for path in found}


# In the middle: one run is finished, and another is not.
KILLED = """
import time
from pathlib import Path
import psutil

child = start(sys.argv[1:])
while True:
    saved, under_way = ({path.parent for path in Path().rglob(f"{name}.safetensors")} for name in ("learner", "state"))
    if saved - under_way and under_way:
        break
    assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended"
    time.sleep(0.02)
family = psutil.Process(child).children(recursive=True)
os.kill(child, signal.SIGKILL)
assert finish(child) == -signal.SIGKILL
assert len(family) >= 2
assert not psutil.wait_procs(family, timeout=20)[1], "they end with the process that started them"
"""


def test_jobs_that_are_killed_or_stopped_go_on_to_the_figures_of_one_process(
    promptkit: Command,
    warm: Callable[..., "list[Finished]"],
    figures: Figures,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("bench", "few-shot", "--data", str(images), *QUICK)
    (killed,) = warm(*words, "--jobs", 2, cwd=tmp_path, code=KILLED)
    assert killed.status == 0, killed.err
    before = finished(tmp_path / "results")

    looks: list[object] = []

    def interrupt(*arguments: Any) -> Any:
        looks.append(arguments)
        if len(looks) == 2:
            raise KeyboardInterrupt
        return wait(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "wait", interrupt)
        stopped = promptkit(*words, "--jobs", 2)
    assert stopped.status == 130
    assert "the same command goes on" in stopped.out
    assert not multiprocessing.active_children()

    done = promptkit(*words, "--jobs", 2)
    assert done.status == 1, "the third learner fails, and stops no other"
    assert done.out.count("failed: results/few-shot/") == 2
    assert "loss term 'ce' is" in done.out or "logits that are not finite" in done.out
    assert {path: when for path, when in finished(tmp_path / "results").items() if path in before} == before
    assert done.out.count("trained few-shot") == 4 - len(before)
    assert done.out.count("accuracy: mean ± standard deviation over seeds") == 1
    assert done.err.count("fewer training pictures than 9 shots") == 1, "once, for both seeds and all processes"
    assert done.err.count("random weights") == 1
    assert promptkit(*words, "--out", "whole").status == 1
    assert figures(tmp_path / "results") == figures(tmp_path / "whole")


def test_each_job_has_a_gpu_or_a_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8), raising=False)
    shown = []
    for place in range(3):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-6f")
        jobs.take_share(place, 3)
        shown.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert shown == ["4", "GPU-6f", "4"]
    assert threads == [2, 2, 2]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    jobs.take_share(0, 100)
    assert (os.environ["CUDA_VISIBLE_DEVICES"], threads[-1]) == ("", 1)


def test_an_error_keeps_its_words_between_processes() -> None:
    for error in (PromptkitError("wrong", "do right"), UnknownNameError("recipe", "cop", ["coop"])):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.message, again.hint) == (
            type(error), str(error), error.message, error.hint
        )  # fmt: skip

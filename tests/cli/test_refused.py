"""What follows a training, with bad input: one clear message each, before the work, and nothing half done."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from promptkit.experiments.results import write_results

Command = Callable[..., "Finished"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """CoOp after an epoch on the tiny backbone."""
    from rich.console import Console

    from promptkit.config import resolve
    from promptkit.registry import installed
    from promptkit.training.run import Run

    out = tmp_path_factory.mktemp("runs") / "coop"
    flags = {"data.path": str(images), "backbone.name": "tiny", "train.epochs": 1, "data.shots": 1, "train.workers": 0}
    Run(resolve(installed(), "coop", None, [], flags), out).train(Console(quiet=True), lines=False)
    return out


def test_bad_input_has_one_clear_message(
    promptkit: Command, run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("promptkit.runs.hub.reached", lambda error: "http://127.0.0.1:1")
    (tmp_path / "empty").mkdir()
    photo = images / "photo/star/000.png"
    no_run, other = "gone holds no run (there is no learner.safetensors in it)", "was trained on tiny"
    for words, message in (
        (["predict", "gone", photo], no_run),
        (["report", "gone"], no_run),
        (["explain", "gone"], no_run),
        (["eval", "gone"], no_run),
        (["export", "gone", "out"], no_run),
        (["push", "gone", "me/gone"], no_run),
        (["predict", run, photo, "--backbone", "demo"], other),
        (["report", run, "--backbone", "demo"], other),
        (["explain", run, "--backbone", "demo"], other),
        (["eval", run, "--backbone", "demo"], other),
        (["export", run, "out", "--backbone", "demo"], other),
        (["predict", run, "empty"], "empty holds no pictures"),
        (["report", run, "--data", "empty"], "empty holds no pictures"),
        (["report", "empty"], "no results in empty"),
        (["eval", run, "--data", "empty"], "empty holds no pictures"),
        (["export", run, "out", "--data", "empty"], "empty holds no pictures"),
    ):
        done = promptkit(*words)
        assert (done.status, done.out) == (2, ""), words
        assert done.err.count("error:") == done.err.count("hint:") == 1, done.err
        assert message in " ".join(done.err.split()), done.err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.skipif(not os.path.isdir("/sys"), reason="there is no folder that nobody writes to")
def test_a_target_that_nobody_writes_to_is_named(promptkit: Command, run: Path, images: Path) -> None:
    """Before the work, where that is long: before a run is opened, which isn't there."""
    for words, target in (
        (["predict", "gone", images, "--out", "/sys/a.csv"], "/sys/a.csv"),
        (["report", "gone", "--out", "/sys/a.html"], "/sys/a.html"),
        (["explain", run, "--picture", images / "photo/star/000.png", "--out", "/sys/a.png"], "/sys/a.png"),
        (["export", run, "/sys/out"], "/sys/out"),
    ):
        done = promptkit(*words)
        assert done.status == 2
        assert f"error: {target} can't be written: " in done.err
        assert "choose another F" in done.err


def test_a_full_disk_leaves_what_was_there_and_nothing_else(
    promptkit: Command,
    run: Path,
    images: Path,
    result: Callable[..., "Result"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "results").mkdir()
    write_results(tmp_path / "results", [result(0.5, classes=half) for half in ("base", "new")])
    star = images / "photo/star/000.png"
    assert promptkit("report", run, "--workers", 0).status == 0
    before = (tmp_path / "report.html").read_bytes()

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for words, target in (
        (["predict", run, star, "--out", "a.csv"], "a.csv"),
        (["predict", run, star, "--out", "a.parquet"], "a.parquet"),
        (["report", run], "report.html"),
        (["explain", run, "--picture", star], "explained.png"),
        (["figure", "results", "--kind", "base-new"], "figure.pdf"),
        (["eval", run, "--keep", "--split", "all"], f"{run}/records/"),
    ):
        done = promptkit(*words)
        said = done.err.replace("\n", "")
        assert done.status == 2, words
        assert f"error: {target}" in said
        assert "can't be written: No space left on device" in said
        assert "make room" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "results"]
    assert (tmp_path / "report.html").read_bytes() == before

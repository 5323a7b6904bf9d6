"""Every benchmark runs, and what both of its sides compute is equal."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from promptkit.offered import LEARNERS

BENCHMARKS = Path(__file__).parents[1] / "benchmarks/run.py"
Capture = pytest.CaptureFixture[str]
IMAGE_TOWER = BENCHMARKS.with_name("image_tower.py")


def test_every_table_in_its_smallest_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    kept, figure = tmp_path / "rows.jsonl", tmp_path / "figure.svg"
    words = [sys.executable, BENCHMARKS, "all", "--smoke", "--backbone", "tiny", "--threads", "1", "--out", kept]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    tables = {row["table"] for row in rows}
    assert {"text", "low rank", "steps", "eval", "largest"} <= tables
    assert [row["recipe"] for row in rows if row["table"] == "steps"] == ["coop", "cocoop", "gopro-reference"]
    assert kept.read_text() == done.stdout
    monkeypatch.setattr(sys, "argv", ["table.py", str(kept), "--figure", str(figure)])
    runpy.run_path(str(BENCHMARKS.with_name("table.py")), run_name="__main__")
    table = capsys.readouterr().out
    assert all(recipe in table for recipe in ("coop, 3 pictures", "gopro-reference, 3 pictures", "view 'moco'"))
    assert "share of a matmul" in figure.read_text()


def test_tuning_at_test_time() -> None:
    words = [
        sys.executable,
        BENCHMARKS.with_name("adapting.py"),
        "--backbone",
        "tiny",
        "--classes",
        "3",
        "--crops",
        "19",
    ]
    zoo = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parents[1] / "plugins/zoo")}
    done = subprocess.run([*words, "--batch", "2", "--threads", "1"], capture_output=True, text=True, env=zoo)
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, done.stdout.splitlines())
    assert row["views"] == 20
    assert float(row["logits_off"]) <= 1e-3


def test_a_step_of_every_learner(tmp_path: Path) -> None:
    sizes = [
        "--backbone",
        "tiny",
        "--classes",
        "3",
        "--batch",
        "2",
        "--steps",
        "1",
        "--out",
        str(tmp_path / "zoo.json"),
    ]
    zoo = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parents[1] / "plugins/zoo")}
    done = subprocess.run(
        [sys.executable, BENCHMARKS.with_name("zoo.py"), *sizes], capture_output=True, text=True, env=zoo
    )
    assert done.returncode == 0, done.stderr
    seconds = json.loads((tmp_path / "zoo.json").read_text())["seconds"]
    assert {*LEARNERS} - seconds.keys() == {"cupl", "tda", "tpt"}, "nothing is trained of these"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux does")
def test_an_image_tower_each_way() -> None:
    words = [sys.executable, IMAGE_TOWER, "--cnn", "test_resnet", "--vit", "", "--batch", "3", "--threads", "1"]
    words += ["--rounds", "1", "--ways", "plain", "promptkit"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["way"] for row in rows] == ["plain", "promptkit"]
    assert all(float(row["off"]) <= 1e-5 and row["images/s"] > 0 for row in rows)

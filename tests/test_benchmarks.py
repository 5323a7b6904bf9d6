"""Every benchmark runs, and what both of its sides compute is equal."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from promptkit.offered import LEARNERS

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
Capture = pytest.CaptureFixture[str]
Run = Callable[..., str]

SCRIPT = """
import runpy
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def run(warm: Callable[..., "list[Finished]"], tmp_path: Path) -> Run:
    """Run a script of the benchmarks on the tiny backbone, in a process of its own; what it printed."""

    def run(script: str, *words: object) -> str:
        tiny = ("--backbone", "tiny") if script != "image_tower.py" else ()
        (done,) = warm(BENCHMARKS / script, *words, *tiny, cwd=tmp_path, code=SCRIPT)
        assert done.status == 0, done.err
        return done.out

    return run


def test_every_table_in_its_smallest_form(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    kept, figure = tmp_path / "rows.jsonl", tmp_path / "figure.svg"
    printed = run("run.py", "all", "--smoke", "--threads", 1, "--out", kept)
    rows = [json.loads(line) for line in printed.splitlines()]
    tables = {row["table"] for row in rows}
    assert {"text", "low rank", "steps", "eval", "largest", "store"} <= tables
    assert [row["recipe"] for row in rows if row["table"] == "steps"] == ["coop", "cocoop", "gopro-reference"]
    assert kept.read_text() == printed
    monkeypatch.setattr(sys, "argv", ["table.py", str(kept), "--figure", str(figure)])
    runpy.run_path(str(BENCHMARKS / "table.py"), run_name="__main__")
    table = capsys.readouterr().out
    assert all(recipe in table for recipe in ("coop, 3 pictures", "gopro-reference, 3 pictures", "view 'moco'"))
    assert "share of a matmul" in figure.read_text()


def test_tuning_at_test_time(run: Run) -> None:
    printed = run("adapting.py", "--classes", 3, "--crops", 19, "--batch", 2, "--threads", 1)
    (row,) = map(json.loads, printed.splitlines())
    assert row["views"] == 20
    assert float(row["logits_off"]) <= 1e-3


def test_a_step_of_every_learner(run: Run, tmp_path: Path) -> None:
    run("zoo.py", "--classes", 3, "--batch", 2, "--steps", 1, "--out", tmp_path / "zoo.json")
    seconds = json.loads((tmp_path / "zoo.json").read_text())["seconds"]
    assert {*LEARNERS} - seconds.keys() == {"cupl", "tda", "tpt"}, "nothing is trained of these"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux does")
def test_an_image_tower_each_way(run: Run) -> None:
    sizes = ("--cnn", "test_resnet", "--vit", "", "--batch", 3, "--threads", 1, "--rounds", 1)
    rows = [json.loads(line) for line in run("image_tower.py", *sizes, "--ways", "plain", "promptkit").splitlines()]
    assert [row["way"] for row in rows] == ["plain", "promptkit"]
    assert all(float(row["off"]) <= 1e-5 and row["images/s"] > 0 for row in rows)

"""What is said about work under way, away from a terminal."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from promptkit import progress
from promptkit.progress import ProgressLines


def test_a_line_a_minute() -> None:
    out, now = io.StringIO(), [0.0]
    lines = ProgressLines(Console(file=out), "testing", 1000, clock=lambda: now[0])
    for _ in range(30):
        now[0] += 10
        lines.advance(20)
    said = out.getvalue().splitlines()
    assert len(said) == 5
    assert said[0] == "testing: 12%, about 7 min left"
    assert said[-1] == "testing: 60%, about 3 min left"


def test_training_and_testing_say_how_far_they_are(
    train: Callable[..., "Finished"],
    promptkit: Callable[..., "Finished"],
    monkeypatch: pytest.MonkeyPatch,
    images: Path,
) -> None:
    assert "training run: " not in train("coop", "--out", "run").out
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    assert "training run: 100%" in train("coop", "--out", "run", "--force").out
    assert "evaluating: 100%" in promptkit("eval", "run").err

"""What is said about work under way, away from a terminal."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from promptkit import progress
from promptkit.cli.console import Prose
from promptkit.progress import ProgressLines
from promptkit.training.callbacks import EpochResult
from promptkit.training.progress import Forecast, TrainingProgress


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


def test_bar_and_time_left_survive_many_terms_in_80_columns() -> None:
    console = Console(
        file=io.StringIO(),
        width=80,
        force_terminal=True,
        highlight=False,
        color_system="standard",
        legacy_windows=False,
    )
    progress = TrainingProgress(console, "training run", 12_000, 50)
    terms = {name: torch.tensor(1.25) for name in ("ce", "domain", "classes", "consistency", "distillation")}
    progress.bar.start()
    for _ in range(11):
        progress.on_step(terms, 1024)
    shown = "".join(part.text for part in console.render(progress.bar.get_renderable()))
    progress.on_end()
    line = shown.rstrip("\n")
    assert "\n" not in line
    assert len(line) <= 80
    assert re.search(r"━{3,}.* 11264/600000 pictures .*\d:\d\d:\d\d ce 1", line)
    figures = EpochResult(50, 50, 0.002, {name: 1.25 for name in terms}, 1.0, 12_000, 60.0, 0, [], 0.831)
    console.file = io.StringIO()
    progress.on_epoch(figures)
    said = console.file.getvalue()
    assert max(map(len, said.splitlines())) <= 80
    values = [word for name in terms for word in (name, "1.2500")]
    assert said.split() == ["epoch", "50/50", *values, "val", "83.1", "%", "lr", "0.002", "200.0", "img/s"]


def test_prose_is_broken_between_words_on_a_terminal_and_nowhere_else() -> None:
    text = "gopro on ViT-B-16 (openai), 1,000 classes, 1,281,167 training pictures, 12,345,678 trained parameters, cuda"
    for is_terminal, lines in ((True, 2), (False, 1)):
        console = Prose(file=io.StringIO(), width=80, force_terminal=is_terminal, highlight=False)
        console.print(text, soft_wrap=True)
        said = console.file.getvalue()
        assert said.split() == text.split()
        assert said.count("\n") == lines


def test_training_and_testing_say_how_far_they_are(
    train: Callable[..., "Finished"],
    promptkit: Callable[..., "Finished"],
    monkeypatch: pytest.MonkeyPatch,
    images: Path,
) -> None:
    assert "training run: " not in train("coop", "--out", "run").out
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    # Of the 32 pictures of an epoch the last 8 fill no batch.
    said = train("coop", "--out", "run", "--force", "--batch-size", 12).out
    assert re.findall(r"training run: (\d+)%", said) == ["25", "50", "75", "100"]
    assert "evaluating: 100%" in promptkit("eval", "run").err


def test_how_long_a_training_takes_is_said_after_a_step_or_two() -> None:
    out, now = io.StringIO(), [0.0]
    forecast = Forecast(Console(file=out), 50 * 112, clock=lambda: now[0])
    for seconds in (60, 2, 4, 99, 99):  # the first starts workers
        now[0] += seconds
        forecast.on_step({}, 8)
    # 3 seconds for 8 of the 5,576 that are left after three steps
    assert out.getvalue() == "about 35 min for the 5,576 pictures that are left, validation not counted\n"

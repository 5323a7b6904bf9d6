"""What the README shows is true."""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import promptkit as package
from promptkit.testing import registered

Command = Callable[..., "Finished"]

README = Path(package.__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_its_learner_trains_and_is_evaluated_on_new_classes(train: Command, promptkit: Command) -> None:
    module = ModuleType("promptkit_smoothed")
    exec(blocks("python")[1], module.__dict__)
    with registered(module):
        assert train("smoothed", "--classes", "base", "--out", "run", "--set", "loss.smoothing=0.2").status == 0
        assert promptkit("eval", "run", "--classes", "new").status == 0


def test_its_python_opens_a_run(train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    train("gopro", "--out", "runs/gopro")
    names = {"picture": np.zeros((40, 32, 3), np.uint8)}
    exec(blocks("python")[0], names)
    assert {answer["label"] for answer in names["answers"]} == {"cat", "dog"}


def test_it_is_short_and_its_figures_stand_where_it_says() -> None:
    text = README.read_text()
    assert len(text) < 8000
    steps = (README.parent / "benchmarks/README.md").read_text()
    for recipe, times in (("gopro-reference", ("15.1", "34.7")), ("cocoop", ("10.3",)), ("coop", ("4.9",))):
        (row,) = re.findall(rf"^\| {recipe} \| .*$", steps, re.MULTILINE)
        for figure in times:
            assert f"| {figure} |" in row
            assert f"{float(figure):.0f} times" in text
    table = (README.parent / "docs/demo.md").read_text()
    (row,) = re.findall(r"^│ base, trained .*$", table, re.MULTILINE)
    for figure in re.findall(r"\d\d\.\d(?: ± \d\.\d)?", row):
        assert figure in text


def test_its_options_exist(promptkit: Command) -> None:
    commands = re.findall(
        r"^\$ promptkit (train|eval|predict|report|export|bench)(.*?)(?:#.*)?$",
        "\n".join(blocks("console")),
        re.MULTILINE,
    )
    assert len(commands) >= 8
    for command, words in commands:
        shown = promptkit(command, "--help").out
        for option in re.findall(r"--[a-z-]+", words):
            assert option in shown, f"{command} {option}"

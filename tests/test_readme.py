"""What the README shows is true."""

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

import promptkit as package
from promptkit import hookimpl
from promptkit.backbones.demo import load_demo_clip
from promptkit.testing import registered

Command = Callable[..., "Finished"]

README = Path(package.__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def lines(*commands: str) -> list[list[str]]:
    """The words of each of these commands, as they stand."""
    shown = re.findall(r"^\$ promptkit (.*)$", "\n".join(blocks("console")), re.MULTILINE)
    found = [shlex.split(line, comments=True) for line in shown]
    return [words for words in found if words[0] in commands]


def test_its_commands_run_as_they_stand(promptkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, with the demo's small CLIP in the place of the one that would be fetched, for two epochs."""
    stand_in = ModuleType("stand_in")
    offer = hookimpl(specname="register_backbones")
    stand_in.offer = offer(lambda register: register("ViT-B-16", load_demo_clip))
    Image.new("RGB", (90, 41), "orange").save(tmp_path / "picture.jpg")
    with registered(stand_in) as registry:
        for recipe in ("gopro", "coop"):
            monkeypatch.setitem(registry.entries["recipe"][recipe].value.settings, "train.epochs", 2)
        for words in lines("demo-data", "predict", "train", "eval", "report"):  # tests/cli/test_export.py writes ONNX
            done = promptkit(*words, *(("--per-class", 4) if words[0] == "demo-data" else ()))
            assert done.status == 0, f"{words}: {done.err}"
            if words[0] == "demo-data":
                shutil.copytree("pictures/photo/cat", "new-pictures")
                for drawn in tmp_path.glob("pictures/*/*"):
                    if drawn.name not in ("cat", "fish"):
                        shutil.rmtree(drawn)
        names = {}
        exec(blocks("python")[0], names)
    assert {answer["label"] for answer in names["classifier"]("picture.jpg")} == {"cat", "dog", "horse"}
    assert (tmp_path / "report.html").stat().st_size > 100_000
    assert len((tmp_path / "answers.csv").read_text().splitlines()) == 5


def test_its_learner_trains_and_is_evaluated_on_new_classes(train: Command, promptkit: Command) -> None:
    module = ModuleType("promptkit_smoothed")
    exec(blocks("python")[1], module.__dict__)
    with registered(module):
        assert train("smoothed", "--classes", "base", "--out", "run", "--set", "loss.smoothing=0.2").status == 0
        assert promptkit("eval", "run", "--classes", "new").status == 0


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

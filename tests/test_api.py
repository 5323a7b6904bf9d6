"""`promptkit.train`, `evaluate`, `bench`, and results as data frames; what they say by example."""

import inspect
import io
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import promptkit
from promptkit.errors import ConfigError, UnknownNameError
from promptkit.runs.checkpoint import read_tensors

Command = Callable[..., "Finished"]

TINY = {"backbone": "tiny", "weights": "none", "workers": 0}


@pytest.fixture
def command(promptkit: Command) -> Command:
    """The fixture `promptkit`, whose name is that of the module here."""
    return promptkit


def quiet() -> Console:
    return Console(file=io.StringIO())


def test_what_python_trains_and_evaluates_is_what_the_commands_do(
    command: Command, images: Path, tmp_path: Path
) -> None:
    settings = {"data": str(images), "domains": "photo", "shots": 2, "epochs": 2, **TINY}
    run = promptkit.train(
        "coop", tmp_path / "python", console=quiet(), loss="cross-entropy", **settings, **{"prompts.n_ctx": 3}
    )
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    done = command(
        "train", "coop", *words, "--set", "loss=cross-entropy", "--set", "prompts.n_ctx=3", "--out", "command"
    )
    assert done.status == 0, done.err
    python, typed = read_tensors(run.path), read_tensors(tmp_path / "command")
    assert {name: tensor.tolist() for name, tensor in python.items()} == {
        name: tensor.tolist() for name, tensor in typed.items()
    }
    assert (run.metadata.epoch, run.metadata.finished) == (2, True)

    scores = run.evaluate(workers=0, console=quiet())
    assert command("eval", "command", "--workers", 0, "--json", "figures.json").status == 0
    figures = json.loads((tmp_path / "figures.json").read_text())["runs"]["command"]
    assert {domain: score["accuracy"] for domain, score in scores.items()} == {
        domain: found["accuracy"] for domain, found in figures.items()
    }
    assert run.classifier()(str(next((images / "photo").rglob("*.png"))))[0]["label"] in run.metadata.classnames


def test_answers_and_results_are_data_frames(images: Path, tmp_path: Path) -> None:
    found = promptkit.bench(
        "few-shot",
        ["zeroshot", "coop"],
        images,
        source="photo",
        seeds=[1],
        shots=[1],
        vary={"prompts.n_ctx": [1, 2]},
        out=tmp_path / "results",
        console=quiet(),
        epochs=1,
        **TINY,
    )
    assert list(found["learner"].unique()) == ["coop[prompts.n_ctx=1]", "coop[prompts.n_ctx=2]", "zeroshot"]
    assert found["accuracy"].between(0, 1).all()
    assert found.set_index("learner")["prompts.n_ctx"].dropna().to_dict() == {
        "coop[prompts.n_ctx=1]": 1, "coop[prompts.n_ctx=2]": 2
    }  # fmt: skip
    assert promptkit.results(tmp_path / "results").shape == found.shape
    run = next((tmp_path / "results").rglob("learner.safetensors")).parent
    answers = promptkit.samples(run)
    said = answers["likeliest"].str[0] == answers["label"]
    rows = found[found["run"] == str(run)]
    assert said.sum() == round((rows["accuracy"] * rows["n"]).sum())


def test_the_example_of_every_function_runs(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").symlink_to(images)
    public = [name for name in promptkit.__all__ if inspect.isfunction(getattr(promptkit, name))]
    order = "train", "load", "evaluate", "samples", "bench", "results", "statistics", "compare", "figure", "tune"
    assert set(public) == set(order)
    names = {"promptkit": promptkit, "np": np}
    for name in order:
        text = inspect.getdoc(getattr(promptkit, name)) or ""
        (code,) = re.findall(r"Example:\n    ```python\n(.*?)    ```", text, re.DOTALL)
        for section in ("Args:", "Raises:"):
            assert section in text, name
        exec(compile(textwrap.dedent(code), name, "exec"), names)
    assert (names["found"]["learner"].iloc[0], len(names["tuned"].trials)) == ("coop", 2)
    assert {"mean", "low", "high", "wilcoxon"} <= set(names["found"])
    assert (tmp_path / "domains.pdf").exists()


def test_errors_are_those_of_the_commands(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'shots'"):
        promptkit.train("coop", tmp_path, data=str(images), shot=2)
    with pytest.raises(UnknownNameError, match="did you mean 'n_ctx'"):
        promptkit.train("coop", tmp_path, data=str(images), **{"prompts.n_cxt": 2})
    with pytest.raises(ConfigError, match="seeds"):
        promptkit.bench("few-shot", ["coop"], images, seeds=[1, 1])
    with pytest.raises(AttributeError, match="trian"):
        promptkit.trian  # noqa: B018


def test_importing_promptkit_does_not_import_torch() -> None:
    code = "import promptkit, sys; print('torch' in sys.modules, 'promptkit.api' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]

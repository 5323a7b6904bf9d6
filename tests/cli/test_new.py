"""A package from `promptkit new` keeps the contract and trains as it is."""

import importlib.util
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from promptkit.testing import registered

Command = Callable[..., "Finished"]


def test_a_new_package_passes_its_checks_and_trains(
    promptkit: Command, train: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = promptkit("new", "my-learner", "--into", "mine")
    assert done.status == 0, done.err
    folder = Path("mine/promptkit-my-learner")
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["promptkit"] == {"my-learner": "promptkit_my_learner"}
    assert "clip-promptkit>=0.1,<0.2" in project["dependencies"]
    compile((folder / "tests/test_my_learner.py").read_text(), "test", "exec")

    spec = importlib.util.spec_from_file_location("promptkit_my_learner", folder / "promptkit_my_learner.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "promptkit_my_learner", module)
    spec.loader.exec_module(module)
    with registered(module, "promptkit-my-learner"):
        checked = promptkit("check", "my-learner")
        assert checked.status == 0, checked.out
        trained = train("my-learner", "--set", "prompts.n_ctx=8", "--set", "loss.smoothing=0.2", "--batch-size", 4)
        assert trained.status == 0, trained.err


def test_the_commands_that_come_next_are_right(promptkit: Command) -> None:
    shown = {".": "./promptkit-other", "mine": "mine/promptkit-other", "mine too": "'mine too/promptkit-other'"}
    for into, path in shown.items():
        said = promptkit("new", "promptkit-other", "--into", into).out
        assert said.endswith(f"next: promptkit install --editable {path}, then promptkit check other\n")


@pytest.mark.parametrize("name", ["My-Learner", "../x", "a_b", "-a", "a--b", "", "1st"])
def test_a_name_that_cannot_be_one(promptkit: Command, name: str) -> None:
    done = promptkit("new", "--", name)
    assert done.status == 2
    assert "my-learner" in done.err
    assert not list(Path().iterdir())


def test_nothing_is_overwritten(promptkit: Command) -> None:
    promptkit("new", "my-learner")
    module = Path("promptkit-my-learner/promptkit_my_learner.py")
    module.write_text("mine")
    done = promptkit("new", "my-learner")
    assert done.status == 2
    assert "exists already" in done.err
    assert module.read_text() == "mine"

"""A package from `promptkit new` keeps the contract and works as it is, of every kind."""

import importlib.util
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import torch

import promptkit as package
from promptkit.tensors import Batch
from promptkit.testing import build_recipe, registered, write_images

Command = Callable[..., "Finished"]


@contextmanager
def made(promptkit: Command, name: str, kind: str, patch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package, registered, and its own test run."""
    done = promptkit("new", name, "--kind", kind, "--into", "mine")
    assert done.status == 0, done.err
    folder, module = Path("mine", f"promptkit-{name}"), f"promptkit_{name.replace('-', '_')}"
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["promptkit"] == {name: module}
    major, minor = map(int, package.__version__.split(".")[:2])
    assert f"clip-promptkit>={major}.{minor},<{major}.{minor + 1}" in project["dependencies"]
    assert (project["license"], project["license-files"]) == ("MIT", ["LICENSE"])
    assert (folder / "LICENSE").read_text().startswith("MIT License\n\nCopyright (c) 2")
    plugin = imported(module, folder / f"{module}.py", patch)
    with registered(plugin, f"promptkit-{name}"):
        yield folder


def imported(name: str, path: Path, patch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_a_new_learner_passes_its_checks_and_trains(
    promptkit: Command, train: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with made(promptkit, "my-learner", "learner", monkeypatch) as folder:
        own = imported("own_test", folder / "tests/test_my_learner.py", monkeypatch)
        own.test_it_keeps_the_contract()
        trained = train("my-learner", "--set", "prompts.n_ctx=8", "--set", "loss.smoothing=0.2", "--batch-size", 4)
        assert trained.status == 0, trained.err


@pytest.mark.parametrize("kind", ["prompts", "loss", "test-time", "backbone"])
def test_a_new_part_passes_its_checks(kind: str, promptkit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with made(promptkit, "my-own", kind, monkeypatch) as folder:
        own = imported("own_test", folder / "tests/test_my_own.py", monkeypatch)
        (test,) = [value for name, value in vars(own).items() if name.startswith("test_")]
        test()


def test_a_new_learner_that_adapts_takes_prompts_that_look_at_the_picture(
    promptkit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each view is compared with the texts that its own picture made."""
    with made(promptkit, "my-own", "test-time", monkeypatch):
        sets = ["learner=my-own", "test_views=my-own", "test_views.crops=1", "learner.sure=1"]
        learner, cocoop = (build_recipe("cocoop", ["cat", "dog"], sets=some).eval() for some in (sets, ()))
    cocoop.load_state_dict(learner.state_dict())
    views = torch.randn(2, 3, 3, 32, 32)
    found = learner.predict(Batch(dict(zip(learner.test_views.names, views, strict=True)), torch.zeros(3).long()))
    alone = [cocoop.predict(Batch.of(view)) for view in views]
    assert torch.allclose(found, torch.stack(alone).mean(0), atol=1e-4)


def test_a_new_data_set_is_read_and_trained_on(
    promptkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with made(promptkit, "my-shapes", "dataset", monkeypatch) as folder:
        imported("own_test", folder / "tests/test_my_shapes.py", monkeypatch).test_it_is_read(tmp_path / "own")
        write_images(tmp_path / "my-shapes", domains=[])
        tiny = ("--backbone", "tiny", "--weights", "none", "--workers", 0, "--epochs", 1)
        done = promptkit("train", "coop", "--dataset", "my-shapes", "--data", tmp_path, *tiny)
        assert done.status == 0, done.err


def test_the_commands_that_come_next_are_right(promptkit: Command) -> None:
    shown = {".": "./promptkit-other", "mine": "mine/promptkit-other", "mine too": "'mine too/promptkit-other'"}
    for into, path in shown.items():
        said = promptkit("new", "promptkit-other", "--into", into).out
        assert said.endswith(f"next: promptkit install --editable {path}, then promptkit check other\n")
    said = promptkit("new", "another", "--kind", "dataset").out
    assert said.endswith("then promptkit data ROOT/another\n")


@pytest.mark.parametrize("name", ["My-Learner", "../x", "a_b", "-a", "a--b", "", "1st"])
def test_a_name_that_cannot_be_one(promptkit: Command, name: str) -> None:
    done = promptkit("new", "--", name)
    assert done.status == 2
    assert "my-learner" in done.err
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("coop",), "clip-promptkit-coop offers the recipe 'coop' already"),
        (("maple",), "clip-promptkit-zoo offers the recipe 'maple' already"),
        (("cross-entropy", "--kind", "loss"), "clip-promptkit offers the loss 'cross-entropy' already"),
        (("tiny", "--kind", "backbone"), "clip-promptkit offers the backbone 'tiny' already"),
    ],
)
def test_a_name_that_is_taken(words: tuple[str, ...], said: str, promptkit: Command) -> None:
    done = promptkit("new", *words)
    assert done.status == 2
    assert said in done.err
    assert f"such as my-{words[0]}" in done.err
    assert not list(Path().iterdir())


def test_nothing_is_overwritten(promptkit: Command) -> None:
    promptkit("new", "my-learner")
    module = Path("promptkit-my-learner/promptkit_my_learner.py")
    module.write_text("mine")
    done = promptkit("new", "my-learner")
    assert done.status == 2
    assert "exists already" in done.err
    assert module.read_text() == "mine"

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

from promptkit.cli import main
from promptkit.testing import write_pictures

# The same examples in every run, and no verdict that depends on how busy the machine is.
hypothesis.settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=50,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("tests")


@dataclass
class Finished:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str


Command = Callable[..., Finished]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of its own for each test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PROMPTKIT_CACHE", str(folder))
    return folder


@pytest.fixture
def promptkit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run a command in this process, in a folder of its own: promptkit("train", "coop", ...)."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Finished:
        monkeypatch.setattr(sys, "argv", ["promptkit", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return Finished(int(exit_.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains, four classes, eight pictures each."""
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def train(promptkit: Command, pictures: Path) -> Command:
    """Train a recipe for two epochs on the tiny backbone: train("coop", "--out", "run", ...)."""

    def run(recipe: str, *words: object) -> Finished:
        tiny = ("--backbone", "tiny", "--weights", "none", "--workers", "0")
        return promptkit("train", recipe, "--data", pictures, *tiny, "--epochs", 2, "--shots", 4, *words)

    return run

"""Whatever a plugin raises, and wherever: its package, file and line are named, and everything else works."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from promptkit import registry
from promptkit.cli.console import escape
from promptkit.experiments import estimate

Command = Callable[..., "Finished"]
TINY = ("--backbone", "tiny", "--weights", "none", "--epochs", 1, "--shots", 1)

PLUGIN = """
    from dataclasses import dataclass
    from promptkit import hookimpl
    from promptkit.builtins import StandardViews
    from promptkit.components import ContextPrompts
    from promptkit.learner import Recipe

    class Faulty(ContextPrompts):
        "Fails in text."

        @dataclass(frozen=True)
        class Options:
            n_ctx: int = 2
            ctx_init: str = ""

        def text(self, features):
            {text}
            return super().text(features)

    class FaultyViews(StandardViews):
        "Fails in views."

        def __call__(self, image, rng):
            {views}
            return super().__call__(image, rng)

    @hookimpl
    def register_prompts(register):
        {hook}
        register({name!r}, Faulty)

    @hookimpl
    def register_views(register):
        register("faulty-views", FaultyViews)

    @hookimpl
    def register_recipes(register):
        register("faulty", Recipe("Fails", prompts="faulty", views="faulty-views"))

    {module}
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a plugin that fails in one place: plugin(text="raise SystemExit")."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_installed", [])

    def put(name: str = "faulty", metadata: str = "Name: promptkit-faulty\n", **lines: str) -> None:
        monkeypatch.delitem(sys.modules, "promptkit_faulty", raising=False)
        parts = dict.fromkeys(("text", "views", "hook", "module"), "pass") | lines
        (tmp_path / "promptkit_faulty.py").write_text(textwrap.dedent(PLUGIN).format(name=name, **parts))
        info = tmp_path / "promptkit_faulty-1.0.dist-info"
        info.mkdir()
        if metadata:
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\n{metadata}Version: 1.0\n")
        (info / "entry_points.txt").write_text("[promptkit]\nfaulty = promptkit_faulty\n")

    return put


@pytest.mark.parametrize("raised", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "ZeroDivisionError('by 0')"])
@pytest.mark.parametrize("place", ["module", "hook"])
def test_a_plugin_that_ends_the_program_at_import_or_in_a_hook_is_left_out(
    place: str, raised: str, plugin: Callable[..., None], promptkit: Command
) -> None:
    plugin(**{place: f"raise {raised}"})
    done = promptkit("list", "recipe")
    assert done.status == 0
    assert f"plugin promptkit-faulty failed to load: {raised.partition('(')[0]}" in done.err
    assert "gopro" in done.out


@pytest.mark.parametrize("name", ["", "../../x", "two words", 3, None, "a\x1b[31m"])
def test_a_name_that_is_none_is_refused(name: object, plugin: Callable[..., None], promptkit: Command) -> None:
    plugin(name=name)
    done = promptkit("list")
    assert done.status == 0
    assert "can't be the name of a prompts: letters, digits, hyphens, dots and underscores" in done.err
    assert "\x1b" not in done.err


def test_a_distribution_without_metadata_is_named_and_the_others_work(
    plugin: Callable[..., None], promptkit: Command
) -> None:
    plugin(metadata="")
    done = promptkit("list", "recipe")
    assert (done.status, "gopro" in done.out) == (0, True)
    assert "promptkit_faulty-1.0.dist-info failed to load: its metadata can't be read" in done.err


def test_a_plugin_that_takes_long_to_import_is_named(
    plugin: Callable[..., None], promptkit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "PATIENCE", 0.1)
    plugin(module="import time; time.sleep(0.6)")
    assert "warning: plugin promptkit-faulty is still being imported" in promptkit("list", "recipe").err


@pytest.mark.parametrize("raised", ["SystemExit", "KeyboardInterrupt", "TypeError('no')"])
@pytest.mark.parametrize(
    ("place", "owner", "workers"), [("text", "prompts 'faulty'", 0), ("views", "views 'faulty-views'", 0)]
)
def test_a_fault_in_a_component_names_package_component_file_and_line(
    place: str, owner: str, workers: int, raised: str, plugin: Callable[..., None], promptkit: Command, images: Path
) -> None:
    plugin(**{place: f"raise {raised}"})
    done = promptkit("train", "faulty", "--data", images, *TINY, "--workers", workers)
    assert done.status == 2
    said = raised.replace("('no')", ": no")
    function = "Faulty.text" if place == "text" else "FaultyViews.__call__"
    assert f"error: promptkit-faulty: {owner} failed with {said} (" in done.err
    assert f"promptkit_faulty.py, line {17 if place == 'text' else 24}, in {function})" in done.err
    assert "promptkit check faulty" in done.err
    assert "please report it" not in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("raised", ["SystemExit", "TypeError('no')"])
def test_a_fault_in_a_data_worker_is_the_plugins_too(
    raised: str, plugin: Callable[..., None], promptkit: Command, images: Path
) -> None:
    plugin(views=f"if __import__('torch').utils.data.get_worker_info(): raise {raised}")
    done = promptkit("train", "faulty", "--data", images, *TINY, "--workers", 1)
    assert done.status == 2
    assert "error: promptkit-faulty: " in done.err
    assert (
        f"failed with {'RuntimeError: FaultyViews raised SystemExit' if raised == 'SystemExit' else 'TypeError: no'}"
        in done.err
    )
    assert "promptkit_faulty.py, line 24, in __call__)" in done.err


@pytest.mark.parametrize("raised", ["SystemExit", "KeyboardInterrupt", "TypeError('no')"])
def test_a_bench_goes_on_after_a_plugin_that_ends_the_program(
    raised: str, plugin: Callable[..., None], promptkit: Command, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "WORTH_MEASURING", 0)  # a pace is measured, too
    plugin(text=f"raise {raised}")
    done = promptkit(
        "bench", "few-shot", "--data", images, *TINY, "--learners", "faulty,zeroshot", "--seeds", 1, "--workers", 0
    )
    assert done.status == 1, done.err
    said = raised.replace("('no')", ": no")
    assert f"faulty/1-shots/seed-1: promptkit-faulty: prompts 'faulty' failed with {said} (" in done.out
    assert "zeroshot" in done.out.split("failed:")[1]


def test_a_foreign_promptkit_is_named(promptkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    info = tmp_path / "promptkit-0.0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: promptkit\nVersion: 0.0.1\n")
    done = promptkit("list", "recipe")
    assert "promptkit 0.0.1 is another project's package; this one is clip-promptkit" in done.err


def test_names_reach_the_terminal_without_control_characters() -> None:
    assert escape("a\x1b]0;gone\x07\nb[red]") == r"a\x1b]0;gone\x07\nb\[red]"


@pytest.mark.parametrize("variables", [{"COLUMNS": "0"}, {"RANK": "1"}, {"RANK": "x"}])
def test_a_stray_variable_silences_nothing(variables: dict[str, str]) -> None:
    command = [sys.executable, "-m", "promptkit", "list", "recipe"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables})
    assert (done.returncode, "gopro" in done.stdout) == (0, True), done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="sends a Ctrl-C")
def test_ctrl_c_while_the_program_starts_leaves_no_trace() -> None:
    code = "from promptkit.__main__ import main; print('ready', flush=True); main()"
    for delay in (0.0, 0.1, 0.2):
        words = [sys.executable, "-c", code, "list"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
            assert started.stdout
            assert started.stderr
            started.stdout.readline()
            time.sleep(delay)
            started.send_signal(signal.SIGINT)
            assert "Traceback" not in started.stderr.read()

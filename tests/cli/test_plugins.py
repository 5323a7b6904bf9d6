"""`promptkit list`, `promptkit show`, and the help."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

Command = Callable[..., "Finished"]

SLOTS = ("learner", "prompts", "projector", "views", "loss", "test_views", "data", "backbone", "train")


def test_list_names_everything_with_its_package(promptkit: Command) -> None:
    done = promptkit("list")
    assert done.status == 0
    rows = {tuple(line.split()[:2]): line for line in done.out.splitlines()}
    assert "clip-promptkit-gopro" in rows["recipe", "gopro"]
    assert "clip-promptkit-coop" in rows["prompts", "coop"]
    assert "clip-promptkit 0" in rows["loss", "cross-entropy"]
    only = promptkit("list", "loss")
    assert {line[:6].strip() for line in only.out.splitlines()} == {"kind", "loss", ""}
    assert "did you mean 'loss'" in promptkit("list", "los").err


def test_show_says_of_every_setting_its_type_default_help_and_whose_it_is(promptkit: Command) -> None:
    done = promptkit("show", "coop")
    assert done.status == 0
    recipe = done.out[: done.out.index("prompts coop")]
    assert "paper: Zhou et al., Learning to Prompt for Vision-Language Models, IJCV 2022" in recipe
    rows = {line.split()[0]: line.split(maxsplit=3)[1:] for line in recipe.splitlines() if len(line.split()) > 3}
    assert re.search(r"prompts\.n_ctx +int, at least 1 +16 +context tokens", recipe)
    assert rows["prompts.position"][:2] == ["end|middle|front", "end"]
    # The range beside the type, and the recipe's default, not the core's.
    assert re.search(r"train\.epochs +int, at least 0 +200 +passes over the training pictures", recipe)
    assert [name for name in re.findall(r"^ (\w+) ", recipe, re.MULTILINE) if name in SLOTS] == list(SLOTS)
    owners = re.findall(r"from ([a-z-]*promptkit[\w-]* [\d.]+)", recipe)
    core, coop = f"clip-promptkit {version('clip-promptkit')}", f"clip-promptkit-coop {version('clip-promptkit-coop')}"
    assert owners == [coop if slot == "prompts" else core for slot in SLOTS]
    assert "did you mean 'coop'" in promptkit("show", "cooop").err


def test_names_of_settings_are_whole_in_a_narrow_terminal(promptkit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert "prompts.class_specific" in promptkit("show", "coop").out


def test_without_its_plugin_gopro_is_offered_by_name(promptkit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from promptkit.registry import discover, using

    monkeypatch.setenv("PROMPTKIT_PLUGINS", "coop")
    with using(discover()):
        done = promptkit("train", "gopro", "--data", "x")
        assert done.status == 2
        assert "'gopro' comes with clip-promptkit-gopro: promptkit install gopro" in done.err
        assert promptkit("list").status == 0


def test_a_broken_plugin_is_reported_and_the_rest_works(train: Command) -> None:
    from promptkit.registry import discover, using

    def broken() -> None:
        raise ImportError("libfoo is missing")

    registry = discover()
    registry.load(broken, "promptkit-foo", "1")  # type: ignore[arg-type]
    with using(registry):
        done = train("coop", "--out", "run")
    assert done.status == 0
    assert "warning: plugin promptkit-foo failed to load: ImportError: libfoo is missing" in done.err


@pytest.mark.parametrize("words", [[], ["train"], ["eval"], ["install"]])
def test_help_imports_neither_torch_nor_a_plugin(words: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['promptkit', *sys.argv[1:], '--help']\n"
        "from promptkit.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'open_clip', 'numpy', 'promptkit_gopro', 'jaxtyping'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


PLUGIN = """
from promptkit import hookimpl
from promptkit.components import Loss

class Novel(Loss):
    pass

@hookimpl
def register_losses(register):
    register("{name}", Novel)
"""

LIST = """
import sys
from promptkit.cli import main
sys.argv = ["promptkit", "list"]
try:
    main()
finally:
    print(not {"torch", "pandas"}.isdisjoint(sys.modules))
"""


def test_list_reads_an_index_without_torch_until_a_plugin_changes(tmp_path: Path, cache: Path) -> None:
    source = tmp_path / "promptkit_novel.py"
    source.write_text(PLUGIN.format(name="first"))
    metadata = tmp_path / "promptkit_novel-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: promptkit-novel\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[promptkit]\nnovel = promptkit_novel\n")
    variables = {**os.environ, "PYTHONPATH": str(tmp_path), "PROMPTKIT_CACHE": str(cache), "PROMPTKIT_PLUGINS": "novel"}

    def listed() -> tuple[str, bool]:
        done = subprocess.run([sys.executable, "-c", LIST], capture_output=True, text=True, env=variables, check=True)
        table, torch = done.stdout.rstrip().rsplit("\n", 1)
        return table, torch == "True"

    table, torch = listed()
    assert torch
    assert "first" in table
    assert listed() == (table, False)
    source.write_text(PLUGIN.format(name="second"))
    table, torch = listed()
    assert torch
    assert "second" in table
    # Damage costs the index, never the answer.
    (cache / "index.json").write_text("{")
    assert listed() == (table, True)
    assert listed() == (table, False)
    # A broken plugin is looked at every time.
    source.write_text("raise ImportError('libfoo is missing')")
    for _ in range(2):
        _, torch = listed()
        assert torch

"""`promptkit install` and `promptkit uninstall`

What changes an environment runs in one of its own; what pip refuses is refused by the running one too.
"""

import shutil
import sys
import textwrap
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

import promptkit as package

Command = Callable[..., "Finished"]

REFUSED = ("--dry-run", "--no-index")
"""For the running environment, which is to stay as it is whatever becomes of a test."""

PLUGIN = """
    from promptkit import hookimpl
    from promptkit.builtins import CrossEntropy
    from promptkit.learner import Recipe

    @hookimpl
    def register_losses(register):
        register("focal", CrossEntropy)

    @hookimpl
    def register_recipes(register):
        register("focal-coop", Recipe("CoOp with a focal loss", prompts="coop", loss="focal"))
"""


def write_wheel(folder: Path, name: str, code: str = "", requires: str = "", plugin: bool = True) -> Path:
    """A wheel of version 1.0 with one module, and an entry point where it is a plugin."""
    module = name.replace("-", "_")
    info = f"{module}-1.0.dist-info"
    files = {
        f"{module}.py": textwrap.dedent(code),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if plugin:
        files[f"{info}/entry_points.txt"] = f"[promptkit]\n{name.removeprefix('promptkit-')} = {module}\n"
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    folder.mkdir(exist_ok=True)
    wheel = folder / f"{module}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


@pytest.fixture
def pip_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Puts a Python in the place of the running one whose pip says something and fails."""

    def say(text: str) -> None:
        (tmp_path / "said").write_text(text)
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\ncat {tmp_path / 'said'} >&2\nexit 1\n")
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))

    return say


@pytest.fixture(scope="module")
def environment(environment: "Environment") -> "Environment":
    """With promptkit and its plugins as they are in this checkout."""
    root = Path(package.__file__).parents[1]
    environment.add(root, root / "plugins/coop", root / "plugins/gopro")
    return environment


@pytest.fixture
def elsewhere(environment: "Environment", tmp_path: Path) -> Command:
    """Run a command in an environment that pip may change: elsewhere("install", ...)."""

    def run(*words: object, **variables: str) -> "Finished":
        return environment.python("-m", "promptkit", *words, cwd=tmp_path, **variables)

    return run


def test_a_plugin_comes_and_goes_and_what_it_offers_is_said(
    elsewhere: Command, environment: "Environment", tmp_path: Path
) -> None:
    write_wheel(tmp_path, "iniconfig", plugin=False)
    write_wheel(tmp_path, "promptkit-focal", PLUGIN, "iniconfig<2")
    done = elsewhere("install", "--no-index", "--find-links", ".", "promptkit-focal")
    assert done.status == 0
    assert done.err == f"warning: iniconfig 1.0 has taken the place of {version('iniconfig')}\n"
    assert done.out.splitlines() == [
        "promptkit-focal 1.0 is installed: recipe focal-coop; loss focal",
        "next: promptkit train focal-coop --data PATH",
    ]
    again = elsewhere("install", "--no-index", "promptkit-focal")
    assert again.out.startswith("promptkit-focal 1.0 was installed already: recipe focal-coop; loss focal")
    left_out = elsewhere("install", "--no-index", "promptkit-focal", PROMPTKIT_PLUGINS="coop")
    assert (left_out.status, "PROMPTKIT_PLUGINS leaves it out" in left_out.err) == (2, True)

    gone = elsewhere("uninstall", "focal")
    assert (gone.status, gone.err) == (0, "")
    assert gone.out == "uninstalled promptkit-focal, and with it: recipe focal-coop; loss focal\n"
    assert not list(environment.packages.glob("promptkit_focal*"))


def test_what_is_installed_and_no_use_is_said(elsewhere: Command, tmp_path: Path) -> None:
    broken = write_wheel(tmp_path, "promptkit-broken", "import nowhere_to_be_found")
    unknown = write_wheel(tmp_path, "stranger", plugin=False)
    done = elsewhere("install", "--no-index", broken, unknown)
    assert done.status == 2
    cause = "ModuleNotFoundError: No module named 'nowhere_to_be_found'"
    assert f"promptkit-broken 1.0 is installed, but can't be loaded: {cause}" in done.err
    assert "stranger 1.0 is installed, but it is no plugin: it has no entry point in the group promptkit" in done.err
    assert "pip uninstall promptkit-broken stranger" in done.err
    assert "Traceback" not in done.err
    same = elsewhere("install", "--no-index", broken)
    assert (same.status, "pip changed nothing" in same.err) == (2, True)


def test_another_projects_promptkit_never_takes_the_place_of_this_one(elsewhere: Command, tmp_path: Path) -> None:
    write_wheel(tmp_path / "index", "promptkit", plugin=False)
    write_wheel(tmp_path / "index", "promptkit-prompting", PLUGIN, "promptkit")
    for words in (["promptkit-prompting"], ["promptkit"]):
        done = elsewhere("install", "--no-index", "--find-links", "index", *words)
        assert done.status == 2
        assert "wants promptkit, another project's package" in done.err
    assert elsewhere("list").status == 0


def test_a_plugin_of_ours_comes_from_the_clone_and_no_index_is_asked(
    promptkit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("promptkit.cli.pip.run_pip", lambda *words: asked.extend(words))
    promptkit("install", "gopro")
    assert asked[-1] == str(Path(package.__file__).parents[1] / "plugins/gopro")
    promptkit("install", "maple")
    assert asked[-1] == str(Path(package.__file__).parents[1] / "plugins/zoo")
    promptkit("install", "lasp")
    assert asked[-1] == str(Path(package.__file__).parents[1] / "examples/lasp")
    monkeypatch.setattr("promptkit.offered.__file__", "/nowhere/promptkit/offered.py")
    asked.clear()
    done = promptkit("install", "coop")
    assert "clip-promptkit-coop is on no package index yet" in done.err
    assert not asked


@pytest.mark.parametrize("pinned", ["torch", "clip-promptkit"])
def test_torch_and_promptkit_stay_as_they_are_and_that_is_said(
    pinned: str, elsewhere: Command, environment: "Environment", tmp_path: Path
) -> None:
    write_wheel(tmp_path / "index", pinned, plugin=False)
    write_wheel(tmp_path / "index", "promptkit-greedy", PLUGIN, f"{pinned}==1.0")
    done = elsewhere("install", "--no-index", "--find-links", "index", "promptkit-greedy")
    assert done.status == 2
    expected = (
        f"error: promptkit-greedy 1.0 depends on {pinned}==1.0, but {pinned} {version(pinned)} is installed and stays"
    )
    assert done.err.startswith(expected)
    assert not list(environment.packages.glob("*greedy*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["gorpo"],
            "error: no package named 'gorpo'; did you mean 'gopro'?\nhint:  pip says: Could not find a version",
        ),
        (["./nowhere"], "error: pip install failed: File './nowhere' does not exist."),
        (
            ["gone.whl"],
            "error: pip install failed: Requirement 'gone.whl' looks like a filename, but the file does not",
        ),
        (["--upgade", "x"], "error: pip install failed: no such option: --upgade"),
    ],
)
def test_what_pip_refuses_is_one_message(words: list[str], message: str, promptkit: Command) -> None:
    done = promptkit("install", *REFUSED, *words)
    assert done.status == 2
    assert done.err.startswith(message)
    assert len(done.err.splitlines()) == 3


@pytest.mark.skipif(shutil.which("git") is None, reason="pip asks git, which is not installed")
def test_what_git_says_is_the_message_and_what_pip_says_is_shown_with_debug(promptkit: Command) -> None:
    done = promptkit("install", *REFUSED, "git+file:///nowhere/at/all", "--debug")
    assert done.status == 2
    assert "error: pip install failed: fatal: '/nowhere/at/all' does not appear to be a git repository" in done.err
    assert "error: subprocess-exited-with-error" in done.err
    assert "Traceback" in done.err


def test_a_folder_that_pip_would_take_for_a_name_is_refused(promptkit: Command) -> None:
    promptkit("new", "mine")
    done = promptkit("install", *REFUSED, "promptkit-mine")
    assert done.status == 2
    assert done.err.startswith("error: 'promptkit-mine' is a folder here")
    assert "promptkit install ./promptkit-mine" in done.err


def test_what_pip_puts_elsewhere_is_not_called_installed(promptkit: Command, tmp_path: Path) -> None:
    done = promptkit("install", *REFUSED, write_wheel(tmp_path, "promptkit-focal", PLUGIN))
    assert done.status == 2
    assert done.err.startswith("error: promptkit-focal: not installed here")


def test_a_folder_is_left_as_it_was(promptkit: Command, tmp_path: Path) -> None:
    source = Path(package.__file__).parents[1] / "examples/lasp"
    folder = shutil.copytree(source, tmp_path / "lasp", ignore=shutil.ignore_patterns("*.egg-info", "build"))
    before = sorted(folder.rglob("*"))
    here = "--no-index", "--no-deps", "--no-build-isolation"
    done = promptkit("install", *here, "--target", "elsewhere", "./lasp")
    assert "not installed here" in done.err
    assert list((tmp_path / "elsewhere").glob("*.dist-info"))  # it was built
    assert sorted(folder.rglob("*")) == before


def test_a_build_that_lacks_setuptools_says_how_to_do_without_the_network(promptkit: Command) -> None:
    promptkit("new", "mine")
    done = promptkit("install", *REFUSED, "--no-deps", "./promptkit-mine")
    assert done.status == 2
    assert "setuptools" in done.err
    assert "--no-build-isolation" in done.err


def test_an_index_that_cannot_be_reached(promptkit: Command) -> None:
    done = promptkit("install", "--dry-run", "--index-url", "http://127.0.0.1:9/", "--retries", 1, "promptkit-nowhere")
    assert done.status == 2
    assert done.err.startswith("error: pip can't reach a package index: ")
    assert "refused" in done.err


@pytest.mark.parametrize("words", [["-h"], ["--report", "FILE", "--dry-run", "--no-index", "pip"]])
def test_what_pip_does_not_report_is_an_error(words: list[str], promptkit: Command) -> None:
    done = promptkit("install", *words)
    assert done.status == 2
    assert done.err.startswith("error: pip has not reported what it installed")
    assert "--report" in done.err


RETRIED = (
    "WARNING: Retrying (Retry(total={}, connect=None, read=None)) after connection broken by "
    """'ReadTimeoutError("HTTPSConnectionPool(host='index', port=443): Read timed out.")': /simple/x/"""
)
BUILD = "error: subprocess-exited-with-error\n  error: no compiler\n  [end of output]"
NOTHING = "ERROR: Could not find a version that satisfies the requirement {} (from versions: none)"


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ([RETRIED.format(4), BUILD], "pip install failed: error: no compiler"),
        ([RETRIED.format(0), BUILD], "pip install failed: error: no compiler"),
        ([RETRIED.format(4), NOTHING.format("gorpo")], "no package named 'gorpo'; did you mean 'gopro'?"),
        ([RETRIED.format(0), NOTHING.format("gopro")], "pip can't reach a package index: Read timed out."),
    ],
)
def test_a_try_that_failed_before_another_did_not(
    says: list[str], message: str, promptkit: Command, pip_says: Callable[[str], None]
) -> None:
    pip_says("\n".join(says))
    done = promptkit("install", "clip-promptkit-gopro")
    assert done.status == 2
    assert done.err.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ("/usr/bin/python3: No module named pip", "has no pip"),
        ("error: externally-managed-environment\n\n× This environment is externally managed", "python3 -m venv .venv"),
        ("", "pip install failed: exit status 1\nhint:"),
    ],
)
def test_a_python_that_pip_cannot_change(
    says: str, message: str, promptkit: Command, pip_says: Callable[[str], None]
) -> None:
    pip_says(says)
    done = promptkit("install", "gopro")
    assert done.status == 2
    assert message in done.err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Promptkit", "promptkit does not uninstall itself"),
        ("rich", "rich is no plugin of promptkit\nhint:  pip uninstall rich"),
        ("promptkit-cop", "no installed plugin named 'promptkit-cop'; did you mean 'clip-promptkit-coop'?"),
    ],
)
def test_only_plugins_are_uninstalled(name: str, message: str, promptkit: Command) -> None:
    done = promptkit("uninstall", "coop", name)
    assert done.status == 2
    assert done.err.startswith(f"error: {message}")
    assert version("clip-promptkit-coop")

"""Plugins are found, checked one by one, and a broken one takes nobody down."""

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import promptkit as package
from promptkit import hookimpl
from promptkit.builtins import CrossEntropy
from promptkit.errors import PluginError, UnknownNameError
from promptkit.offered import plugin_folder
from promptkit.registry import Registry, discover, installed
from promptkit.testing import registered

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a package with an entry point of the group `promptkit` where Python looks for packages."""
    monkeypatch.syspath_prepend(tmp_path)

    def put(package: str, code: str, requires: str = "clip-promptkit") -> None:
        module = package.replace("-", "_")
        monkeypatch.delitem(sys.modules, module, raising=False)
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(code))
        info = tmp_path / f"{module}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\nRequires-Dist: {requires}\n"
        )
        (info / "entry_points.txt").write_text(f"[promptkit]\n{module} = {module}\n")

    return put


GOOD = """
    from promptkit import hookimpl
    from promptkit.builtins import CrossEntropy

    class Focal(CrossEntropy):
        "Focal loss."

    @hookimpl
    def register_losses(register):
        register("focal", Focal)
"""


def causes(registry: Registry) -> dict[str, str]:
    return {plugin.package: plugin.cause for plugin in registry.broken}


def test_an_installed_package_is_found_with_its_name_and_version(install: Install) -> None:
    install("promptkit-focal", GOOD)
    entry = discover().entry("loss", "focal")
    assert (entry.package, entry.version, entry.summary) == ("promptkit-focal", "1.2", "Focal loss.")


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("raise SystemError('boom')", "SystemError: boom"),
        (
            "from promptkit import hookimpl\n@hookimpl\ndef register_looses(register): ...",
            "register_looses",
        ),
        ("def register_losses(register): ...", "no function in it is marked with @promptkit.hookimpl"),
        (
            "from promptkit import hookimpl\n@hookimpl\ndef register_losses(register): register('x', int)",
            "loss 'x' is <class 'int'>, expected a subclass of Loss",
        ),
        (
            "from promptkit import hookimpl\n@hookimpl\ndef register_recipes(register): register('x', 'y')",
            "recipe 'x' is 'y', expected a promptkit.learner.Recipe",
        ),
        (
            "from promptkit import hookimpl\n@hookimpl\ndef register_losses(register): 1 / 0",
            "ZeroDivisionError",
        ),
    ],
)
def test_a_broken_plugin_is_named_with_its_cause_and_the_others_work(install: Install, code: str, cause: str) -> None:
    install("promptkit-broken", code)
    install("promptkit-focal", GOOD)
    registry = discover()
    assert cause in causes(registry)["promptkit-broken"]
    assert registry.entry("loss", "focal")
    assert registry.entry("recipe", "gopro")


def test_a_clash_names_both_packages_and_leaves_the_later_one_out_as_a_whole(install: Install) -> None:
    install("promptkit-focal", GOOD)
    install(
        "promptkit-focal2",
        GOOD + "\n    @hookimpl\n    def register_projectors(register):\n"
        "        from promptkit.components import Projector\n        register('extra', Projector)\n",
    )
    registry = discover()
    assert causes(registry) == {
        "promptkit-focal2": "loss 'focal' is offered by promptkit-focal2 and by promptkit-focal; promptkit-focal2 is left out"
    }
    assert "extra" not in registry.entries["projector"]


@pytest.mark.parametrize(
    ("requires", "works"),
    [
        (f"clip-promptkit~={package.__version__}", True),
        ("Clip-Promptkit>=9", False),
        ("clip-promptkit<0.1", False),
        ('clip-promptkit>=9; extra == "new"', True),
        ("promptkit-focal-core>=9", True),
    ],
)
def test_a_plugin_built_for_another_promptkit_is_left_out_and_says_so(
    install: Install, requires: str, works: bool
) -> None:
    install("promptkit-focal", GOOD, requires)
    registry = discover()
    assert ("focal" in registry.entries["loss"]) is works
    if not works:
        cause = causes(registry)["promptkit-focal"]
        specifier = requires.lower().removeprefix("clip-promptkit")
        assert cause.startswith(f"it was built for clip-promptkit {specifier}, and this is {package.__version__}")


def test_the_environment_restricts_which_plugins_load(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("promptkit-focal", GOOD)
    monkeypatch.setenv("PROMPTKIT_PLUGINS", "promptkit-focal, gopro")
    assert {entry.package for entry in discover()} == {"clip-promptkit", "promptkit-focal", "clip-promptkit-gopro"}
    monkeypatch.setenv("PROMPTKIT_PLUGINS", "")
    assert {entry.package for entry in discover()} == {"clip-promptkit"}


def test_an_unknown_name_is_answered_with_the_nearest_one_and_the_broken_plugins(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTKIT_PLUGINS", "coop,gopro,promptkit-foo")  # others may be installed beside them
    install("promptkit-foo", "import nowhere_to_be_found")
    with pytest.raises(UnknownNameError) as caught:
        discover().get("recipe", "gopr")
    assert caught.value.message == "no recipe named 'gopr'; did you mean 'gopro'?"
    assert caught.value.hint.startswith("installed: cocoop, coop, gopro, gopro-reference, zeroshot. One plugin failed")
    assert "promptkit-foo (ModuleNotFoundError" in caught.value.hint


def test_a_published_learner_that_is_not_installed_is_offered_by_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTKIT_PLUGINS", "coop")
    with pytest.raises(UnknownNameError) as caught:
        discover().get("recipe", "gopro")
    assert caught.value.hint == "'gopro' comes with clip-promptkit-gopro: promptkit install gopro"
    with pytest.raises(UnknownNameError) as caught:
        discover().get("recipe", "lasp")
    assert caught.value.hint == "'lasp' comes with an example package: promptkit install lasp"
    for stranger in ("", "..", "../examples/lasp", "serve", "numpy"):
        assert plugin_folder(stranger) is None


class Plugin:
    """A plugin may be any object with hooks."""

    @hookimpl
    def register_losses(self, register: Callable[..., None]) -> None:
        register("under-test", CrossEntropy)


def test_registered_puts_a_plugin_in_place_for_a_block() -> None:
    with registered(Plugin()):
        assert installed().get("loss", "under-test") is CrossEntropy
    with pytest.raises(UnknownNameError):
        installed().get("loss", "under-test")


def test_registered_raises_what_is_wrong_with_a_plugin() -> None:
    with pytest.raises(PluginError, match=r"marked with @promptkit\.hookimpl"), registered(object()):
        pass

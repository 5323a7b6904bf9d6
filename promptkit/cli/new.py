"""`promptkit new`"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from promptkit.cli import options
from promptkit.errors import ConfigError, OutputError


class Kind(StrEnum):
    """What a package offers, by the folder of its templates."""

    LEARNER = "learner"
    PROMPTS = "prompts"
    LOSS = "loss"
    TEST_TIME = "test-time"
    BACKBONE = "backbone"
    DATASET = "dataset"


class Made(NamedTuple):
    """What is said of a kind: what it is, which kinds of the registry it registers, what looks at it, what uses it."""

    description: str
    registers: tuple[str, ...]
    look: str
    use: str
    dependencies: tuple[str, ...] = ("torch",)


KINDS: Mapping[str, Made] = {
    "learner": Made(
        "A prompt learner", ("recipe", "prompts", "loss"), "promptkit check {}", "promptkit train {} --data PATH"
    ),
    "prompts": Made(
        "A prompt generator", ("prompts",), "promptkit check {}", "promptkit train coop --set prompts={} --data PATH"
    ),
    "loss": Made(
        "A loss",
        ("loss",),
        "promptkit check {}",
        "promptkit train coop --set loss={} --data PATH",
        ("torch", "annotated-types"),
    ),
    "test-time": Made(
        "A learner that adapts to test pictures",
        ("recipe", "learner", "views"),
        "promptkit check {}",
        "promptkit train {} --data PATH && promptkit eval runs/{}",
        ("torch", "annotated-types"),
    ),
    "backbone": Made(
        "A backbone",
        ("backbone",),
        "promptkit check {}",
        "promptkit train zeroshot --backbone {} --weights none --data PATH",
        ("torch", "open_clip_torch"),
    ),
    "dataset": Made(
        "A data set", ("dataset",), "promptkit data ROOT/{}", "promptkit train coop --dataset {} --data ROOT", ()
    ),
}


def new(
    name: Annotated[str, typer.Argument(help="Of what it offers, such as my-learner.")],
    kind: Annotated[Kind, typer.Option(help="What it offers.")] = Kind.LEARNER,
    into: Annotated[Path, typer.Option("--into", help="Where the package's folder is made.")] = Path(),
    debug: options.Debug = False,
) -> None:
    """Make a package that works at once, to write your own from: a learner, or one of its parts."""
    from shlex import quote

    from promptkit.cli.console import console

    folder = make_package(name, into, kind)
    # pip takes a bare name for a package of the index.
    path = folder if folder.parent.name or folder.is_absolute() else f"./{folder}"
    look = KINDS[kind].look.format(folder.name.removeprefix("promptkit-"))
    console().print(
        f"made {folder}; next: promptkit install --editable {quote(str(path))}, then {look}",
        soft_wrap=True,
        markup=False,
    )


def make_package(name: str, into: Path, kind: str = "learner") -> Path:
    """Write the package from the templates of its kind and return its folder.

    Raises ConfigError for a name that can't be one or is taken, OutputError for a folder that exists or can't be written.
    """
    import re
    from datetime import date
    from importlib.resources import files
    from string import Template

    import promptkit
    from promptkit.offered import DISTRIBUTION

    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ConfigError(f"{name!r} can't be a name", "small letters, digits and single hyphens: my-learner")
    package = name if name.startswith("promptkit-") else f"promptkit-{name}"
    name = package.removeprefix("promptkit-")
    made = KINDS[kind]
    _refuse_taken(name, package, made.registers)
    module = package.replace("-", "_")
    words = name.split("-")
    major, minor = promptkit.__version__.split(".")[:2]
    ours = f"{DISTRIBUTION}>={major}.{minor},<{major}.{int(minor) + 1}"
    values = {
        "name": name,
        "package": package,
        "module": module,
        "function": "_".join(words),
        "title": " ".join(words).capitalize(),
        "cls": "".join(word.capitalize() for word in words),
        "dependencies": ", ".join(f'"{each}"' for each in (ours, *made.dependencies)),
        "description": made.description,
        "look": made.look.replace("{}", name),
        "use": made.use.replace("{}", name),
        "year": str(date.today().year),
    }
    targets = {
        "package/pyproject.toml.in": "pyproject.toml",
        "package/README.md.in": "README.md",
        "package/LICENSE.in": "LICENSE",
        f"{kind}/module.py.in": f"{module}.py",
        f"{kind}/test.py.in": f"tests/test_{name.replace('-', '_')}.py",
    }
    folder = into / package
    try:
        folder.mkdir(parents=True)
        (folder / "tests").mkdir()
        for source, target in targets.items():
            template = Template(files("promptkit").joinpath("templates", source).read_text(encoding="utf-8"))
            (folder / target).write_text(template.substitute(values), encoding="utf-8")
    except FileExistsError:
        raise OutputError(f"{folder} exists already", "choose another name, or another folder with --into") from None
    except OSError as error:
        raise OutputError(f"{folder} can't be written: {error.strerror}") from None
    return folder


def _refuse_taken(name: str, package: str, registers: tuple[str, ...]) -> None:
    """Raises ConfigError where another package, installed or published with promptkit, offers such a thing by that name."""
    from promptkit.offered import PACKAGES
    from promptkit.registry import installed

    registry = installed()
    owners = {kind: registry.entries[kind][name].package for kind in registers if name in registry.entries[kind]}
    if "recipe" in registers and name in PACKAGES:
        owners.setdefault("recipe", PACKAGES[name])
    for kind, owner in owners.items():
        if owner != package:
            raise ConfigError(f"{owner} offers the {kind} {name!r} already", f"choose another name, such as my-{name}")

"""`promptkit new`"""

from pathlib import Path
from typing import Annotated

import typer

from promptkit.cli import options
from promptkit.errors import ConfigError, OutputError


def new(
    name: Annotated[str, typer.Argument(help="Of the learner, such as my-learner.")],
    into: Annotated[Path, typer.Option("--into", help="Where the package's folder is made.")] = Path(),
    debug: options.Debug = False,
) -> None:
    """Make a package with a learner that works at once, to write your own from."""
    from shlex import quote

    from promptkit.cli.console import console

    folder = make_package(name, into)
    learner = folder.name.removeprefix("promptkit-")
    # pip takes a bare name for a package of the index.
    path = folder if folder.parent.name or folder.is_absolute() else f"./{folder}"
    console().print(
        f"made {folder}; next: promptkit install --editable {quote(str(path))}, then promptkit check {learner}",
        soft_wrap=True,
        markup=False,
    )


def make_package(name: str, into: Path) -> Path:
    """Write the package from the templates and return its folder.

    Raises ConfigError for a name that can't be a learner's, OutputError for a folder that exists or can't be written.
    """
    import re
    from importlib.resources import files
    from string import Template

    import promptkit

    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ConfigError(f"{name!r} can't be a learner's name", "small letters, digits and single hyphens: my-learner")
    package = name if name.startswith("promptkit-") else f"promptkit-{name}"
    name = package.removeprefix("promptkit-")
    module = package.replace("-", "_")
    words = name.split("-")
    major, minor = promptkit.__version__.split(".")[:2]
    values = {
        "name": name,
        "package": package,
        "module": module,
        "title": " ".join(words).capitalize(),
        "cls": "".join(word.capitalize() for word in words),
        "range": f">={major}.{minor},<{major}.{int(minor) + 1}",
    }
    targets = {
        "pyproject.toml.in": "pyproject.toml",
        "README.md.in": "README.md",
        "learner.py.in": f"{module}.py",
        "test_learner.py.in": f"tests/test_{name.replace('-', '_')}.py",
    }
    folder = into / package
    try:
        folder.mkdir(parents=True)
        (folder / "tests").mkdir()
        for source, target in targets.items():
            template = Template(files("promptkit").joinpath("templates", "learner", source).read_text(encoding="utf-8"))
            (folder / target).write_text(template.substitute(values), encoding="utf-8")
    except FileExistsError:
        raise OutputError(f"{folder} exists already", "choose another name, or another folder with --into") from None
    except OSError as error:
        raise OutputError(f"{folder} can't be written: {error.strerror}") from None
    return folder

"""`promptkit install` and `promptkit uninstall`"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from importlib import invalidate_caches
from importlib.metadata import Distribution, PackageNotFoundError, distribution, entry_points
from pathlib import Path
from typing import Annotated

import typer
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from promptkit.cli import options
from promptkit.cli.console import console
from promptkit.cli.offers import look
from promptkit.errors import ConfigError, InstallError, PluginError, UnknownNameError
from promptkit.hooks import PROJECT
from promptkit.offered import DISTRIBUTION, PACKAGES, plugin_folder

log = logging.getLogger("promptkit")

PASSES_ON = {"ignore_unknown_options": True}
"""For typer: options that are not ours are pip's."""


def install(
    packages: Annotated[
        list[str],
        typer.Argument(
            metavar="PACKAGE",
            help="A package's name, folder, wheel or git address (git+https://...), or a learner published with promptkit "
            "(gopro). pip's options too: --editable FOLDER, --upgrade, --no-index.",
            show_default=False,
        ),
    ],
    debug: options.Debug = False,
) -> None:
    """Install plugins with pip into the Python that runs promptkit, and say what they offer.

    promptkit itself, torch, torchvision and open_clip stay at the versions that are installed.
    """
    from promptkit.cli.pip import pip_install

    _refuse_bare_folders(packages)
    words = [_ours(word) for word in packages]
    with _busy("pip install"):
        arrivals = pip_install(words)
    if elsewhere := [arrival.name for arrival in arrivals if not _is_installed(arrival.name)]:
        raise InstallError(
            f"{', '.join(elsewhere)}: not installed here, since pip was told to put it elsewhere or nowhere",
            "leave out --dry-run, --target, --prefix and --root",
        )
    for arrival in arrivals:
        if arrival.replaced not in ("", arrival.version) and not arrival.asked:
            log.warning("%s %s has taken the place of %s", arrival.name, arrival.version, arrival.replaced)
    new = {arrival.name for arrival in arrivals}
    asked = {arrival.name for arrival in arrivals if arrival.asked} | set(_installed_already(words))
    if not asked:
        raise InstallError(
            "pip changed nothing: what was asked for is installed already, in the same version",
            "promptkit install --force-reinstall ... replaces it",
        )
    _tell(asked, new)


def _refuse_bare_folders(words: Sequence[str]) -> None:
    """Raise ConfigError for a folder that pip would take for the name of a package, perhaps a stranger's."""
    for before, word in zip(("", *words), words, strict=False):
        is_bare = word == Path(word).name and not word.startswith(".") and before not in ("-e", "--editable")
        if is_bare and any(Path(word, file).is_file() for file in ("pyproject.toml", "setup.py")):
            raise ConfigError(
                f"{word!r} is a folder here, and pip would look for a package of that name elsewhere",
                f"promptkit install ./{word} takes the folder",
            )


def _ours(word: str) -> str:
    """The folder of a plugin of ours; other words stay. Raises InstallError: no index is asked for a name that isn't ours."""
    name = canonicalize_name(word) if word.isprintable() else word
    folder = plugin_folder(name)
    if name not in PACKAGES and name not in PACKAGES.values():
        return str(folder or word)
    if name in PACKAGES.values() and _is_installed(name):
        return word
    if folder is None:
        package = PACKAGES.get(name, name)
        raise InstallError(
            f"{package} is on no package index yet, and this promptkit does not run from a clone",
            f"clone promptkit, then: promptkit install CLONE/plugins/{package.removeprefix(f'{DISTRIBUTION}-')}",
        )
    return str(folder)


def _installed_already(words: Sequence[str]) -> Iterator[str]:
    """The packages that are installed among the words for pip, which may be paths, addresses and options as well."""
    for word in words:
        try:
            yield canonicalize_name(distribution(Requirement(word).name).name)
        except (InvalidRequirement, PackageNotFoundError):
            continue


def _tell(asked: Set[str], new: Set[str]) -> None:
    """Say what the plugins that were asked for, or have come with them, offer.

    Raises PluginError when a package that was asked for is no use.
    """
    found = look()
    problems: dict[str, str] = {}
    for name in sorted(asked | new):
        package = distribution(name)
        title = f"{package.name} {package.version} {'is installed' if name in new else 'was installed already'}"
        if offers := found.by_package.get(name):
            console().print(f"{title}: {_listed(offers)}", soft_wrap=True, markup=False)
            console().print(f"next: {_next(offers)}", soft_wrap=True, markup=False)
        elif name in found.broken:
            problems[name] = f"{title}, but can't be loaded: {found.broken[name]}"
        elif _is_plugin(package):
            cause = "PROMPTKIT_PLUGINS leaves it out" if "PROMPTKIT_PLUGINS" in os.environ else "it offers nothing"
            problems[name] = f"{title}, but {cause}"
        elif name in asked:
            problems[name] = f"{title}, but it is no plugin: it has no entry point in the group {PROJECT}"
    if problems:
        useless = [name for name in problems if name in new]
        hint = f"to take it away again: pip uninstall {' '.join(useless)}" if useless else ""
        raise PluginError("; ".join(problems.values()), hint)


def uninstall(
    packages: Annotated[
        list[str],
        typer.Argument(metavar="PLUGIN", help="Its package, or its entry point's name.", show_default=False),
    ],
    debug: options.Debug = False,
) -> None:
    """Uninstall plugins with pip, and say what goes with them. Runs that were trained with them stay."""
    from promptkit.cli.pip import run_pip

    names = [_plugin(word) for word in packages]
    with _busy("pip uninstall"):
        try:
            offers = look().by_package
        except InstallError:  # all the more reason to take away what broke promptkit
            offers = {}
        run_pip("uninstall", "--yes", *names)
    invalidate_caches()
    for name in names:
        if _is_installed(name):
            raise InstallError(
                f"{name} is still installed: pip may not take it from {distribution(name).locate_file('')}",
                "uninstall it in the environment that it was installed in",
            )
        gone = f"and with it: {_listed(offers[name])}" if name in offers else "which did not load"
        console().print(f"uninstalled {name}, {gone}", soft_wrap=True, markup=False)


def _plugin(word: str) -> str:
    """The package that is meant. Raises UnknownNameError or ConfigError when it is no plugin that is installed."""
    points = [(canonicalize_name(point.dist.name), point.name) for point in entry_points(group=PROJECT) if point.dist]
    name = canonicalize_name(word)
    meant = {package for package, point in points if name == package} or {
        package for package, point in points if word == point
    }
    if len(meant) > 1:
        raise ConfigError(f"{word!r} may be {' or '.join(sorted(meant))}", "give the package's name")
    if meant:
        return meant.pop()
    if name in (PROJECT, DISTRIBUTION):
        raise ConfigError("promptkit does not uninstall itself", f"pip uninstall {DISTRIBUTION}")
    if _is_installed(name):
        raise ConfigError(f"{name} is no plugin of promptkit", f"pip uninstall {name}")
    raise UnknownNameError("installed plugin", word, {package for package, _ in points})


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _is_plugin(package: Distribution) -> bool:
    return bool(package.entry_points.select(group=PROJECT))


def _listed(offers: Mapping[str, list[str]]) -> str:
    return "; ".join(f"{kind} {', '.join(names)}" for kind, names in offers.items())


def _next(offers: Mapping[str, list[str]]) -> str:
    if recipes := offers.get("recipe"):
        return f"promptkit train {recipes[0]} --data PATH"
    return f"promptkit show {next(iter(offers.values()))[0]}"


@contextmanager
def _busy(what: str) -> Iterator[None]:
    """A sign of life in a terminal, while pip says nothing."""
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield

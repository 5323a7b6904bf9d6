"""Finds the installed plugins and keeps what they offer, by kind and name.

A plugin that can't be imported, misspells a hook, offers something of the wrong kind or clashes with a name is left out
as a whole and listed in `Registry.broken`; everything else works.
"""

import logging
import os
import re
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint, distributions, version
from types import ModuleType
from typing import Any

import pluggy
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from promptkit import builtins, hooks, interrupts
from promptkit.components import Loss, Projector, PromptGenerator, Views
from promptkit.data.catalog import NamedDataset
from promptkit.errors import PluginError, UnknownNameError
from promptkit.hooks import KINDS
from promptkit.learner import Learner, Recipe
from promptkit.metrics import Metric
from promptkit.offered import DISTRIBUTION, PACKAGES, plugin_folder
from promptkit.settings import split_names

log = logging.getLogger("promptkit")

PATIENCE = 5.0
"""Seconds after which a plugin that is being imported is named."""

SLOT_KINDS = {
    "learner": "learner",
    "prompts": "prompts",
    "projector": "projector",
    "views": "views",
    "loss": "loss",
    "test_views": "views",
}
"""Every slot that a component stands in, and the kind of it."""

_BASES: dict[str, type] = {
    "learner": Learner,
    "prompts": PromptGenerator,
    "projector": Projector,
    "views": Views,
    "loss": Loss,
}


@dataclass(frozen=True)
class Entry:
    """One thing that a plugin offers."""

    kind: str
    name: str
    value: Any
    package: str
    version: str
    module: str = ""
    """The plugin that registered it."""

    @property
    def summary(self) -> str:
        if isinstance(self.value, Recipe):
            return self.value.summary
        if isinstance(self.value, Metric):
            return self.value.help
        if isinstance(self.value, NamedDataset):
            return f"{self.value.title}, at {self.value.place}"
        return (self.value.__doc__ or "").strip().partition("\n")[0]


@dataclass(frozen=True)
class BrokenPlugin:
    package: str
    cause: str
    trace: str


@dataclass
class Registry:
    """What is installed. `get` looks a name up; `broken` says which plugins were left out and why."""

    entries: dict[str, dict[str, Entry]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    broken: list[BrokenPlugin] = field(default_factory=list)

    def get(self, kind: str, name: str) -> Any:
        """What is registered under a name. Raises UnknownNameError with the nearest one."""
        return self.entry(kind, name).value

    def component(self, slot: str, name: str) -> Any:
        """The class that stands under a name in a slot. Raises UnknownNameError with the nearest one."""
        return self.get(SLOT_KINDS[slot], name)

    def entry(self, kind: str, name: str) -> Entry:
        known = self.entries[kind]
        if name not in known:
            raise self.unknown(kind, name, known)
        return known[name]

    def dataset(self, name: str) -> NamedDataset:
        """A data set by its name, or by its title in papers, however it is spelt: Flowers102, imagenet-a."""
        titles = {_plain(entry.value.title): entry.name for entry in self.entries["dataset"].values()}
        names = {_plain(known): known for known in self.entries["dataset"]}
        found: NamedDataset = self.get("dataset", (titles | names).get(_plain(name), name))
        return found

    @property
    def metrics(self) -> dict[str, Metric]:
        """All metrics by name, promptkit's own first."""
        return {name: entry.value for name, entry in self.entries["metric"].items()}

    def unknown(self, kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
        """The error for a name that is not installed: which package offers it, and which plugins failed to load."""
        known = sorted(known)
        package = PACKAGES.get(name) or ("an example package" if plugin_folder(name) else "")
        hint = f"installed: {', '.join(known)}"
        if package:
            hint = f"{name!r} comes with {package}: promptkit install {name}"
        if self.broken:
            count = "One plugin" if len(self.broken) == 1 else f"{len(self.broken)} plugins"
            causes = "; ".join(f"{plugin.package} ({plugin.cause})" for plugin in self.broken)
            hint += f". {count} failed to load: {causes}"
        return UnknownNameError(kind, name, known, hint)

    def __iter__(self) -> Iterator[Entry]:
        for kind in KINDS:
            yield from sorted(self.entries[kind].values(), key=lambda entry: entry.name)

    def load(self, find: Callable[[], ModuleType], package: str, package_version: str) -> None:
        """Import one plugin and take in all it offers, or nothing and a line in `broken`."""
        try:
            with _patience(package):
                offered = list(_offers(find(), package, package_version))
            taken = {kind: dict(known) for kind, known in self.entries.items()}
            for entry in offered:
                other = taken[entry.kind].setdefault(entry.name, entry)
                if other is not entry:
                    raise PluginError(
                        f"{entry.kind} {entry.name!r} is offered by {entry.package} and by {other.package}; "
                        f"{entry.package} is left out"
                    )
            self.entries = taken
        except PluginError as error:
            self.broken.append(BrokenPlugin(package, error.message, traceback.format_exc()))
        except BaseException as error:  # even SystemExit: whatever a plugin raises must not take the others down
            if isinstance(error, KeyboardInterrupt) and interrupts.pressed():
                raise
            self.broken.append(BrokenPlugin(package, f"{type(error).__name__}: {error}", traceback.format_exc()))


@contextmanager
def _patience(package: str) -> Iterator[None]:
    """Names a plugin that does not return from its import."""
    timer = threading.Timer(PATIENCE, log.warning, ("plugin %s is still being imported", package))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _offers(plugin: ModuleType, package: str, package_version: str) -> Iterator[Entry]:
    """Check a plugin's hooks, call them, check what they register. Raises PluginError."""
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    try:
        manager.register(plugin, package)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"{error} (hooks: {', '.join(KINDS.values())})") from error
    if not manager.get_hookcallers(plugin):
        raise PluginError("no function in it is marked with @promptkit.hookimpl")
    offered: list[Entry] = []
    for kind, hook in KINDS.items():

        def register(name: Any, value: Any = None, kind: str = kind) -> None:
            if kind == "metric":  # it carries its own name
                name, value = getattr(name, "name", name), name
            _check(kind, name, value)
            offered.append(Entry(kind, name, value, package, package_version, getattr(plugin, "__name__", "")))

        getattr(manager.hook, hook)(register=register)
    yield from offered


def _check(kind: str, name: str, value: Any) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise PluginError(f"{name!r} can't be the name of a {kind}: letters, digits, hyphens, dots and underscores")
    base = _BASES.get(kind)
    if base is not None and not (isinstance(value, type) and issubclass(value, base)):
        raise PluginError(f"{kind} {name!r} is {value!r}, expected a subclass of {base.__name__}")
    if kind == "recipe" and not isinstance(value, Recipe):
        raise PluginError(f"recipe {name!r} is {value!r}, expected a promptkit.learner.Recipe")
    if kind == "dataset" and not isinstance(value, NamedDataset):
        raise PluginError(f"dataset {name!r} is {value!r}, expected a promptkit.data.catalog.NamedDataset")
    if kind == "metric" and not isinstance(value, Metric):
        raise PluginError(f"metric {name!r} is {value!r}, expected what promptkit.metrics.metric makes")
    if kind == "backbone" and not callable(value):
        raise PluginError(f"backbone {name!r} is {value!r}, expected a function that takes weights")


def discover(without: str = "") -> Registry:
    """The core's own components, then every installed plugin but the package `without`, in the order of package names.

    The environment variable PROMPTKIT_PLUGINS, a comma-separated list of packages or entry points, restricts which are
    loaded; an empty one loads none.
    """
    registry = Registry()
    registry.load(lambda: builtins, DISTRIBUTION, version(DISTRIBUTION))
    for package, package_version, point in sorted(_entry_points(registry), key=lambda found: (found[0], found[2].name)):
        if _wanted(package, point) and package != without:
            registry.load(partial(_import, point), package, package_version)
    return registry


def _entry_points(registry: Registry) -> Iterator[tuple[str, str, EntryPoint]]:
    """Package, version and entry point of every plugin. A distribution that can't be read is listed as broken."""
    seen: set[str] = set()
    for found in distributions():
        try:
            points = found.entry_points.select(group=hooks.PROJECT)
            if not points:
                continue
            name, its_version = found.metadata["Name"], found.version
            if canonicalize_name(name) not in seen:  # the first on the path is the one that is imported
                seen.add(canonicalize_name(name))
                yield from ((name, its_version, point) for point in points)
        except Exception as error:
            path = str(getattr(found, "_path", "a distribution"))
            registry.broken.append(BrokenPlugin(path, f"its metadata can't be read: {error!r}", traceback.format_exc()))


def _import(point: EntryPoint) -> ModuleType:
    """A plugin's module. Raises PluginError when its package asks for another promptkit than this one."""
    here = version(DISTRIBUTION)
    for text in (point.dist.requires if point.dist else None) or ():
        needed = Requirement(text)
        applies = needed.marker is None or needed.marker.evaluate({"extra": ""})
        name = canonicalize_name(needed.name)
        if name == hooks.PROJECT and applies:
            raise PluginError(f"it requires {needed}, which is another project's package: ours is {DISTRIBUTION}")
        if name == DISTRIBUTION and applies and not needed.specifier.contains(here, True):
            raise PluginError(
                f"it was built for {DISTRIBUTION} {needed.specifier}, and this is {here}: "
                "install another version of one of the two"
            )
    plugin: ModuleType = point.load()
    return plugin


_installed: list[Registry] = []


def installed() -> Registry:
    """The registry in use: `discover`, once per process, unless `using` has put another in its place."""
    if not _installed:
        _installed.append(discover())
    return _installed[-1]


@contextmanager
def using(registry: Registry) -> Iterator[Registry]:
    """Within the block, `installed` returns this registry."""
    _installed.append(registry)
    try:
        yield registry
    finally:
        _installed.pop()


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _wanted(package: str, point: EntryPoint) -> bool:
    wanted = os.environ.get("PROMPTKIT_PLUGINS")
    return wanted is None or not {package, point.name}.isdisjoint(split_names(wanted))

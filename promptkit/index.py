"""What is installed, by name, without importing torch or a plugin: an index of the registry, kept until a package changes."""

import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from hashlib import sha256
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from promptkit import hooks
from promptkit.errors import OutputError
from promptkit.files import cache_folder, replace_file

if TYPE_CHECKING:
    from promptkit.registry import Registry


class Row(NamedTuple):
    """A line of `promptkit list`."""

    kind: str
    name: str
    summary: str
    origin: str


def read() -> list[Row] | None:
    """The rows of the registry that would be loaded now; None when they are not known without loading it."""
    if "promptkit.registry" in sys.modules:
        return None
    with contextlib.suppress(Exception):  # whatever is wrong with a package, loading it says so
        kept = json.loads(_path().read_bytes())
        if kept["packages"] == _packages():
            return [Row(*row) for row in kept["rows"]]
    return None


def rows(registry: "Registry") -> list[Row]:
    """The rows of a registry. They are kept for `read`, unless a plugin is broken: its cause is looked for every time."""
    found = [Row(entry.kind, entry.name, entry.summary, f"{entry.package} {entry.version}") for entry in registry]
    if not registry.broken:
        with contextlib.suppress(OSError, OutputError, ImportError, ValueError):
            _path().parent.mkdir(parents=True, exist_ok=True)
            kept = {"packages": _packages(), "rows": found}
            replace_file(_path(), json.dumps(kept).encode(), "it is only an index")
    return found


def _path() -> Path:
    return cache_folder() / "index.json"


def _packages() -> str:
    """A digest of every package that has a plugin, and of its files: an editable one changes without a new version."""
    digest = sha256(repr((sys.version, os.environ.get("PROMPTKIT_PLUGINS"))).encode())
    modules = {hooks.PROJECT}
    for package in distributions():
        points = package.entry_points.select(group=hooks.PROJECT)
        if points:
            modules |= {point.module.partition(".")[0] for point in points}
            digest.update(repr((package.name, package.version, package.requires, sorted(points))).encode())
    for path in sorted(path for module in modules for path in _files(module)):
        status = path.stat()
        digest.update(repr((str(path), status.st_mtime_ns, status.st_size)).encode())
    return digest.hexdigest()


def _files(module: str) -> Iterator[Path]:
    """The Python files of an installed module or package."""
    spec = importlib.util.find_spec(module)
    if spec is None:
        raise ImportError(module)
    if spec.submodule_search_locations is None:
        yield Path(str(spec.origin))
    else:
        for folder in spec.submodule_search_locations:
            yield from Path(folder).rglob("*.py")

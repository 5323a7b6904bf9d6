"""Whose code an error comes from: a fault of a plugin is answered with its package, file and line, and what checks it."""

import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from promptkit import interrupts
from promptkit.errors import PluginError, PromptkitError
from promptkit.offered import DISTRIBUTION
from promptkit.registry import Entry, Registry


@dataclass(frozen=True)
class Place:
    """A line that an error passed."""

    file: str
    line: int
    function: str
    """With its class, where that is known."""


def explained(error: BaseException, registry: Registry) -> PromptkitError | None:
    """The error as one of ours: as it is, or as the fault of the plugin whose code raised it; None for any other."""
    if isinstance(error, PromptkitError):
        return error
    if isinstance(error, KeyboardInterrupt) and interrupts.pressed():
        return None
    entries = [entry for entry in registry if entry.package != DISTRIBUTION]
    for place in reversed(list(_places(error))):
        if found := [entry for entry in entries if _defines(entry, place.file)]:
            owner = place.function.partition(".")[0]
            entry = next((entry for entry in found if getattr(entry.value, "__name__", "") == owner), found[0])
            return PluginError(
                f"{entry.package}: {entry.kind} {entry.name!r} failed with {_cause(error)} "
                f"({place.file}, line {place.line}, in {place.function})",
                f"promptkit check {entry.name} looks for what is wrong with it; --debug shows the trace",
            )
    return None


def _cause(error: BaseException) -> str:
    """The error in a line; of one in a data worker, whose trace is its text, the last line."""
    while isinstance(error.__cause__, (SystemExit, KeyboardInterrupt)):
        error = error.__cause__
    if "Original Traceback" in str(error):
        return str(error).strip().splitlines()[-1]
    return traceback.format_exception_only(error)[-1].strip()


def _places(error: BaseException) -> Iterator[Place]:
    """Where the error passed, outermost first; of one in a data worker, where it passed there."""
    for frame, line in traceback.walk_tb(error.__traceback__):
        yield Place(frame.f_code.co_filename, line, frame.f_code.co_qualname)
    for path, number, function in re.findall(r'File "(.+)", line (\d+), in (.+)', str(error)):
        yield Place(path, int(number), function)
    if error.__cause__ is not None:
        yield from _places(error.__cause__)


def _defines(entry: Entry, path: str) -> bool:
    """Does the plugin that registered the entry hold this file?"""
    top = sys.modules.get(entry.module.partition(".")[0])
    file = getattr(top, "__file__", None)
    if file is None:
        return False
    return path == file or (hasattr(top, "__path__") and Path(path).is_relative_to(Path(file).parent))

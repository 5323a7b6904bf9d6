"""Everything promptkit raises on purpose.

    PromptkitError                a message, and at most one hint: the next step
    ├── UnknownNameError          a recipe, component, slot, option or class that nobody offers
    ├── ConfigError               a setting of the wrong type, or settings that contradict each other
    ├── PluginError               a plugin that breaks its contract
    ├── BackboneError             weights that can't be had, a tower that prompts can't be spliced into
    ├── DataError                 a folder, manifest or picture that can't be used
    ├── CheckpointError           a run that is missing, damaged, or made for another backbone
    ├── ExportError               a learner that can't be written in the format that was asked for
    ├── EvaluationError           answers that can't be scored
    ├── WorkerError               a process that prepared pictures and died
    ├── OutputError               a place that can't be written
    ├── InstallError              what pip could not do
    ├── TrainingError             a run that can't go on, such as a loss that is not finite
    └── NotEnoughMemoryError      the machine's memory, that is

On the command line each is one message with its hint and code on stderr, and exit status 2; `--debug` shows the trace.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, ClassVar


class PromptkitError(Exception):
    """What went wrong, in words for the person who typed the command.

    `message` says what was typed and what was expected; `hint` is one next step; `code` is where more is said of the kind:
    `promptkit help CODE` prints that section of `troubleshooting.md`.
    """

    code: ClassVar[str] = ""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process hears of it whole, whatever its class is made from."""
        return _again, (type(self), self.message, self.hint)


def _again(kind: type[PromptkitError], message: str, hint: str) -> PromptkitError:
    error = kind.__new__(kind, message)
    error.message, error.hint = message, hint
    return error


def nearest_name(name: str, known: Iterable[str]) -> str:
    """The known name that is most like another, whatever their case; "" where none is."""
    lower = {other.lower(): other for other in sorted(known)}
    return next((lower[found] for found in get_close_matches(name.lower(), lower, n=1)), "")


class UnknownNameError(PromptkitError):
    """A name that nobody offers; the message carries the nearest one that exists."""

    code = "E01"

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = sorted(known)
        nearest = nearest_name(name, known)
        suggestion = f"; did you mean {nearest!r}?" if nearest else ""
        listing = f"known: {', '.join(known)}" if known else ""
        super().__init__(f"no {kind} named {name!r}{suggestion}", hint or listing)


class ConfigError(PromptkitError):
    code = "E02"


class PluginError(PromptkitError):
    code = "E03"


class BackboneError(PromptkitError):
    code = "E04"


class DataError(PromptkitError):
    code = "E05"


class CheckpointError(PromptkitError):
    code = "E06"


class ExportError(PromptkitError):
    code = "E07"


class EvaluationError(PromptkitError):
    code = "E08"


class WorkerError(PromptkitError):
    code = "E09"


class OutputError(PromptkitError):
    code = "E10"


class InstallError(PromptkitError):
    code = "E11"


class TrainingError(PromptkitError):
    code = "E12"


class NotEnoughMemoryError(PromptkitError):
    code = "E13"

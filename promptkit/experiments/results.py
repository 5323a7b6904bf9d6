"""What a bench found: `results.jsonl` in the folder of each run, one line for each data set, domain and half of the classes.

No two processes write into one file, so that any number of them can share a folder; reading merges what is there.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from promptkit.errors import DataError, UnknownNameError
from promptkit.files import checked_json, regular_file, replace_file
from promptkit.metrics import Scores
from promptkit.settings import Scalar

log = logging.getLogger("promptkit")

RESULTS = "results.jsonl"
MAX_RESULTS = 64 * 2**20
"""Bytes."""


@dataclass(frozen=True)
class Result:
    """How good one trained learner is on the test pictures of one domain ("all" where the data has none)."""

    protocol: str
    learner: str
    """As tables name it: a recipe, or a variant of one; see `promptkit.experiments.variants`."""
    recipe: str
    settings: dict[str, Scalar]
    """By `slot.field`, those of the learner and its training that are not the recipe's."""
    dataset: str
    """In the catalogue, or the folder's name."""
    title: str
    """As papers call it, for a data set of the catalogue; else as `dataset`."""
    domain: str
    classes: str
    """all, base or new: the classes that were asked about."""
    seed: Annotated[int, Ge(0)]
    shots: Annotated[int, Ge(0)]
    split: str
    """Whose split chose the test images: published, given or drawn (`Dataset.split_source`), or whole (`Target.split`)."""
    source: str
    """The data set that it was trained on, where the protocol transfers; else ""."""
    backbone: str
    weights: str
    template: str
    """Hand-made prompts, one a line, of a learner that learned nothing else; else ""."""
    packages: dict[str, str]
    """What it was made with; see `promptkit.runs.packages`."""
    fingerprint: str
    """Of the backbone."""
    trained_on: str
    """The fingerprint of the pictures that the run was trained on; see `Dataset.fingerprint`."""
    tested_on: str
    """That of the pictures of the test, those of its other domains among them."""
    run: str
    """The folder of the run when it was tested."""
    scores: Scores

    @property
    def key(self) -> tuple[object, ...]:
        """What it is a result of; for one key there is one result."""
        return *(getattr(self, name) for name in _IDENTITY), *sorted(self.settings.items())

    @property
    def data(self) -> tuple[str, str, str]:
        """What tells data sets apart: name, title and split."""
        return self.dataset, self.title, self.split


_IDENTITY = (
    "protocol", "learner", "recipe", "dataset", "title", "domain", "classes", "seed", "shots", "split", "source", "backbone",
    "weights", "template",
)  # fmt: skip
ROUNDING = 0.005
"""By how much a figure may differ when it was found on two machines."""


@dataclass(frozen=True)
class _Line:
    result: Result
    sha256: str


def _hash(result: Result) -> str:
    return hashlib.sha256(json.dumps(asdict(result), sort_keys=True).encode()).hexdigest()


def to_line(result: Result) -> str:
    """A result and its hash."""
    return json.dumps(asdict(_Line(result, _hash(result)))) + "\n"


def from_line(line: str) -> Result:
    """Raises ValueError for anything but what `to_line` writes. Any metric may be there, or missing."""
    found = checked_json(_Line, line)
    if found.sha256 != _hash(found.result):
        raise ValueError("it is not what was written: its hash is another")
    return found.result


def write_results(run: Path, results: Iterable[Result]) -> None:
    """Put a run's results in the place of those it had. Raises OutputError; the old file stays then."""
    replace_file(run / RESULTS, "".join(map(to_line, results)).encode(), "make room")


def results_of(run: Path) -> tuple[list[Result], list[str]]:
    """The results in a run's folder, and what is wrong with the lines, or the file, that are none."""
    path = run / RESULTS
    found, damaged = [], []
    try:
        regular_file(path, MAX_RESULTS)
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [f"{path} can't be read: {error.strerror or error}"]
    for number, line in enumerate(lines, 1):
        try:
            found.append(from_line(line.decode("utf-8")))
        except ValueError as error:
            damaged.append(f"{path}, line {number}: {error}")
    return found, damaged


def read_results(folders: Sequence[Path], protocol: str = "") -> list[Result]:
    """All results in and below folders, or those of one protocol. Damaged lines are left out, with one warning.

    Of results of the same thing that differ by no more than rounding does, the first is kept, with one warning. Raises
    DataError where they differ by more, and where there is no folder or no result.
    """
    found: dict[tuple[object, ...], tuple[Result, Path]] = {}
    damaged: list[str] = []
    rounded: list[str] = []
    for folder in folders:
        if not os.path.isdir(folder):
            raise DataError(f"no folder {folder}", "promptkit bench makes one, at --out")
        for run in _runs(folder):
            results, wrong = results_of(run)
            damaged += wrong
            for result in results:
                other, where = found.setdefault(result.key, (result, run))
                if other.scores == result.scores:
                    continue
                rounded.append(f"{run / RESULTS}, as in {where / RESULTS}")
                if not _agree(other.scores, result.scores):
                    raise DataError(
                        f"{where / RESULTS} and {run / RESULTS} have different results for {result.learner} on "
                        f"{result.title}, seed {result.seed}",
                        "leave one of the two out",
                    )
    if damaged:
        count = "1 damaged line" if len(damaged) == 1 else f"{len(damaged)} damaged lines"
        log.warning("%s of results left out: %s", count, damaged[0])
    if rounded:
        count = "1 result is" if len(rounded) == 1 else f"{len(rounded)} results are"
        log.warning("%s there twice, but for rounding; the first counts: %s", count, rounded[0])
    if not found:
        raise DataError(f"no results in {', '.join(map(str, folders))}", "promptkit bench makes them")
    kept = [result for result, _ in found.values()]
    there = sorted({result.protocol for result in kept})
    if protocol and protocol not in there:
        raise UnknownNameError("protocol", protocol, there, f"with results: {', '.join(there)}")
    return [result for result in kept if protocol in ("", result.protocol)]


def _agree(one: Scores, other: Scores) -> bool:
    """But for rounding, where both have a figure; an image more or less may be a large share of its class."""
    both = one.figures.keys() & other.figures.keys()
    return one.n == other.n and all(abs(one[name] - other[name]) <= ROUNDING for name in both)


def _runs(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.rglob(RESULTS))

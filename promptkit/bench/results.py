"""What a bench found: `results.jsonl` in the folder of each run, one line for each data set, domain and half of the classes.

No two processes write into one file, so that any number of them can share a folder; reading merges what is there.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from promptkit.errors import DataError
from promptkit.files import is_number, plain_json, regular_file, replace_file
from promptkit.metrics import STANDARD, Scores

log = logging.getLogger("promptkit")

RESULTS = "results.jsonl"
MAX_RESULTS = 64 * 2**20
"""Bytes."""


@dataclass(frozen=True)
class Result:
    """How good one trained learner is on the test pictures of one domain ("all" where the data has none)."""

    protocol: str
    learner: str
    dataset: str
    """In the catalogue, or the folder's name."""
    title: str
    """As papers call it, for a data set of the catalogue; else as `dataset`."""
    domain: str
    classes: str
    """all, base or new: the classes that were asked about."""
    seed: int
    shots: int
    split: str
    """Whose split chose the test images: published, given or drawn (`Dataset.split_source`), or whole (`Target.split`)."""
    source: str
    """The data set that it was trained on, where the protocol transfers; else ""."""
    backbone: str
    weights: str
    template: str
    """Hand-made prompts, one a line, of a learner that learned nothing else; else ""."""
    version: str
    """Of promptkit."""
    run: str
    """The folder of the run when it was tested."""
    scores: Scores

    @property
    def key(self) -> tuple[object, ...]:
        """What it is a result of; for one key there is one result."""
        return tuple(getattr(self, name) for name in _IDENTITY)

    @property
    def data(self) -> tuple[str, str, str]:
        """What tells data sets apart: name, title and split."""
        return self.dataset, self.title, self.split


_IDENTITY = (
    "protocol", "learner", "dataset", "title", "domain", "classes", "seed", "shots", "split", "source", "backbone",
    "weights", "template",
)  # fmt: skip
ROUNDING = 0.005
"""By how much a figure may differ when it was found on two machines."""


def to_line(result: Result) -> str:
    """The scores stand beside what they are of; their figures are a mapping by metric. The line ends with its hash."""
    content = asdict(result)
    content |= content.pop("scores")
    return json.dumps({**content, _HASH: _hash(content)}) + "\n"


def from_line(line: str) -> Result:
    """Raises ValueError for anything but what `to_line` writes. Any metric may be there, or missing."""
    content = plain_json(line)
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    unsound = [name for name, is_sound in _SOUND.items() if not is_sound(content.get(name))]
    if unsound:
        raise ValueError(f"it has no sound {', '.join(unsound)}")
    if content.pop(_HASH, None) != _hash(content):
        raise ValueError("it is not what was written: its hash is another")
    scores = Scores(content["figures"], tuple(content["per_class"]), content["n"])
    return Result(**{item.name: content[item.name] for item in fields(Result)[:-1]}, scores=scores)


_HASH = "sha256"


def _hash(content: dict[str, object]) -> str:
    """Of a line's content, less its hash."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_text(value: object) -> bool:
    return type(value) is str


def _is_count(value: object) -> bool:
    return isinstance(value, int) and type(value) is int and value >= 0


def _is_per_class(value: object) -> bool:
    return isinstance(value, list) and all(one is None or (is_number(one) and 0 <= one <= 1) for one in value)


def _is_figures(value: object) -> bool:
    if not isinstance(value, dict) or not all(map(is_number, value.values())):
        return False
    return all(0 <= value[name] <= 1 for name in STANDARD if name in value)


_SOUND: dict[str, Callable[[object], bool]] = {
    **{item.name: _is_text for item in fields(Result)[:-1]},
    "seed": _is_count,
    "shots": _is_count,
    "figures": _is_figures,
    "n": _is_count,
    "per_class": _is_per_class,
}


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


def read_results(folders: Sequence[Path]) -> list[Result]:
    """All results in and below folders. Damaged lines are left out, with one warning that counts them.

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
    return [result for result, _ in found.values()]


def _agree(one: Scores, other: Scores) -> bool:
    """But for rounding, where both have a figure; an image more or less may be a large share of its class."""
    both = one.figures.keys() & other.figures.keys()
    return one.n == other.n and all(abs(one[name] - other[name]) <= ROUNDING for name in both)


def _runs(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.rglob(RESULTS))

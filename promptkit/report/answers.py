"""A run's records as columns, and what is counted in them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from promptkit.errors import DataError
from promptkit.metrics import CALIBRATION_BINS
from promptkit.runs.records import About, Record, read_records

CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False)
class Answers:
    """What a run answered about n pictures; the rows of several runs may differ."""

    run: str
    about: About
    names: tuple[str, ...]
    """The classes that were asked about, then those that occur beside them."""
    paths: tuple[str, ...]
    domain: np.ndarray
    """(n) texts"""
    label: np.ndarray
    """(n) places in `names`, -1 where none is known"""
    likeliest: np.ndarray
    """(n k) places in `names`"""
    probability: np.ndarray
    """(n k)"""

    @property
    def best(self) -> np.ndarray:
        first: np.ndarray = self.likeliest[:, 0]
        return first

    @property
    def confidence(self) -> np.ndarray:
        first: np.ndarray = self.probability[:, 0]
        return first

    @property
    def right(self) -> np.ndarray:
        equal: np.ndarray = np.equal(self.best, self.label)
        return equal

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.domain.tolist()))

    def picture(self, row: int) -> Path:
        """Where it lies."""
        return Path(self.about.data, self.paths[row])


def read_answers(runs: dict[str, Path], data: Path | None = None, largest: bool = False) -> list[Answers]:
    """What runs, by name, answered about the same pictures: those that were asked about last, or the most of them.

    With `data`, those of that folder alone. Empty where some run has no record of them.
    """
    records = {name: read_records(run) for name, run in runs.items()}
    asked = [{_asked(one) for one in found} for found in records.values()]
    shared = {one for one in set.intersection(*asked) if data is None or one[-1] == str(data.absolute())}
    if not shared:
        return []
    first = next(iter(records.values()))

    def rank(key: tuple[str, ...]) -> float:
        own = [record for record in first if _asked(record) == key]
        return sum(record.table.num_rows for record in own) if largest else max(record.written for record in own)

    key = max(sorted(shared), key=rank)
    return [columns(name, [one for one in found if _asked(one) == key]) for name, found in records.items()]


def _asked(record: Record) -> tuple[str, ...]:
    return *record.about.asked, record.about.data


def columns(run: str, records: Sequence[Record]) -> Answers:
    """The records of one run, domain after domain. At least one of them."""
    about = records[0].about
    rows = [
        row for record in records for row in zip(*(record.table[name].to_pylist() for name in _COLUMNS), strict=True)
    ]
    if not rows:
        raise DataError(f"the records of {run} are empty", "promptkit eval --keep writes them again")
    paths, domains, labels, likeliest, probability = zip(*rows, strict=True)
    names = tuple(dict.fromkeys([*about.classnames, *(label for label in labels if label is not None)]))
    place = {name: i for i, name in enumerate(names)}
    return Answers(
        run,
        about,
        names,
        paths,
        np.array(domains, object),
        np.array([-1 if label is None else place[label] for label in labels]),
        np.array([[place[name] for name in row] for row in likeliest]),
        np.array(probability),
    )


_COLUMNS = ("path", "domain", "label", "likeliest", "probabilities")


@dataclass(frozen=True)
class Share:
    """How many of n are right, with Wilson's interval."""

    right: int
    n: int
    low: float
    high: float

    @property
    def share(self) -> float:
        return self.right / self.n

    @staticmethod
    def of(right: np.ndarray) -> "Share":
        """Of booleans, at least one."""
        from scipy.stats import binomtest

        count = int(right.sum())
        interval = binomtest(count, len(right)).proportion_ci(CONFIDENCE, method="wilson")
        return Share(count, len(right), float(interval.low), float(interval.high))


def by_domain(answers: Answers) -> dict[str, Share]:
    """Of each domain, and of all pictures where there are several."""
    found = {domain: Share.of(answers.right[answers.domain == domain]) for domain in answers.domains}
    return found if len(found) == 1 else {**found, "all pictures": Share.of(answers.right)}


def by_class(answers: Answers) -> dict[str, Share]:
    """Of each class that occurs."""
    return {
        name: Share.of(answers.right[answers.label == place])
        for place, name in enumerate(answers.names)
        if (answers.label == place).any()
    }


def confusion(answers: Answers) -> np.ndarray:
    """How many pictures of each class (row) were taken for each class (column)."""
    counts = np.zeros((len(answers.names), len(answers.names)), int)
    known = answers.label >= 0
    np.add.at(counts, (answers.label[known], answers.best[known]), 1)
    return counts


def confused_pairs(answers: Answers, most: int = 15) -> list[tuple[str, str, int, float]]:
    """Class, what it was taken for, how often, and which share of its pictures that is; the most frequent first."""
    counts = confusion(answers)
    totals = counts.sum(1)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:most]
    pairs = [(int(row), int(column)) for row, column in zip(*np.unravel_index(order, counts.shape), strict=True)]
    return [
        (answers.names[row], answers.names[column], int(counts[row, column]), counts[row, column] / totals[row])
        for row, column in pairs
        if counts[row, column]
    ]


def reliability(answers: Iterable[Answers]) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Mean confidence, accuracy and count of each bin that has pictures, and the expected calibration error."""
    several = list(answers)
    confidence = np.concatenate([one.confidence for one in several])
    right = np.concatenate([one.right for one in several])
    place = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    count = np.bincount(place, minlength=CALIBRATION_BINS)
    kept = count > 0
    mean = np.bincount(place, confidence, CALIBRATION_BINS)[kept] / count[kept]
    accuracy = np.bincount(place, right, CALIBRATION_BINS)[kept] / count[kept]
    error = float((count[kept] * np.abs(mean - accuracy)).sum() / count.sum())
    return mean, accuracy, count[kept], error


def worst(answers: Answers, most: int) -> np.ndarray:
    """The rows of the errors that were made with the most confidence."""
    return _first(np.where(~answers.right & (answers.label >= 0), answers.confidence, -1), most)


def best(answers: Answers, most: int) -> np.ndarray:
    """The rows of the right answers that were given with the most confidence."""
    return _first(np.where(answers.right, answers.confidence, -1), most)


def drawn(answers: Answers, most: int) -> np.ndarray:
    """Rows at random, always the same ones."""
    order: np.ndarray = np.random.default_rng(0).permutation(len(answers.paths))[:most]
    return order


def _first(value: np.ndarray, most: int) -> np.ndarray:
    order = np.argsort(-value, kind="stable")[:most]
    return order[value[order] >= 0]


def disagreements(several: Sequence[Answers], most: int) -> list[tuple[int, ...]]:
    """The pictures that runs take for different classes: the row of each run; those some run is right about first."""
    places = [{path: row for row, path in enumerate(answers.paths)} for answers in several]
    found = []
    for path in several[0].paths:
        if not all(path in place for place in places):
            continue
        rows = tuple(place[path] for place in places)
        said = {answers.names[answers.best[row]] for answers, row in zip(several, rows, strict=True)}
        if len(said) > 1:
            right = sum(bool(answers.right[row]) for answers, row in zip(several, rows, strict=True))
            sure = min(float(answers.confidence[row]) for answers, row in zip(several, rows, strict=True))
            found.append((not right, -sure, rows))
    return [rows for *_, rows in sorted(found)[:most]]

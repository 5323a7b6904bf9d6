"""Which classes a run is asked about: those it was trained on, those of the data, or some that are named.

| `--classes` | images | classes that a run is asked about |
| --- | --- | --- |
| auto | all | those it was trained on, where all classes of the data are among them; else those of the data |
| trained | of classes that every run was trained on | those it was trained on |
| data | all | those of the data |
| base, new | of that half of the data's classes | that half |
| a file | of the classes in it | those in it |
"""

import logging
from collections.abc import Mapping, Sequence

from promptkit.data.layouts import Dataset
from promptkit.data.selection import class_subset, keep_classes, read_classes
from promptkit.errors import DataError, UnknownNameError, nearest_name

log = logging.getLogger("promptkit")

WORDS = ("auto", "trained", "data", "base", "new")
LISTED = 10
"""How many classes a warning names."""


def choose_classes(
    which: str, dataset: Dataset, trained: Mapping[str, Sequence[str]]
) -> tuple[Dataset, dict[str, tuple[str, ...]]]:
    """The images that are asked about, and the classes that each run is asked about.

    Args:
        which: One of WORDS, or a text file with one class name a line.
        dataset: All classes of the data.
        trained: The classes of each run.

    Raises:
        UnknownNameError: For another word, and for a name in the file that neither the data nor a run has.
        DataError: When no image is left, or the file can't be read.
    """
    if which == "data":
        return dataset, dict.fromkeys(trained, dataset.classnames)
    if which in ("base", "new"):
        half = class_subset(dataset, which)
        return half, dict.fromkeys(trained, half.classnames)
    if which == "auto":
        inside = {run: set(dataset.classnames) <= set(names) for run, names in trained.items()}
        return dataset, {run: tuple(names) if inside[run] else dataset.classnames for run, names in trained.items()}
    if which == "trained":
        asked = {run: tuple(names) for run, names in trained.items()}
    else:
        names = read_classes(which, WORDS)
        known = {*dataset.classnames, *(name for names in trained.values() for name in names)}
        for name in names:
            if name not in known:
                raise UnknownNameError("class", name, known)
        asked = dict.fromkeys(trained, names)
    kept = keep_classes(dataset, set.intersection(*map(set, asked.values())))
    if not kept.items:
        raise DataError(
            f"{dataset.root} has no picture of the classes to ask about (--classes {which})",
            "--classes data asks about those of the data",
        )
    return kept, asked


def warn_untrained(dataset: Dataset, trained: Mapping[str, Sequence[str]]) -> None:
    """Name the classes of the data that a run was not trained on, each with the nearest one that it was trained on."""
    runs: dict[tuple[str, ...], list[str]] = {}
    for run, names in trained.items():
        runs.setdefault(tuple(names), []).append(run)
    for names, same in runs.items():
        lacking = [name for name in dataset.classnames if name not in set(names)]
        shown = [_with_nearest(name, names) for name in lacking[:LISTED]]
        more = [f"and {len(lacking) - LISTED} more"] if len(lacking) > LISTED else []
        if lacking:
            log.warning(
                "%s: %d of the %d classes of the data were not trained: %s; --classes says outright what to ask about",
                ", ".join(same),
                len(lacking),
                len(dataset.classnames),
                ", ".join([*shown, *more]),
            )


def _with_nearest(name: str, known: Sequence[str]) -> str:
    nearest = nearest_name(name, known)
    return f"{name!r} (nearest: {nearest!r})" if nearest else repr(name)

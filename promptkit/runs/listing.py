"""What runs there are below a folder, from what they left on disk; no learner is built and no plugin is loaded."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from promptkit.errors import CheckpointError, PromptkitError
from promptkit.files import checked_json, is_number
from promptkit.runs.checkpoint import LOG, SETTINGS, WEIGHTS
from promptkit.runs.folder import read_log
from promptkit.runs.status import Status, inspect_run


@dataclass(frozen=True)
class ListedRun:
    """One run. What a damaged one no longer tells is empty."""

    path: Path
    status: Status
    recipe: str = ""
    data: str = ""
    seed: int | None = None
    epoch: int = 0
    epochs: int = 0
    kept: dict[str, float] = field(default_factory=dict)
    """The figures of the epoch whose learner is saved: val_accuracy where the data has a val split, else the loss terms."""
    best: float | None = None
    """The highest val_accuracy of any epoch; None where the data has no val split."""
    best_epoch: int = 0
    cause: str = ""
    """Of the damage."""


def list_runs(folder: Path) -> list[ListedRun]:
    """Every run in or below a folder, sorted by path. Raises CheckpointError when there is no such folder."""
    if not os.path.isdir(folder):
        raise CheckpointError(f"no folder {folder}", "runs are in the folders that --out named; runs/ by default")
    return [_listed(path) for path in _run_folders(folder)]


def _run_folders(folder: Path) -> Iterator[Path]:
    for path, inner, files in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if {WEIGHTS, SETTINGS} & {*files, *inner}:
            inner.clear()
            yield Path(path)


def _listed(path: Path) -> ListedRun:
    saved = inspect_run(path)
    try:
        if saved.cause:
            raise saved.cause
        data, train = (saved.tables.get(slot) for slot in ("data", "train"))
        if not isinstance(data, dict) or not isinstance(train, dict):
            raise CheckpointError(f"{path / SETTINGS} has no tables [data] and [train]")
        source, seed, epochs = data.get("path"), train.get("seed"), train.get("epochs")
        if not isinstance(source, str) or not isinstance(seed, int) or not isinstance(epochs, int):
            raise CheckpointError(f"{path / SETTINGS} has no sound data.path, train.seed and train.epochs")
        best = best_epoch(path)
    except PromptkitError as error:
        return ListedRun(path, "damaged", cause=error.message)
    epoch, kept = (saved.metadata.epoch, saved.metadata.figures) if saved.metadata else (0, {})
    if VAL in kept:
        kept = {VAL: kept[VAL]}
    return ListedRun(path, saved.status, saved.tables["recipe"], source, seed, epoch, epochs, dict(kept), *best)


def best_epoch(run: Path) -> tuple[float | None, int]:
    """The highest val_accuracy in a run's log, and its epoch; None and 0 where there is none.

    Raises CheckpointError for a log that can't be read.
    """
    try:
        rows = [checked_json(dict[str, Any], line) for line in read_log(run) if line.strip()]
    except ValueError as error:
        raise CheckpointError(f"{run / LOG} is damaged: {error}") from None
    validated = [(row[VAL], -epoch) for epoch, row in enumerate(rows, 1) if is_number(row.get(VAL))]
    best, epoch = max(validated, default=(None, 0))
    return best, -epoch


VAL = "val_accuracy"

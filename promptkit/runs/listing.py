"""What runs there are below a folder, from what they left on disk; no learner is built and no plugin is loaded."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from promptkit.errors import CheckpointError, PromptkitError
from promptkit.files import checked_json
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
    best: dict[str, float] = field(default_factory=dict)
    """The highest val_accuracy where the data has a val split, else the lowest loss terms, over all epochs."""
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
        best = _best(path)
    except PromptkitError as error:
        return ListedRun(path, "damaged", cause=error.message)
    epoch = saved.metadata.epoch if saved.metadata else 0
    return ListedRun(path, saved.status, saved.tables["recipe"], source, seed, epoch, epochs, best)


def _best(run: Path) -> dict[str, float]:
    """The best figures of a run's log."""
    try:
        rows = [checked_json(dict[str, Any], line) for line in read_log(run) if line.strip()]
    except ValueError as error:
        raise CheckpointError(f"{run / LOG} is damaged: {error}") from None
    figures: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            if type(value) in (int, float) and name not in _NO_FIGURES:
                figures.setdefault(name, []).append(value)
    if "val_accuracy" in figures:
        return {"val_accuracy": max(figures["val_accuracy"])}
    return {name: min(values) for name, values in figures.items()}


_NO_FIGURES = {"epoch", "lr", "images", "unreadable", "seconds", "step", "grad_norm"}

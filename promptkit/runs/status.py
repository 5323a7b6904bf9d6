"""What became of a run, from what it left on disk; the one place that decides it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from promptkit.config import read_run_file
from promptkit.errors import CheckpointError, PromptkitError
from promptkit.runs.checkpoint import SETTINGS, STATE, WEIGHTS, Metadata, read_metadata
from promptkit.runs.lock import is_locked
from promptkit.runs.state import LISTED, differences
from promptkit.settings import flatten

Status = Literal["new", "running", "stopped", "finished", "damaged"]
"""new: nothing was saved that could be lost; stopped: not finished, and no process trains it."""


@dataclass(frozen=True)
class SavedRun:
    """A run's status, and what its files say where they can be read."""

    status: Status
    tables: Mapping[str, Any] = field(default_factory=dict)
    """Of run.toml."""
    metadata: Metadata | None = None
    cause: PromptkitError | None = None
    """Of the damage."""


def run_status(run: Path, held: bool = False) -> Status:
    """The status of a run's folder, which need not exist. `held`: the caller holds its lock, so nobody else trains."""
    return inspect_run(run, held).status


def inspect_run(run: Path, held: bool = False) -> SavedRun:
    """`run_status` with the content that it was read from. The state and the tensors are not read."""
    try:
        tables, metadata = read_saved(run)
    except PromptkitError as error:
        return SavedRun("damaged", cause=error)
    status: Status = "new"
    if not held and is_locked(run):
        status = "running"
    elif metadata and metadata.finished:
        status = "finished"
    elif metadata or os.path.lexists(run / STATE):
        status = "stopped"
    return SavedRun(status, tables, metadata)


def read_saved(run: Path) -> tuple[dict[str, Any], Metadata | None]:
    """The settings of a run and the header of what it learned, empty and None where it has saved none.

    Raises CheckpointError or ConfigError where either can't be trusted, or they are not of one run: the header names the
    settings that it was learned with.
    """
    if not any(os.path.lexists(run / name) for name in (SETTINGS, WEIGHTS, STATE)):
        return {}, None
    metadata = read_metadata(run) if os.path.lexists(run / WEIGHTS) else None
    tables = read_run_file(run / SETTINGS)
    if metadata and (different := differences(flatten(metadata.settings), flatten(tables))):
        raise CheckpointError(
            f"{run} is damaged: {WEIGHTS} was not learned with the settings in {SETTINGS}: "
            + "; ".join(different[:LISTED])[:1000],
            f"put {SETTINGS} back as it was; to train with other settings, use --config and another --out",
        )
    return tables, metadata

"""A run's folder: `learner.safetensors` (what was learned), `run.toml` (how), `log.jsonl` (one line an epoch).

While it trains, also `state.safetensors`, from which it can be resumed (`promptkit.runs.state`).
"""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import tomli_w

from promptkit import distributed
from promptkit.config import RunConfig
from promptkit.errors import CheckpointError, OutputError
from promptkit.files import check_writable, delete_unfinished, replace_file, text_of, writing
from promptkit.learner import Learner
from promptkit.runs import tensorfile
from promptkit.runs.checkpoint import LOG, SETTINGS, STATE, WEIGHTS, Metadata, read_metadata, read_tensors
from promptkit.runs.lock import FolderLock
from promptkit.runs.status import run_status

MAX_LOG = 256 * 2**20
"""Bytes."""
_HINT = "choose another --out, or make room"

log = logging.getLogger("promptkit")


class RunFolder:
    """Writes a run, from the first of its processes. Every file appears whole or not at all; the log grows by lines."""

    def __init__(self, path: Path, force: bool = False, resume: bool = False, lock: FolderLock | None = None) -> None:
        """Make the folder. `lock` is that of the folder where the caller holds it already.

        Raises OutputError when it holds a run, unless that is to be replaced or resumed, or can't be written.
        """
        self.path = path
        self.lock = lock or FolderLock(path)
        self.state = path / STATE
        self.writes = distributed.rank() == 0
        self.pending = b""
        """The settings of a run that has begun and has nothing here yet."""
        status = run_status(path, held=True)  # of another process that trains now, `held` tells
        if status != "new" and not (force or resume):
            go_on = "go on with --resume, " if status == "stopped" else ""
            kind = {"stopped": "a run that was stopped", "damaged": "a damaged run"}.get(status, "a run already")
            raise OutputError(f"{path} holds {kind}", f"{go_on}choose another --out, or replace it with --force")
        check_writable(path, _HINT)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """For as long as a run trains. Raises OutputError when another process is training into the folder."""
        if self.writes:
            self.lock.take()
            for name in (WEIGHTS, SETTINGS, LOG, STATE):
                delete_unfinished(self.path / name)
        try:
            yield
        finally:
            self.lock.release()

    def begin(self, config: RunConfig) -> None:
        """Begin a new run here. One that is here already stays until the new one has something to be kept."""
        self.pending = tomli_w.dumps(config.to_tables()).encode()
        if run_status(self.path, held=True) == "new":
            self._begin()

    def _begin(self) -> None:
        """What an old run left goes first: it never stands under other settings."""
        if self.pending:
            self._drop(WEIGHTS)
            self._drop(STATE)
            self._replace(SETTINGS, self.pending)
            self._replace(LOG, b"")
            self.pending = b""

    def resume(self, epoch: int) -> None:
        """Continue the log at an epoch: lines that the state knows nothing of are written again.

        Raises CheckpointError when the log can't be read. One that lacks lines only causes a warning.
        """
        if not self.writes:
            return
        lines = read_log(self.path)[: epoch - 1]
        if len(lines) < epoch - 1:
            log.warning("%s lacks lines of the epochs before %d", self.path / LOG, epoch)
        self._replace(LOG, "".join(lines).encode())

    def save(self, learner: Learner, metadata: Metadata) -> None:
        self._begin()
        self._replace(WEIGHTS, tensorfile.pack(learner.state_dict(), json.dumps(asdict(metadata))))

    def save_state(self, content: bytes) -> None:
        self._begin()
        self._replace(STATE, content)

    def finish(self) -> None:
        """The run is done, and has nothing to go on from."""
        if self.writes:
            metadata = read_metadata(self.path)
            if not metadata.finished:  # an earlier epoch is kept
                content = json.dumps(asdict(replace(metadata, finished=True)))
                self._replace(WEIGHTS, tensorfile.pack(read_tensors(self.path), content))
        self._drop(STATE)

    def log(self, line: Mapping[str, Any]) -> None:
        self._begin()
        if self.writes:
            with writing(self.path / LOG, _HINT), (self.path / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def _replace(self, name: str, content: bytes) -> None:
        if self.writes:
            replace_file(self.path / name, content, _HINT)

    def _drop(self, name: str) -> None:
        if self.writes:
            with writing(self.path / name, _HINT):
                (self.path / name).unlink(missing_ok=True)


def read_log(run: Path) -> list[str]:
    """The lines of a run's log, less one that is half written; none where there is no log.

    Raises CheckpointError for what is no log.
    """
    path = run / LOG
    try:
        lines = text_of(path, MAX_LOG).splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        cause = (error.strerror if isinstance(error, OSError) else None) or error
        raise CheckpointError(
            f"{path} can't be read: {cause}", "a run goes on without its log, if it is moved away"
        ) from None
    return [line for line in lines if line.endswith("\n")]

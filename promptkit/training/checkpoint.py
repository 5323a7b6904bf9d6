"""A run's folder: `learner.safetensors` (what was learned), `run.toml` (how), `log.jsonl` (one line an epoch).

While it trains, also `state.safetensors`, from which it can be resumed (`promptkit.training.state`).
"""

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
from torch import Tensor

from promptkit import distributed
from promptkit.backbones.base import Backbone
from promptkit.build import build_learner, load_backbone, pick_device
from promptkit.config import RunConfig, read_run_file, resolve
from promptkit.errors import CheckpointError, OutputError
from promptkit.files import is_number, plain_json, regular_file, replace_file, writing
from promptkit.learner import Learner
from promptkit.registry import installed
from promptkit.training import tensorfile
from promptkit.training.lock import FolderLock

WEIGHTS, SETTINGS, LOG, STATE = "learner.safetensors", "run.toml", "log.jsonl", "state.safetensors"
MAX_LOG = 256 * 2**20
"""Bytes."""
_HINT = "choose another --out, or make room"

log = logging.getLogger("promptkit")


@dataclass(frozen=True)
class Metadata:
    """What the header of `learner.safetensors` says about the tensors in it."""

    recipe: str
    backbone: str
    fingerprint: str
    """Of the backbone; see `Backbone.fingerprint`."""
    data: str
    """The fingerprint of the pictures; see `Dataset.fingerprint`."""
    classnames: list[str]
    epoch: int
    epochs: int
    version: str
    figures: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError naming every field that is not sound; a header may hold anything."""
        texts = ("recipe", "backbone", "fingerprint", "data", "version")
        wrong = [name for name in texts if type(getattr(self, name)) is not str]
        counts = {"epoch": self.epoch, "epochs": self.epochs}
        wrong += [name for name, value in counts.items() if type(value) is not int or value < 0]
        names = self.classnames
        if type(names) is not list or not names or not all(type(name) is str for name in names):
            wrong.append("classnames")
        elif len(set(names)) < len(names):
            wrong.append("classnames (one occurs twice)")
        if type(self.figures) is not dict or not all(map(is_number, self.figures.values())):
            wrong.append("figures")
        if wrong:
            raise ValueError(f"its header has no sound {', '.join(wrong)}")

    @property
    def finished(self) -> bool:
        return self.epoch >= self.epochs


class RunFolder:
    """Writes a run, from the first of its processes. Every file appears whole or not at all; the log grows by lines."""

    def __init__(self, path: Path, force: bool = False, resume: bool = False) -> None:
        """Make the folder. Raises OutputError when it holds a run already, or can't be written."""
        self.path = path
        self.lock = FolderLock(path)
        self.state = path / STATE
        self.writes = distributed.rank() == 0
        unfinished = os.path.exists(self.state)  # unlike Path.exists, never raises
        stopped = " that was stopped" if unfinished else " already"
        if (unfinished or os.path.exists(path / WEIGHTS)) and not (force or resume):
            go_on = "go on with --resume, " if unfinished else ""
            raise OutputError(
                f"{path} holds a run{stopped}", f"{go_on}choose another --out, or replace it with --force"
            )
        with writing(path, _HINT):
            path.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """For as long as a run trains. Raises OutputError when another process is training into the folder."""
        if self.writes:
            self.lock.take()
        try:
            yield
        finally:
            self.lock.release()

    def start(self, config: RunConfig) -> None:
        """Begin a new run here. What an old one left goes first: it never stands under other settings."""
        self._drop(WEIGHTS)
        self._drop(STATE)
        self._replace(SETTINGS, tomli_w.dumps(config.to_tables()).encode())
        self._replace(LOG, b"")

    def go_on(self, epoch: int) -> None:
        """Continue the log at an epoch: lines that the state knows nothing of are written again.

        Raises CheckpointError when the log can't be read. One that lost lines is none of the state's business.
        """
        if not self.writes:
            return
        lines = read_log(self.path)[: epoch - 1]
        if len(lines) < epoch - 1:
            log.warning("%s lacks lines of the epochs before %d", self.path / LOG, epoch)
        self._replace(LOG, "".join(lines).encode())

    def save(self, learner: Learner, metadata: Metadata) -> None:
        self._replace(WEIGHTS, tensorfile.pack(learner.state_dict(), json.dumps(asdict(metadata))))

    def save_state(self, content: bytes) -> None:
        self._replace(STATE, content)

    def finish(self) -> None:
        """The run is done, and has nothing to go on from."""
        self._drop(STATE)

    def log(self, line: Mapping[str, Any]) -> None:
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
        regular_file(path, MAX_LOG)
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        cause = (error.strerror if isinstance(error, OSError) else None) or error
        raise CheckpointError(
            f"{path} can't be read: {cause}", "a run goes on without its log, if it is moved away"
        ) from None
    return [line for line in lines if line.endswith("\n")]


def read_metadata(run: Path) -> Metadata:
    """The header of a run's tensors. Raises CheckpointError when there is none that can be trusted."""
    path = run / WEIGHTS
    if not os.path.lexists(path):
        there = sorted(item.name for item in run.parent.glob("*") if os.path.isfile(item / WEIGHTS))
        raise CheckpointError(
            f"{run} holds no run (there is no {WEIGHTS} in it)",
            f"runs beside it: {', '.join(there)}" if there else "make one with: promptkit train RECIPE --data PATH",
        )
    try:
        return Metadata(**plain_json(tensorfile.read_text(path)))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None


def read_tensors(run: Path) -> dict[str, Tensor]:
    """Raises CheckpointError for a file that is not what was saved, or holds values that are not finite."""
    return tensorfile.read_tensors(run / WEIGHTS)


def run_config(run: Path, flags: Mapping[str, Any] | None = None) -> RunConfig:
    """The settings of a run, with `flags` on top. Raises CheckpointError where there is no run."""
    recipe = read_metadata(run).recipe
    tables = read_run_file(run / SETTINGS)
    if tables["recipe"] != recipe:
        raise CheckpointError(
            f"{run} is damaged: {WEIGHTS} was learned by {recipe!r}, and {SETTINGS} says {tables['recipe']!r}"
        )
    return resolve(installed(), tables["recipe"], tables, flags=flags)


def restore(run: Path, config: RunConfig, backbone: Backbone, classnames: Sequence[str] | None = None) -> Learner:
    """Build a run's learner on a backbone and fill in what was learned.

    Raises CheckpointError when the backbone is not the one it was trained on, or the tensors are not the learner's.
    """
    tensors, metadata = read_tensors(run), read_metadata(run)
    if metadata.fingerprint != backbone.fingerprint:
        raise CheckpointError(
            f"{run} was trained on {metadata.backbone} (weights {metadata.fingerprint[:12]}), "
            f"not on {backbone.name} {backbone.weights} (weights {backbone.fingerprint[:12]})",
            "a learner works with the very weights it was trained on; point --backbone and --weights to them",
        )
    learner = build_learner(config, installed(), backbone, tuple(metadata.classnames))
    if misfits := tensorfile.misfits(tensors, learner.state_dict()):
        raise CheckpointError(f"{run / WEIGHTS} does not fit the settings in {SETTINGS}: {'; '.join(misfits)}")
    learner.load_state_dict(tensors)
    learner.eval()
    if classnames is not None:
        learner.set_classes(classnames)
    return learner


def load_run(run: str | Path, classnames: Sequence[str] | None = None, device: str = "auto") -> Learner:
    """See `promptkit.load`."""
    run = Path(run)
    config = run_config(run)
    backbone = load_backbone(config.backbone, installed()).to(pick_device(device))
    return restore(run, config, backbone, classnames)

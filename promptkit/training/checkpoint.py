"""A run's folder: `learner.safetensors` (what was learned), `run.toml` (how), `log.jsonl` (one line an epoch).

While it trains, also `state.safetensors`, from which it can be resumed (`promptkit.training.state`).
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor

from promptkit import distributed
from promptkit.backbones.base import Backbone
from promptkit.build import build_learner, load_backbone, pick_device
from promptkit.config import RunConfig, read_run_file, resolve
from promptkit.errors import CheckpointError, OutputError
from promptkit.learner import Learner
from promptkit.registry import installed
from promptkit.training import tensorfile
from promptkit.training.lock import FolderLock

WEIGHTS, SETTINGS, LOG, STATE = "learner.safetensors", "run.toml", "log.jsonl", "state.safetensors"


@dataclass(frozen=True)
class Metadata:
    """What the header of `learner.safetensors` says about the tensors in it."""

    recipe: str
    backbone: str
    fingerprint: str
    """Of the backbone; see `Backbone.fingerprint`."""
    classnames: list[str]
    epoch: int
    epochs: int
    version: str
    figures: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError naming every field that is not sound; a header may hold anything."""
        texts = {"recipe": self.recipe, "backbone": self.backbone, "fingerprint": self.fingerprint}
        wrong = [name for name, value in {**texts, "version": self.version}.items() if type(value) is not str]
        counts = {"epoch": self.epoch, "epochs": self.epochs}
        wrong += [name for name, value in counts.items() if type(value) is not int or value < 0]
        names = self.classnames
        if type(names) is not list or not names or not all(type(name) is str for name in names):
            wrong.append("classnames")
        elif len(set(names)) < len(names):
            wrong.append("classnames (one occurs twice)")
        if type(self.figures) is not dict or not all(map(_is_figure, self.figures.values())):
            wrong.append("figures")
        if wrong:
            raise ValueError(f"its header has no sound {', '.join(wrong)}")

    @property
    def finished(self) -> bool:
        return self.epoch >= self.epochs


def _is_figure(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


class RunFolder:
    """Writes a run, from the first of its processes. Every file appears whole or not at all; the log grows by lines."""

    def __init__(self, path: Path, force: bool = False, resume: bool = False) -> None:
        """Make the folder. Raises OutputError when it holds a run already, or can't be written."""
        self.path = path
        self.lock = FolderLock(path)
        self.state = path / STATE
        self.writes = distributed.rank() == 0
        stopped = " that was stopped" if self.state.exists() else " already"
        if (self.state.exists() or (path / WEIGHTS).exists()) and not (force or resume):
            go_on = "go on with --resume, " if self.state.exists() else ""
            raise OutputError(
                f"{path} holds a run{stopped}", f"{go_on}choose another --out, or replace it with --force"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(path, error) from None

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
        """Begin a new run here; the learner of an old one stays until there is something to put in its place."""
        if self.writes:
            self.state.unlink(missing_ok=True)
        self._replace(SETTINGS, tomli_w.dumps(config.to_tables()).encode())
        self._replace(LOG, b"")

    def go_on(self, epoch: int) -> None:
        """Continue the log at an epoch: lines that the state knows nothing of are written again."""
        lines = (self.path / LOG).read_text(encoding="utf-8").splitlines(keepends=True) if self.writes else []
        self._replace(LOG, "".join(lines[: epoch - 1]).encode())

    def save(self, learner: Learner, metadata: Metadata) -> None:
        self._replace(WEIGHTS, tensorfile.pack(learner.state_dict(), json.dumps(asdict(metadata))))

    def save_state(self, content: bytes) -> None:
        self._replace(STATE, content)

    def finish(self) -> None:
        if self.writes:
            self.state.unlink(missing_ok=True)

    def log(self, line: Mapping[str, Any]) -> None:
        if not self.writes:
            return
        try:
            with (self.path / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise _unwritable(self.path / LOG, error) from None

    def _replace(self, name: str, content: bytes) -> None:
        """Write beside the old file, sync, rename: a crash or a full disk leaves the old file as it was."""
        if not self.writes:
            return
        target = self.path / name
        fresh = target.with_name(f".{name}.{os.getpid()}")
        try:
            with fresh.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(target)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise _unwritable(target, error) from None


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path} can't be written: {error.strerror or error}", "choose another --out, or make room")


def read_metadata(run: Path) -> Metadata:
    """The header of a run's tensors. Raises CheckpointError when there is none that can be trusted."""
    path = run / WEIGHTS
    if not os.path.lexists(path):
        there = sorted(item.name for item in run.parent.glob("*") if (item / WEIGHTS).is_file())
        raise CheckpointError(
            f"{run} holds no run (there is no {WEIGHTS} in it)",
            f"runs beside it: {', '.join(there)}" if there else "make one with: promptkit train RECIPE --data PATH",
        )
    try:
        return Metadata(**tensorfile.plain_json(tensorfile.read_text(path)))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None


def read_tensors(run: Path) -> dict[str, Tensor]:
    """Raises CheckpointError for a file that is not what was saved, or holds values that are not finite."""
    path = run / WEIGHTS
    tensors = tensorfile.read_tensors(path)
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(f"{path} holds values that are not finite, in {', '.join(broken)}")
    return tensors


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
    expected = learner.state_dict()
    misfits = sorted(tensors.keys() ^ expected.keys()) or [
        f"{name} is {_kind(tensors[name])}, expected {_kind(expected[name])}"
        for name in expected
        if _kind(tensors[name]) != _kind(expected[name])
    ]
    if misfits:
        raise CheckpointError(f"{run / WEIGHTS} does not fit the settings in {SETTINGS}: {'; '.join(misfits)}")
    learner.load_state_dict(tensors)
    learner.eval()
    if classnames is not None:
        learner.set_classes(classnames)
    return learner


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def load_run(run: str | Path, classnames: Sequence[str] | None = None, device: str = "auto") -> Learner:
    """See `promptkit.load`."""
    run = Path(run)
    config = run_config(run)
    backbone = load_backbone(config.backbone, installed()).to(pick_device(device))
    return restore(run, config, backbone, classnames)

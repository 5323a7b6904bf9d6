"""A run's folder: `learner.safetensors` (what was learned), `run.toml` (how), `log.jsonl` (one line an epoch).

While it trains, also `state.safetensors`, from which it can be resumed (`promptkit.training.state`).
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from promptkit import distributed
from promptkit.backbones.base import Backbone
from promptkit.build import build_learner, load_backbone, pick_device
from promptkit.config import RunConfig, read_run_file, resolve
from promptkit.errors import CheckpointError, OutputError
from promptkit.learner import Learner
from promptkit.registry import installed

WEIGHTS, SETTINGS, LOG, STATE = "learner.safetensors", "run.toml", "log.jsonl", "state.safetensors"

_HEADER = "promptkit"


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

    @property
    def finished(self) -> bool:
        return self.epoch >= self.epochs


class RunFolder:
    """Writes a run, from the first of its processes. Every file appears whole or not at all; the log grows by lines."""

    def __init__(self, path: Path, force: bool = False, resume: bool = False) -> None:
        """Make the folder. Raises OutputError when it holds a run already, or can't be written."""
        self.path = path
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
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in learner.state_dict().items()}
        self._replace(WEIGHTS, save(tensors, {_HEADER: json.dumps(asdict(metadata))}))

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
            fresh.unlink(missing_ok=True)
            raise _unwritable(target, error) from None


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path} can't be written: {error.strerror or error}", "choose another --out, or make room")


def read_metadata(run: Path) -> Metadata:
    """The header of a run's tensors. Raises CheckpointError when there is none that can be trusted."""
    path = run / WEIGHTS
    if not path.is_file():
        there = sorted(item.name for item in run.parent.glob("*") if (item / WEIGHTS).is_file())
        raise CheckpointError(
            f"{run} holds no run (there is no {WEIGHTS} in it)",
            f"runs beside it: {', '.join(there)}" if there else "make one with: promptkit train RECIPE --data PATH",
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
        metadata = Metadata(**header)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is no promptkit checkpoint, or a damaged one: {error}") from None
    types = {"recipe": str, "backbone": str, "fingerprint": str, "classnames": list, "epoch": int, "epochs": int}
    wrong = [name for name, kind in types.items() if not isinstance(getattr(metadata, name), kind)]
    if wrong or not all(isinstance(name, str) for name in metadata.classnames):
        raise CheckpointError(f"{path} is damaged: its header has no sound {', '.join(wrong) or 'classnames'}")
    return metadata


def read_tensors(run: Path) -> dict[str, Tensor]:
    """Raises CheckpointError for a file that is damaged, or holds values that are not finite."""
    path = run / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(f"{path} holds values that are not finite, in {', '.join(broken)}")
    return tensors


def run_config(run: Path, flags: Mapping[str, Any] | None = None) -> RunConfig:
    """The settings of a run, with `flags` on top. Raises CheckpointError where there is no run."""
    read_metadata(run)
    tables = read_run_file(run / SETTINGS)
    return resolve(installed(), tables["recipe"], tables, flags=flags)


def restore(run: Path, config: RunConfig, backbone: Backbone, classnames: Sequence[str] | None = None) -> Learner:
    """Build a run's learner on a backbone and fill in what was learned.

    Raises CheckpointError when the backbone is not the one it was trained on, or the tensors are not the learner's.
    """
    metadata = read_metadata(run)
    if metadata.fingerprint != backbone.fingerprint:
        raise CheckpointError(
            f"{run} was trained on {metadata.backbone} (weights {metadata.fingerprint[:12]}), "
            f"not on {backbone.name} {backbone.weights} (weights {backbone.fingerprint[:12]})",
            "a learner works with the very weights it was trained on; point --backbone and --weights to them",
        )
    learner = build_learner(config, installed(), backbone, tuple(metadata.classnames))
    tensors, expected = read_tensors(run), learner.state_dict()
    misfits = sorted(tensors.keys() ^ expected.keys()) or [
        f"{name} {tuple(tensors[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected
        if tensors[name].shape != expected[name].shape
    ]
    if misfits:
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

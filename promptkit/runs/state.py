"""`state.safetensors`: all it takes to go on with a run that was stopped. A finished run has none."""

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

from annotated_types import Ge
from torch import Tensor

from promptkit import distributed
from promptkit.config import RunConfig, read_run_file
from promptkit.errors import CheckpointError, ConfigError
from promptkit.files import Number, checked_json
from promptkit.runs import tensorfile
from promptkit.runs.checkpoint import SETTINGS, STATE, WEIGHTS
from promptkit.settings import flatten

FREE = ("train.device", "train.workers", "train.log", "train.save_minutes", "data.path")
"""What may differ between a run and its resumption: it changes where, not what, is computed."""
Count = Annotated[int, Ge(0)]
LISTED = 10
"""How many differences a message names."""


@dataclass
class LoopState:
    """Where training stands: `batch` batches of `epoch` are done, and what they added up to."""

    epoch: Annotated[int, Ge(1)]
    batch: Count
    step: Count
    images: Count
    unreadable: Count
    steps_in_epoch: Count
    sums: dict[str, Number]
    norms: Number

    def __post_init__(self) -> None:
        if self.steps_in_epoch > min(self.batch, self.step, self.images):
            raise ValueError("steps_in_epoch")

    @staticmethod
    def before(epoch: int, step: int = 0) -> "LoopState":
        """At the beginning of an epoch, after `step` steps of those before it."""
        return LoopState(epoch, 0, step, 0, 0, 0, {}, 0.0)


@dataclass(frozen=True)
class Training:
    """What a trainer has in plain values, beside its tensors."""

    loop: LoopState
    optimizer: dict[str, Any]
    """By parameter and name."""
    groups: list[dict[str, Number]]
    """What the optimiser counts in its parameter groups."""
    frozen: list[str]
    """Parameters."""


@dataclass(frozen=True)
class State(Training):
    """What the header of `state.safetensors` says beside the tensors in it."""

    settings: dict[str, Any]
    """The tables of the run file."""
    processes: int
    data: str
    """The fingerprint of the pictures."""


class Resumable(Protocol):
    """What can be stopped between two steps; a Trainer."""

    def state(self) -> tuple[dict[str, Tensor], Training]: ...

    def load_state(self, tensors: Mapping[str, Tensor], plain: Training) -> None: ...


def pack(trainer: Resumable, config: RunConfig, data: str) -> bytes:
    """The state as the content of a file. `data` is the fingerprint of the data set. All processes call it."""
    tensors, plain = trainer.state()
    state = State(**vars(plain), settings=config.to_tables(), processes=distributed.processes(), data=data)
    return tensorfile.pack(tensors, json.dumps(asdict(state)))


def read(path: Path) -> tuple[dict[str, Tensor], State]:
    """Raises CheckpointError for a file that is none, or a damaged one."""
    try:
        state = checked_json(State, tensorfile.read_text(path))
        return tensorfile.read_tensors(path), state
    except (CheckpointError, ValueError) as error:
        raise _damaged(path, error) from None


def check_settings(run: Path, config: RunConfig) -> None:
    """Raises ConfigError with the differences when a folder holds a run, stopped or finished, with other settings.

    CheckpointError when its state is damaged.
    """
    if os.path.exists(run / STATE):
        before = read(run / STATE)[1].settings
    elif os.path.exists(run / WEIGHTS):
        before = read_run_file(run / SETTINGS)
    else:
        return
    _refuse(run, differences(flatten(before), flatten(config.to_tables())))


def resume(trainer: Resumable, path: Path, config: RunConfig, data: str) -> None:
    """Bring a fresh trainer to where the run was stopped.

    Raises ConfigError with the differences when settings, data or the number of processes are not those of the run,
    CheckpointError when the state is damaged.
    """
    tensors, state = read(path)
    before = {**flatten(state.settings), "processes": state.processes}
    different = differences(before, {**flatten(config.to_tables()), "processes": distributed.processes()})
    if state.data != data:
        different.append("the pictures of the data set, their labels or descriptions")
    _refuse(path.parent, different)
    try:
        trainer.load_state(tensors, state)
    except Exception as error:  # what is wrong in a state may come to light anywhere in an optimiser's step
        raise _damaged(path, error) from None


def _refuse(run: Path, different: list[str]) -> None:
    if different:
        raise ConfigError(
            f"{run} can't be resumed with other settings or data: {'; '.join(different[:LISTED])}"
            + (f"; and {len(different) - LISTED} more" if len(different) > LISTED else ""),
            f"resume it as it was with --config {run / SETTINGS}, or start again with --force",
        )


def _damaged(path: Path, cause: Exception) -> CheckpointError:
    said = str(cause) if isinstance(cause, CheckpointError | ValueError) else repr(cause)
    return CheckpointError(f"{path} can't be resumed from: {said[:1000]}", "start again with --force")


def differences(before: Mapping[str, Any], now: Mapping[str, Any], free: Collection[str] = FREE) -> list[str]:
    """Where the settings of a run, by `slot.field`, are others now; those in `free` may be."""
    return [
        f"{key}: {str(before.get(key, 'unset'))[:200]} in the run, {now.get(key, 'unset')} now"
        for key in sorted(before.keys() | now.keys())
        if key not in free and before.get(key) != now.get(key)
    ]

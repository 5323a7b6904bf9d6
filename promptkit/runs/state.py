"""`state.safetensors`: all it takes to go on with a run that was stopped. A finished run has none."""

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from promptkit import distributed
from promptkit.config import RunConfig, read_run_file
from promptkit.errors import CheckpointError, ConfigError
from promptkit.files import plain_json
from promptkit.runs import tensorfile
from promptkit.runs.checkpoint import SETTINGS, STATE, WEIGHTS
from promptkit.settings import flatten

FREE = ("train.device", "train.workers", "train.log", "train.save_minutes", "data.path")
"""What may differ between a run and its resumption: it changes where, not what, is computed."""
_PARTS = {
    "loop": dict,
    "optimizer": dict,
    "groups": list,
    "settings": dict,
    "processes": int,
    "data": str,
    "frozen": list,
}
LISTED = 10
"""How many differences a message names."""


class Resumable(Protocol):
    """What can be stopped between two steps; a Trainer."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]: ...

    def load_state(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None: ...


def pack(trainer: Resumable, config: RunConfig, data: str) -> bytes:
    """The state as the content of a file. `data` is the fingerprint of the data set. All processes call it."""
    tensors, plain = trainer.state()
    about = {"settings": config.to_tables(), "processes": distributed.processes(), "data": data}
    return tensorfile.pack(tensors, json.dumps({**plain, **about}))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Raises CheckpointError for a file that is none, or a damaged one."""
    try:
        plain = plain_json(tensorfile.read_text(path))
        wrong = [name for name, kind in _PARTS.items() if type(plain) is not dict or type(plain.get(name)) is not kind]
        if wrong:
            raise ValueError(f"its header has no sound {', '.join(wrong)}")
        return tensorfile.read_tensors(path), plain
    except (CheckpointError, ValueError) as error:
        raise _damaged(path, error) from None


def check_settings(run: Path, config: RunConfig) -> None:
    """Raises ConfigError with the differences when a folder holds a run, stopped or finished, with other settings.

    CheckpointError when its state is damaged.
    """
    if os.path.exists(run / STATE):
        before = read(run / STATE)[1]["settings"]
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
    tensors, plain = read(path)
    before = {**flatten(plain["settings"]), "processes": plain["processes"]}
    different = differences(before, {**flatten(config.to_tables()), "processes": distributed.processes()})
    if plain["data"] != data:
        different.append("the pictures of the data set, or their labels")
    _refuse(path.parent, different)
    try:
        trainer.load_state(tensors, plain)
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

"""`state.safetensors`: all it takes to go on with a run that was stopped. A finished run has none."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from promptkit.config import RunConfig
from promptkit.errors import CheckpointError, ConfigError
from promptkit.files import plain_json
from promptkit.training import tensorfile
from promptkit.training.trainer import Trainer

FREE = ("train.device", "train.workers", "train.log", "train.save_minutes", "data.path")
"""What may differ between a run and its resumption: it changes where, not what, is computed."""
_PARTS = {"position": dict, "optimizer": dict, "groups": list, "settings": dict, "data": str}
LISTED = 10
"""How many differences a message names."""


def pack(trainer: Trainer, config: RunConfig, data: str) -> bytes:
    """The state as the content of a file. `data` is the fingerprint of the data set. All processes call it."""
    tensors, plain = trainer.state()
    return tensorfile.pack(tensors, json.dumps({**plain, "settings": config.to_tables(), "data": data}))


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


def resume(trainer: Trainer, path: Path, config: RunConfig, data: str) -> None:
    """Bring a fresh trainer to where the run was stopped.

    Raises ConfigError with the differences when settings or data are not those of the run, CheckpointError when the state
    is damaged.
    """
    tensors, plain = read(path)
    different = differences(flat(plain["settings"]), flat(config.to_tables()))
    if plain["data"] != data:
        different.append("the pictures of the data set")
    if different:
        raise ConfigError(
            f"{path.parent} can't be resumed with other settings or data: {'; '.join(different[:LISTED])}"
            + (f"; and {len(different) - LISTED} more" if len(different) > LISTED else ""),
            f"resume it as it was with --config {path.parent / 'run.toml'}, or start again with --force",
        )
    try:
        trainer.load_state(tensors, plain)
    except Exception as error:  # what is wrong in a state may come to light anywhere in an optimiser's step
        raise _damaged(path, error) from None


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


def flat(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by `slot.field`."""
    values: dict[str, Any] = {}
    for slot, table in tables.items():
        values |= {f"{slot}.{key}": value for key, value in table.items()} if isinstance(table, dict) else {slot: table}
    return values

"""`state.safetensors`: all it takes to go on with a run that was stopped. A finished run has none."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from promptkit.config import RunConfig
from promptkit.errors import CheckpointError, ConfigError
from promptkit.training import tensorfile
from promptkit.training.trainer import Trainer

FREE = ("train.device", "train.workers", "train.log", "train.save_minutes", "data.path")
"""What may differ between a run and its resumption: it changes where, not what, is computed."""


def pack(trainer: Trainer, config: RunConfig, data: str) -> bytes:
    """The state as the content of a file. `data` is the fingerprint of the data set. All processes call it."""
    tensors, plain = trainer.state()
    return tensorfile.pack(tensors, json.dumps({**plain, "settings": config.to_tables(), "data": data}))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Raises CheckpointError for a file that is none, or a damaged one."""
    try:
        plain = json.loads(tensorfile.read_text(path))
        return tensorfile.read_tensors(path), plain
    except (CheckpointError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} can't be resumed from: {error}", "start again with --force") from None


def resume(trainer: Trainer, path: Path, config: RunConfig, data: str) -> None:
    """Bring a fresh trainer to where the run was stopped.

    Raises ConfigError with the differences when settings or data are not those of the run, CheckpointError when the state
    is damaged.
    """
    tensors, plain = read(path)
    try:
        before, pictures = flat(plain["settings"]), plain["data"]
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} can't be resumed from: {error!r}", "start again with --force") from None
    different = differences(before, flat(config.to_tables()))
    if pictures != data:
        different.append("the pictures of the data set")
    if different:
        raise ConfigError(
            f"{path.parent} can't be resumed with other settings or data: {'; '.join(different)}",
            f"resume it as it was with --config {path.parent / 'run.toml'}, or start again with --force",
        )
    try:
        trainer.load_state(tensors, plain)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} can't be resumed from: {error}", "start again with --force") from None


def differences(before: Mapping[str, Any], now: Mapping[str, Any], free: Collection[str] = FREE) -> list[str]:
    """Where the settings of a run, by `slot.field`, are others now; those in `free` may be."""
    return [
        f"{key}: {before.get(key, 'unset')} in the run, {now.get(key, 'unset')} now"
        for key in sorted(before.keys() | now.keys())
        if key not in free and before.get(key) != now.get(key)
    ]


def flat(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by `slot.field`."""
    values: dict[str, Any] = {}
    for slot, table in tables.items():
        values |= {f"{slot}.{key}": value for key, value in table.items()} if isinstance(table, dict) else {slot: table}
    return values

"""The file of a feature cache: a safetensors file that is written row by row, and read without being loaded."""

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from promptkit.errors import OutputError
from promptkit.files import plain_json, regular_file

SUFFIX = ".safetensors"
_HEADER = "promptkit"
_ROOM = 256
"""Spare bytes in the header, which is written again at the end, when the sizes are known."""
_CHUNK = 1 << 24
MAX_FILE = 1 << 50
"""Bytes; a cache is never in memory."""


class DamagedCacheError(Exception):
    """A file that is none of ours, or not as it was written."""


@dataclass(frozen=True)
class Field:
    """One tensor of the file: float32 rows of this shape for each version, view and picture."""

    shape: tuple[int, ...]

    @property
    def row(self) -> int:
        return 4 * int(np.prod(self.shape))


class CacheWriter:
    """Writes features (versions, views, pictures, ...) in the order in which the pictures come, then appears at once.

    Nothing is held in memory, and the file has its place only when all of it is on the disk.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], fields: Mapping[str, Field], lead: tuple[int, int, int]):
        """`lead` is versions, views, pictures. Raises OutputError when the folder can't be written or lacks room."""
        self.path = path
        self.about = about
        self.lead = lead
        self.shapes: dict[str, tuple[str, tuple[int, ...]]] = {
            name: ("F32", (*lead, *field.shape)) for name, field in fields.items()
        }
        self.shapes["readable"] = ("U8", lead[2:])
        self.readable = np.ones(lead[2], dtype=np.uint8)
        self.start = 8 + -(-(len(self._json(1 << 40, 1 << 32)) + _ROOM) // 8) * 8
        self.offsets, self.size = {}, self.start
        for name, (kind, shape) in self.shapes.items():
            self.offsets[name] = self.size
            self.size += (4 if kind == "F32" else 1) * int(np.prod(shape))
        self.fresh = path.with_name(f".{path.name}.{os.getpid()}")
        self.file: BinaryIO | None = None

    def open(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.path.parent).free
            if self.size > 0.95 * free:
                raise OutputError(
                    f"features of {self.lead[2]} pictures take {format_bytes(self.size)}, and {self.path.parent} has "
                    f"{format_bytes(free)} left",
                    "promptkit cache clear makes room; PROMPTKIT_CACHE names another folder",
                )
            self.file = self.fresh.open("wb+")
            self.file.truncate(self.size)
        except OSError as error:
            self.abandon()
            raise self._unwritable(error) from None

    def put(self, name: str, version: int, view: int, first: int, rows: np.ndarray) -> None:
        """The rows of pictures first, first + 1, ..."""
        assert self.file is not None
        row = rows[0].nbytes
        begin = self.offsets[name] + ((version * self.lead[1] + view) * self.lead[2] + first) * row
        try:
            self.file.seek(begin)
            self.file.write(np.ascontiguousarray(rows, dtype=np.float32).data)
        except OSError as error:
            raise self._unwritable(error) from None

    def finish(self, unreadable: Sequence[tuple[str, str]]) -> None:
        assert self.file is not None
        reasons = json.dumps(list(unreadable)).encode()
        try:
            self.file.seek(self.offsets["readable"])
            self.file.write(self.readable.tobytes() + reasons)
            header = self._json(len(reasons), _checksum(self.file, self.start))
            self.file.seek(0)
            self.file.write((self.start - 8).to_bytes(8, "little") + header.ljust(self.start - 8))
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            self.fresh.replace(self.path)
        except OSError as error:
            raise self._unwritable(error) from None

    def abandon(self) -> None:
        """Leave nothing behind; after `finish` there is nothing to leave."""
        if self.file is not None:
            with contextlib.suppress(OSError):  # closing writes what is left, where there may be no room
                self.file.close()
            with contextlib.suppress(OSError):
                self.fresh.unlink(missing_ok=True)

    def _json(self, reasons: int, checksum: int) -> bytes:
        header: dict[str, Any] = {"__metadata__": {_HEADER: json.dumps(self.about), "checksum": str(checksum)}}
        end = 0
        for name, (kind, shape) in {**self.shapes, "unreadable": ("U8", (reasons,))}.items():
            begin, end = end, end + (4 if kind == "F32" else 1) * int(np.prod(shape))
            header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}
        return json.dumps(header).encode()

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(
            f"features can't be kept in {self.path.parent}: {error.strerror or error}",
            "PROMPTKIT_CACHE names another folder",
        )


@dataclass(frozen=True, eq=False)
class CacheContent:
    """What a cache holds, mapped from the disk."""

    fields: Mapping[str, Tensor]
    """"pooled", "patches", "intermediates.0", ...: (versions, views, pictures, ...); none where no picture was readable."""
    readable: Tensor
    """(pictures) bool"""
    unreadable: Sequence[tuple[str, str]]
    """Path and reason."""


def read_cache(path: Path, lead: tuple[int, int, int]) -> CacheContent:
    """`lead` is versions, views, pictures. Raises DamagedBankError when a byte is not as written, or it holds others."""
    try:
        regular_file(path, MAX_FILE)
        with safe_open(path, framework="pt") as opened, path.open("rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            if (opened.metadata() or {}).get("checksum") != str(_checksum(file, start)):
                raise DamagedCacheError("its checksum is wrong")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        readable, reasons = tensors.pop("readable"), plain_json(bytes(tensors.pop("unreadable").tolist()))
    except DamagedCacheError:
        raise
    except Exception as error:  # torch has its own errors for types and shapes that it doesn't know
        raise DamagedCacheError(str(error)) from None
    intermediates = [name for name in tensors if name not in ("pooled", "patches")]
    if not (
        readable.dtype == torch.uint8
        and readable.shape == lead[2:]
        and all(tensor.dtype == torch.float32 and tensor.shape[:3] == lead for tensor in tensors.values())
        and set(intermediates) == {f"intermediates.{i}" for i in range(len(intermediates))}
        and ("pooled" in tensors or not tensors)
        and isinstance(reasons, list)
        and all(isinstance(pair, list) and list(map(type, pair)) == [str, str] for pair in reasons)
    ):
        raise DamagedCacheError("it holds something else than its name says")
    return CacheContent(tensors, readable.bool(), [(path, reason) for path, reason in reasons])


def read_about(path: Path) -> dict[str, Any]:
    """What a cache says about itself; empty for a damaged one."""
    try:
        regular_file(path, MAX_FILE)
        with safe_open(path, framework="np") as opened:
            about = plain_json((opened.metadata() or {})[_HEADER])
    except (SafetensorError, OSError, KeyError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _checksum(file: BinaryIO, start: int) -> int:
    file.seek(start)
    checksum = 0
    while chunk := file.read(_CHUNK):
        checksum = zlib.crc32(chunk, checksum)
    return checksum


def format_bytes(size: int) -> str:
    """Bytes for people."""
    number, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while number >= 1000 and len(units) > 1:
        number, units = number / 1000, units[1:]
    return f"{number:.0f} B" if units[0] == "B" else f"{number:.1f} {units[0]}"

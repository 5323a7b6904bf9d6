"""One file of the feature store: rows of float32 and the images they belong to, whole or not there at all.

A shard is a safetensors file that is written row by row and read without being loaded. Whoever writes or reads it holds
a mark beside it, a locked file of their own, whose lock the operating system releases when its holder dies; only what
has no living mark is deleted.
"""

import contextlib
import json
import mmap
import os
import time
import uuid
import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from promptkit.errors import OutputError
from promptkit.files import plain_json, regular_file

SUFFIX = ".safetensors"
MARK = ".lock"
DIGEST = 16
"""Bytes that identify an image."""
MAX_FILE = 1 << 50
OPEN_FILES = 2
"""Of a shard in use: what is mapped, and its mark."""
_HEADER = 1 << 14
"""Bytes before the data. The header is written at the end, when the sizes are known."""
_CHUNK = 1 << 24
_FRESH = 3600 * 10**9
"""Nanoseconds in which a use is not noted again: a changed time makes other processes check the file again."""

_checked: set[tuple[str, int, int, int]] = set()
"""Name, inode, size and time of shards whose bytes this process has compared with their checksum."""


class DamagedShardError(Exception):
    """A file that is none of ours, or not as it was written."""


def _header(about: str, checksum: int, rows: int, shape: Sequence[int], reasons: int) -> dict[str, Any]:
    """What a sound file begins with, to the last number."""
    header: dict[str, Any] = {"__metadata__": {"promptkit": about, "checksum": str(checksum)}}
    end = 0
    for name, kind, size, dimensions in (
        ("rows", "F32", 4, (rows, *shape)),
        ("images", "U8", 1, (rows, DIGEST)),
        ("unreadable", "U8", 1, (reasons,)),
    ):
        begin, end = end, end + size * int(np.prod(dimensions, dtype=object))
        header[name] = {"dtype": kind, "shape": list(dimensions), "data_offsets": [begin, end]}
    return header


class ShardWriter:
    """Writes rows as they come; the file has its place only when all of it is on the disk."""

    def __init__(self, folder: Path, prefix: str, about: Mapping[str, Any]) -> None:
        """Raises OutputError when the folder can't be written."""
        self.folder = folder
        self.about = json.dumps(about)
        self.path = folder / f"{prefix}-{uuid.uuid4().hex}{SUFFIX}"
        self.fresh = folder / f".{self.path.name}"
        self.images: list[bytes] = []
        self.unreadable: dict[bytes, str] = {}
        self.shape: tuple[int, ...] = (0,)
        self.bytes = 0
        self.begun = time.monotonic()
        self.checksum = zlib.crc32(self.about.encode())
        with self._kept():
            folder.mkdir(parents=True, exist_ok=True)
            self.mark = _marked(self.path)
            self.file = self.fresh.open("wb")
        with self._kept():
            self.file.write(b" " * _HEADER)

    def put(self, images: Sequence[bytes], rows: np.ndarray) -> None:
        """A row for each image. Raises OutputError when there is no room."""
        content = np.ascontiguousarray(rows, dtype=np.float32)
        with self._kept():
            self._write(content.data)
        self.images += images
        self.shape = content.shape[1:]
        self.bytes += content.nbytes

    def finish(self) -> "Shard":
        """Raises OutputError when there is no room."""
        reasons = json.dumps([[image.hex(), reason] for image, reason in self.unreadable.items()]).encode()
        with self._kept():
            self._write(b"".join(self.images))
            self._write(reasons)
            header = json.dumps(_header(self.about, self.checksum, len(self.images), self.shape, len(reasons))).encode()
            assert len(header) <= _HEADER - 8
            self.file.seek(0)
            self.file.write((_HEADER - 8).to_bytes(8, "little") + header.ljust(_HEADER - 8))
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            self.fresh.replace(self.path)
            shard = Shard(self.path)
        _checked.add(shard.known)
        _unmark(self.mark)
        return shard

    def abandon(self) -> None:
        """Leave nothing behind; after `finish` there is nothing to leave."""
        with contextlib.suppress(OSError):
            self.fresh.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # closing writes what is left, where there may be no room
            self.file.close()
        _unmark(self.mark)

    def _write(self, content: bytes | memoryview) -> None:
        self.file.write(content)
        self.checksum = zlib.crc32(content, self.checksum)

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if hasattr(self, "file"):
                self.abandon()
            raise OutputError(
                f"features can't be kept in {self.folder}: {error.strerror or error}",
                "PROMPTKIT_CACHE names another folder",
            ) from None


@dataclass(frozen=True)
class Contents:
    """What a shard says of itself."""

    about: Mapping[str, Any]
    images: Sequence[bytes]
    unreadable: Mapping[bytes, str]


class Shard:
    """A whole shard, mapped, and marked against deletion for as long as it is mapped."""

    def __init__(self, path: Path) -> None:
        """Raises DamagedShardError when the header is not as written, OSError when the file can't be opened."""
        self.path = path
        size = regular_file(path, MAX_FILE)
        weakref.finalize(self, _unmark, _marked(path))
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            self.known = path.name, status.st_ino, size, status.st_mtime_ns
            if size < _HEADER:
                raise DamagedShardError("it is cut off")
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            header = plain_json(self.map[8:_HEADER])
            about, checksum = header["__metadata__"]["promptkit"], int(header["__metadata__"]["checksum"])
            count, *shape = header["rows"]["shape"]
            reasons = header["unreadable"]["shape"][0]
            whole = _header(about, checksum, count, shape, reasons)
            end = whole["unreadable"]["data_offsets"][1]
            sound = header == whole and self.map[:8] == (_HEADER - 8).to_bytes(8, "little") and _HEADER + end == size
            if not sound:
                raise ValueError("it holds something else than its header says")
            data = memoryview(self.map)[_HEADER:]
            first, last = whole["images"]["data_offsets"]
            digests = bytes(data[first:last])
            images = [digests[i : i + DIGEST] for i in range(0, len(digests), DIGEST)]
            unreadable = {bytes.fromhex(image): str(reason) for image, reason in plain_json(bytes(data[last:]))}
            self.contents = Contents(plain_json(about), images, unreadable)
            if not isinstance(self.contents.about, dict):
                raise TypeError("it says nothing of itself")
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DamagedShardError(str(error)) from None
        self.checksum, self.text, self.shape = checksum, about, tuple(shape)
        self.rows = np.frombuffer(data[:first], dtype=np.float32).reshape(count, -1) if count else np.empty((0, 0))

    def check(self) -> None:
        """Read every byte, once in a process. Raises DamagedShardError when one is not as written."""
        if self.known in _checked:
            return
        checksum = zlib.crc32(self.text.encode(errors="surrogatepass"))
        data = memoryview(self.map)
        for begin in range(_HEADER, len(data), _CHUNK):
            checksum = zlib.crc32(data[begin : begin + _CHUNK], checksum)
        if checksum != self.checksum:
            raise DamagedShardError("its checksum is wrong")
        _checked.add(self.known)

    def touch(self) -> None:
        """Say that it is in use: the least recently used go first."""
        if time.time_ns() - self.known[3] > _FRESH:
            with contextlib.suppress(OSError):
                os.utime(self.path)
                self.known = *self.known[:3], self.path.stat().st_mtime_ns
                _checked.add(self.known)


def _marked(path: Path) -> FileLock:
    """A new mark at a shard, whole or half written; none in a folder that can't be written or locked."""
    mark = FileLock(path.with_name(f".{path.name.lstrip('.')}.{uuid.uuid4().hex}{MARK}"), timeout=1)
    with contextlib.suppress(OSError):
        mark.acquire()
    return mark


def _unmark(mark: FileLock) -> None:
    if mark.is_locked:  # not in a forked process, which shares the file
        with contextlib.suppress(OSError):  # where locked files can't be deleted, releasing deletes it
            os.unlink(mark.lock_file)
        mark.release()


def is_alive(path: Path) -> bool:
    """Does a living process hold this mark? One that was left behind is deleted. Raises OSError."""
    mark = FileLock(path)
    try:
        mark.acquire(blocking=False)
    except Timeout:
        return True
    _unmark(mark)
    return False


def delete_unused(path: Path) -> bool:
    """Delete a shard, whole or half written, that no living process reads or writes. Raises OSError."""
    hidden = path.with_name(f".{path.name.lstrip('.')}")
    try:
        path.rename(hidden)  # who opens it from now on finds none, and who has it open has a mark
    except FileNotFoundError:
        return True
    if any(is_alive(mark) for mark in path.parent.glob(f"{hidden.name}.*{MARK}")):
        hidden.rename(path)
        return False
    hidden.unlink(missing_ok=True)
    return True


def allow_files(count: int) -> None:
    """Let this process hold so many more files open, as far as the system lets it: often 1024 are allowed at first."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limit
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and count > soft // 2:
            most = soft + count if hard == resource.RLIM_INFINITY else min(soft + count, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def format_bytes(size: int) -> str:
    """Bytes for people."""
    number, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while number >= 1000 and len(units) > 1:
        number, units = number / 1000, units[1:]
    return f"{number:.0f} B" if units[0] == "B" else f"{number:.1f} {units[0]}"

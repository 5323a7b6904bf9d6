"""Who trains into a folder: an advisory lock that the operating system releases when its holder dies."""

import contextlib
import fcntl
import os
import time
from pathlib import Path

from promptkit.errors import OutputError
from promptkit.files import writing

LOCK = ".lock"

_held: set[int] = set()


class FolderLock:
    """Held from `take` to `release`, or to the end of the process, however it ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file: int | None = None

    def take(self) -> None:
        """Raises OutputError when another process, or another run in this one, holds it, or the folder can't be written.

        A file system without locks, as some network ones are, is written without.
        """
        if not self.try_take():
            raise OutputError(
                f"another process is training into {self.folder}", "choose another --out, or wait until it is done"
            )

    def try_take(self) -> bool:
        """`take`, but False when it is held by another. Raises OutputError where the folder can't be written."""
        if self.file is not None:
            return True
        with writing(self.folder / LOCK, "choose another --out"):
            file = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not _lock(file, fcntl.LOCK_EX):
            os.close(file)
            return False
        self.file = file
        _held.add(file)
        return True

    def release(self) -> None:
        if self.file is not None:
            _held.discard(self.file)
            os.close(self.file)
            self.file = None

    __del__ = release


def is_locked(folder: Path) -> bool:
    """Does a living process train into this folder? False as well where that can't be asked."""
    try:
        file = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return not _lock(file, fcntl.LOCK_SH, tries=1)
    finally:
        os.close(file)


def _lock(file: int, kind: int, tries: int = 5) -> bool:
    """False when it is taken. Tried a few times, since `is_locked` holds it for a moment."""
    for left in reversed(range(tries)):
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if left:
                time.sleep(0.05)
        except OSError:
            return True
        else:
            return True
    return False


def _leave_to_the_parent() -> None:
    """A forked data worker that outlives a killed run for a moment must not keep the lock."""
    for file in _held:
        with contextlib.suppress(OSError):
            os.close(file)
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_the_parent)

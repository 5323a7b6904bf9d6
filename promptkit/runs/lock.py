"""Who trains into a folder: a lock that the operating system releases when its holder dies."""

import os
import time
from errno import ENOLCK, EOPNOTSUPP
from pathlib import Path

from filelock import FileLock, Timeout, lock_descriptor

from promptkit.errors import OutputError
from promptkit.files import regular_file, writing

LOCK = ".lock"
_PATIENCE = 0.2
"""Seconds: `is_locked` holds the lock for a moment."""


class FolderLock:
    """Held from the first `take` to as many calls of `release`, or to the end of the process, however it ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = FileLock(folder / LOCK, timeout=_PATIENCE, thread_local=False)

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
        with writing(self.folder / LOCK, "choose another --out"):
            try:
                self.file.acquire()
            except Timeout:
                return False
            except OSError as error:
                if error.errno not in (ENOLCK, EOPNOTSUPP):
                    raise
            return True

    def release(self) -> None:
        self.file.release()


def is_locked(folder: Path) -> bool:
    """Does a living process train into this folder? False as well where that can't be asked."""
    try:
        regular_file(folder / LOCK, 2**20)
        file = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        for _ in range(2):  # another may be asking
            if lock_descriptor(file, blocking=False):
                return False
            time.sleep(_PATIENCE / 10)
        return True
    except OSError:
        return False
    finally:
        os.close(file)

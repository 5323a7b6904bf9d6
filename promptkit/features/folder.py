"""The folder of the feature store: where it is, what lies in it, and what may go."""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from promptkit.errors import ConfigError
from promptkit.features.shards import MARK, SUFFIX, Contents, DamagedShardError, Shard, delete_unused, is_alive
from promptkit.files import cache_folder

log = logging.getLogger("promptkit")

LIMIT = "PROMPTKIT_CACHE_GB"


def feature_folder() -> Path:
    return cache_folder() / "features"


def size_limit() -> int | None:
    """Bytes that the store may take, by $PROMPTKIT_CACHE_GB. Raises ConfigError for what is no number above 0."""
    text = os.environ.get(LIMIT, "")
    if not text:
        return None
    try:
        size = float(text)
    except ValueError:
        size = 0
    if not 0 < size < float("inf"):
        raise ConfigError(f"{LIMIT}={text!r}: expected a number of gigabytes above 0", "leave it out for no limit")
    return int(size * 1e9)


@dataclass(frozen=True)
class CachedFile:
    """A file that the store left in its folder; `used` is when it was last read or written."""

    path: Path
    size: int
    used: float

    @property
    def is_whole(self) -> bool:
        return not self.path.name.startswith(".")

    def contents(self) -> Contents | None:
        """None for a damaged or half-written one."""
        try:
            return Shard(self.path).contents if self.is_whole else None
        except (DamagedShardError, OSError):
            return None


def cached_files() -> list[CachedFile]:
    """The least recently used first."""
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(feature_folder()) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX):
                with contextlib.suppress(OSError):  # another process may have deleted it
                    status = entry.stat(follow_symlinks=False)
                    found.append(CachedFile(Path(entry.path), status.st_size, status.st_mtime))
    return sorted(found, key=lambda file: file.used)


def select(backbone: str = "", data: Path | None = None, older_than: float = 0) -> Iterator[CachedFile]:
    """Files of a backbone, of data in or below a folder, that were last used so many seconds ago. All by default."""
    for file in cached_files():
        if older_than and time.time() - file.used < older_than:
            continue
        if backbone or data is not None:
            contents = file.contents()
            if contents is None:
                continue
            name, folder = str(contents.about.get("backbone")), Path(str(contents.about.get("data")))
            if backbone and backbone not in (name, name.partition(" ")[0]):
                continue
            if data is not None and not folder.is_relative_to(data.absolute()):
                continue
        yield file


def delete_leftovers() -> None:
    """Delete what processes that were killed left half written, and their marks."""
    for file in cached_files():
        if not file.is_whole:
            with contextlib.suppress(OSError):
                delete_unused(file.path)
    for mark in feature_folder().glob(f".*{MARK}"):
        with contextlib.suppress(OSError):
            is_alive(mark)


def keep_to_limit() -> None:
    """Delete the least recently used shards until the rest is within the limit; never one that a process uses."""
    limit = size_limit()
    if limit is None:
        return
    files = cached_files()
    total = sum(file.size for file in files)
    for file in files:
        if total <= limit:
            return
        if file.is_whole:
            with contextlib.suppress(OSError):
                total -= file.size * delete_unused(file.path)
    if total > limit:
        log.debug("what is in use takes more than %s allows", LIMIT)

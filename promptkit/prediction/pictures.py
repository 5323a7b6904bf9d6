"""Which pictures are meant: files, folders, patterns, a list on the standard input."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from promptkit.data.formats import SUFFIXES, is_picture
from promptkit.data.selection import open_dataset
from promptkit.errors import DataError
from promptkit.files import missing
from promptkit.registry import installed
from promptkit.settings import DataSettings, split_names


def find_pictures(words: Sequence[str], listed: TextIO) -> list[Path]:
    """The files that are named, each once: folders with all that they hold, and patterns, sorted; "-" reads `listed`.

    In folders, a picture is known by its suffix. Raises DataError for what isn't there, or holds no picture.
    """
    found: dict[Path, None] = {}
    for word in words:
        if word == "-":
            named = [Path(line) for line in listed.read().splitlines() if line.strip()]
            if not named:
                raise DataError("no picture is named on the standard input", "one path a line is expected")
        else:
            named = list(_found(word))
        found |= dict.fromkeys(named)
    return list(found)


def trained_on(settings: DataSettings) -> list[Path]:
    """The pictures of a run's data. Raises DataError when it can't be read."""
    named = installed().dataset(settings.dataset) if settings.dataset else None
    return [item.path for item in open_dataset(Path(settings.path), named, split_names(settings.domains)).items]


def _found(word: str) -> Iterator[Path]:
    path = Path(word)
    if os.path.isdir(path):
        pictures = sorted(_below(path))
        if not pictures:
            raise DataError(
                f"{path} holds no pictures", f"files that end in {', '.join(sorted(SUFFIXES))} are looked for"
            )
        yield from pictures
    elif os.path.lexists(path):
        yield path
    elif glob.has_magic(word):
        matching = sorted(glob.glob(word, recursive=True))
        if not matching:
            raise DataError(f"no file matches {word}", "** matches folders of any depth")
        for match in matching:
            if os.path.isdir(match):
                yield from sorted(_below(Path(match)))
            else:
                yield Path(match)
    else:
        raise DataError(*missing(path, "picture or folder"))


def _below(folder: Path) -> Iterator[Path]:
    """Links to folders are followed, once."""
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} can't be read: {error.strerror}")

    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if is_picture(name) and not name.startswith("."):
                yield Path(place, name)

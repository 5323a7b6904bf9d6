"""Data sets by name: what an entry of the catalogue is, and what their readers share.

The core's own are in `coop` and `generalization`; plugins add theirs through the hook `register_datasets`.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from promptkit.data.formats import SUFFIXES
from promptkit.data.layouts import Dataset, Item
from promptkit.errors import DataError
from promptkit.files import text_of

PHOTO = ("a photo of a {}.",)


@dataclass(frozen=True)
class NamedDataset:
    """A published data set as people have it on disk. `read` and `unsplit` are given the root that holds its folder."""

    title: str
    """As papers' tables call it: Caltech101."""
    read: Callable[[Path], Dataset]
    """With the published splits, class names and order. Raises DataError that says what is missing and where it goes."""
    place: str
    """Where the original goes, below the root."""
    source: str
    """Where the original is to be had, in words."""
    templates: tuple[str, ...] = PHOTO
    """Hand-made prompts of the zero-shot baseline, each with one {} for the class name."""
    unsplit: Callable[[Path], Dataset] | None = None
    """The same pictures without a split file, to draw splits from; None where only the split file names the classes."""
    split_file: str = ""
    """Where its split file goes, below the root; "" where it has none."""

    @property
    def folder(self) -> str:
        """The folder, below the root, that all of it is in."""
        return PurePosixPath(self.place.partition(",")[0]).parts[0]


def dataset(
    title: str,
    folder: Path,
    source: str,
    classnames: Sequence[str],
    items: Iterable[Item],
    domains: Sequence[str] = (),
    skipped: int = 0,
) -> Dataset:
    """Pictures that a reader has found, with the line that says what they are. Raises DataError where there are none."""
    found = tuple(items)
    if not found:
        raise DataError(f"{folder} holds no pictures of {title}")
    counts = f"{len(domains)} domains, " if domains else ""
    line = f"{title}, {counts}{len(classnames)} classes, {len(found)} pictures ({source})"
    return Dataset(folder, line, tuple(classnames), tuple(domains), found, skipped)


def folder_of(root: Path, name: str, what: str) -> Path:
    """`root/name`. Raises DataError, saying what goes there, when it is no folder."""
    folder = root / name
    if os.path.isdir(folder):
        return folder
    if root.name == name.split("/")[0] and os.path.isdir(root.parent / name):
        raise DataError(f"no folder {folder}", f"--data is the folder that holds {root.name}: --data {root.parent}")
    raise DataError(f"no folder {folder}", f"{what} goes there")


def lines_of(path: Path, what: str) -> list[str]:
    """The lines of a text file that are not blank. Raises DataError, saying what it is, when it can't be read."""
    try:
        return [line.strip() for line in text_of(path).splitlines() if line.strip()]
    except FileNotFoundError:
        raise DataError(f"no file {path}", f"{what} goes there") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read: {error}") from None


def inside(folder: Path, relative: str, where: str) -> Path:
    """The picture that a list names. Raises DataError when the path leads out of the folder."""
    parts = PurePosixPath(relative.replace("\\", "/")).parts
    depth = 0
    for part in parts:
        depth += -1 if part == ".." else 1
        if depth < 0 or part == "/" or part.endswith(":") or "\0" in part:
            raise DataError(
                f"{where}: the path {relative!r} leads out of {folder}", "paths are relative to that folder"
            )
    return folder.joinpath(*parts)


def images_in(folder: Path) -> list[Path]:
    """The pictures that lie right in a folder, by their suffix, sorted."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(f"{folder} can't be read: {error.strerror}") from None
    return [folder / name for name in names if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES]


def folders_in(folder: Path) -> list[str]:
    """The names of the folders that lie right in a folder, hidden ones left out, sorted."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError as error:
        raise DataError(f"{folder} can't be read: {error.strerror}") from None

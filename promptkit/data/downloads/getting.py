"""Get a published data set: into a folder beside, checked as it will be read, and in place at one stroke."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from promptkit.data.catalog import NamedDataset
from promptkit.data.downloads.declared import NAMES, SPLITS_ARE, Download
from promptkit.data.downloads.fetching import AGAIN, ARCHIVES, explained, fetch, split_file
from promptkit.data.layouts import Dataset
from promptkit.errors import DataError, OutputError
from promptkit.files import check_writable, replace_file

HINT = "choose another --to, or make room"


@dataclass(frozen=True)
class Got:
    """What is there now."""

    folder: Path
    dataset: Dataset | None
    """As it is read; None where NAMES is missing."""
    fetched: str
    """What was fetched, in words; "" where nothing was."""


def get(named: NamedDataset, download: Download, root: Path, console: Console) -> Got:
    """Fetch what is missing of a data set. A folder appears below the root when all of it is there, and sound.

    Raises:
        DataError: When it can't be had, or what is there already is not whole.
        OutputError: When there is no room.
    """
    folder = root / named.folder
    if os.path.lexists(folder):
        return _complete(named, download, root)
    check_writable(root, HINT)
    stage = root / f".{named.folder}.part"
    try:
        stage.mkdir(exist_ok=True)
        with FileLock(stage / "lock", timeout=0):
            _check_room(named, download, root, stage)
            split = _split(named, download, stage)
            made = fetch(download.source, stage / "pictures", named.folder, console)
            with explained(named.title, stage):
                _put(made, split, named, download, root, stage / "whole")
    except Timeout:
        raise OutputError(f"{stage} is in use", "another command gets it already") from None
    shutil.rmtree(stage, ignore_errors=True)
    found = named.read(root) if _has_names(download, folder) else None
    parts = f"the pictures, from {download.source}"
    return Got(folder, found, f"{parts}; the split file, {SPLITS_ARE}" if split else parts)


def _put(made: Path, split: bytes, named: NamedDataset, download: Download, root: Path, whole: Path) -> None:
    """Lay it out in a folder of its own, see that it reads, and move it to its place."""
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    ready = made.rename(whole / named.folder)
    for path in ready.iterdir():
        if path.name.endswith(ARCHIVES):
            path.unlink()
    if split:
        (whole / named.split_file).write_bytes(split)
    _add_names(download, root, ready)
    if _has_names(download, ready):
        try:
            _check_whole(named.read(whole))
        except DataError as error:
            raise DataError(f"what {download.source} has is not whole: {error.message}", "please report it") from error
    ready.rename(root / named.folder)


def _complete(named: NamedDataset, download: Download, root: Path) -> Got:
    """Add the split file to pictures that are there already. Raises DataError where anything else is missing."""
    folder, added = root / named.folder, ""
    if download.split and not (root / named.split_file).exists():
        replace_file(root / named.split_file, _split(named, download, folder), HINT)
        added = f"the split file, {SPLITS_ARE}"
    _add_names(download, root, folder)
    if not _has_names(download, folder):
        return Got(folder, None, added)
    try:
        found = named.read(root)
        _check_whole(found)
    except DataError as error:
        raise DataError(
            f"{folder} is there, and is not whole: {error.message}", "move it away, and the same command gets all of it"
        ) from error
    return Got(folder, found, added)


def _split(named: NamedDataset, download: Download, place: Path) -> bytes:
    return split_file(Path(named.split_file).name, download.split, place) if download.split else b""


def _add_names(download: Download, root: Path, folder: Path) -> None:
    """CoOp's DATASETS.md copies the names of ImageNet's classes from ImageNet's folder."""
    imagenet = root / "imagenet" / NAMES
    if not _has_names(download, folder) and imagenet.is_file():
        replace_file(folder / NAMES, imagenet.read_bytes(), HINT)


def _has_names(download: Download, folder: Path) -> bool:
    return not download.names or (folder / NAMES).exists()


def _check_whole(found: Dataset) -> None:
    """Raises DataError where a picture that is listed is not there."""
    missing = [item.path for item in found.items if not item.path.is_file()]
    if missing:
        raise DataError(f"{len(missing)} of {len(found.items)} pictures are missing, such as {missing[0]}")


def _check_room(named: NamedDataset, download: Download, root: Path, stage: Path) -> None:
    """The archive and what is in it lie side by side for a while. Raises OutputError where they won't."""
    here = sum(path.stat().st_size for path in stage.rglob("*") if path.is_file())
    free, wanted = shutil.disk_usage(root).free, 2 * download.size - here
    if free < wanted:
        raise OutputError(
            f"{named.title} takes about {wanted / 1e9:.1f} GB while it is unpacked, and {root} has {free / 1e9:.1f} GB free",
            f"make room, or choose another --to; {AGAIN}",
        )

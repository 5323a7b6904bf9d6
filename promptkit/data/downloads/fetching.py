"""Archives of published data sets, and split files: fetched, compared with their checksums, and unpacked."""

import errno
import hashlib
import io
import shutil
import socket
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from pathlib import Path

from rich.console import Console

from promptkit.data.downloads import declared
from promptkit.data.downloads.declared import Hub, Torchvision
from promptkit.errors import DataError, OutputError, PromptkitError
from promptkit.hub import reached
from promptkit.progress import reported

ARCHIVES = (".tar.gz", ".tgz", ".zip")
REFUSED = {getattr(errno, name, 0) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EACCES", "EPERM", "EROFS")}
"""What the disk says, not the network."""
PATIENCE = 60.0
"""Seconds that a server may say nothing."""
AGAIN = "the same command goes on with what is here"


def fetch(source: Torchvision | Hub, stage: Path, folder: str, console: Console) -> Path:
    """The pictures of a data set, and what comes with them, as a folder below `stage`.

    Args:
        source: Where they are.
        stage: What is downloaded is kept there, for the next time, and what is unpacked is made anew.
        folder: What the data set's folder is called; an archive of the hub may hold it, or what is in it.
        console: Says how far it is.

    Raises:
        DataError: When they can't be had, or are not what they were.
        OutputError: When there is no room.
    """
    stage.mkdir(parents=True, exist_ok=True)
    with explained(str(source), stage):
        return (
            _by_torchvision(source, stage)
            if isinstance(source, Torchvision)
            else _of_hub(source, stage, folder, console)
        )


def split_file(name: str, blob: str, stage: Path) -> bytes:
    """A split file of CoOp. Raises DataError when it can't be had, or is another one."""
    with explained(f"the split file {name}", stage):
        with urllib.request.urlopen(f"{declared.SPLITS}/{name}", timeout=PATIENCE) as answer:
            content: bytes = answer.read()
        if git_name(content) != blob:
            raise DataError(f"{declared.SPLITS}/{name} is not what it was: its checksum differs", "please report it")
    return content


def git_name(content: bytes) -> str:
    """What git calls a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _by_torchvision(source: Torchvision, stage: Path) -> Path:
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    _keep_archives(stage, source.md5)  # torchvision takes a folder that is there for a whole one
    with _quiet(), _patient():
        getattr(datasets, source.kind)(stage, download=True)
    for name, md5 in source.md5.items():
        if not check_integrity(stage / name, md5):
            raise DataError(f"{name} is not what it was: its checksum differs", "try again later")
    return stage / source.made


def _keep_archives(stage: Path, md5: Mapping[str, str]) -> None:
    """Delete what was unpacked, perhaps in part, and archives that torchvision would not look at twice."""
    from torchvision.datasets.utils import check_integrity

    for path in sorted(stage.rglob("*"), reverse=True):  # what is in a folder, then the folder
        if path.is_dir():
            with suppress(OSError):  # an archive is in it
                path.rmdir()
        elif not path.name.endswith(ARCHIVES) or (path.name in md5 and not check_integrity(path, md5[path.name])):
            path.unlink()


def _of_hub(source: Hub, stage: Path, folder: str, console: Console) -> Path:
    from huggingface_hub import hf_hub_download

    endpoint = reached(DataError)
    with _quiet():
        found = hf_hub_download(
            source.repository,
            source.file,
            repo_type=source.kind,
            revision=source.revision,
            local_dir=stage / "hub",
            endpoint=endpoint,
        )
    archive, unpacked = Path(found), stage / "unpacked"
    if _sha256(archive, console) != source.sha256:
        archive.unlink()
        raise DataError(f"{source.file} of {source.repository} is not what it was: its checksum differs", "try again")
    shutil.rmtree(unpacked, ignore_errors=True)
    _unpack(archive, unpacked, console)
    return unpacked / folder if (unpacked / folder).is_dir() else unpacked


def _sha256(path: Path, console: Console) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file, reported(console, f"checking {path.name}", path.stat().st_size) as advance:
        while part := file.read(2**22):
            digest.update(part)
            advance(len(part))
    return digest.hexdigest()


def _unpack(archive: Path, folder: Path, console: Console) -> None:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as held:
            members = held.infolist()
            with reported(console, f"unpacking {archive.name}", len(members)) as advance:
                for member in members:
                    held.extract(member, folder)
                    advance(1)
    else:
        with tarfile.open(archive) as held_tar:
            held_tar.extractall(folder, filter="data")


@contextmanager
def explained(what: str, place: Path) -> Iterator[None]:
    """Raises OutputError where the disk refuses, DataError for all else that goes wrong in the libraries."""
    try:
        yield
    except (PromptkitError, MemoryError):
        raise
    except Exception as error:  # they have no one class for it
        if isinstance(error, OSError) and error.errno in REFUSED:
            raise OutputError(
                f"{place} can't be written: {error.strerror}", f"make room, or choose another --to; {AGAIN}"
            ) from error
        reason = getattr(error, "reason", None)
        said = " ".join(str(reason if isinstance(reason, OSError) else error).split())[:300] or type(error).__name__
        raise DataError(f"{what} can't be had: {said}", f"check the network, and try again; {AGAIN}") from error


def _quiet() -> "nullcontext[None] | redirect_stderr[io.StringIO]":
    """The libraries' bars are for terminals."""
    return nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())


@contextmanager
def _patient() -> Iterator[None]:
    """Within the block, a server that says nothing for long is an error; torchvision would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)

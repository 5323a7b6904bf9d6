"""Files as if a stranger had sent them: what to look at before one is read, and what to say when one can't be written."""

import contextlib
import json
import math
import os
import re
import stat
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any, TypeVar, cast

from annotated_types import Predicate

from promptkit.errors import OutputError, nearest_name

T = TypeVar("T")

FOR_OUT = "choose another FILE for --out, or make room"
"""The hint of commands that write a file."""


def cache_folder() -> Path:
    """$PROMPTKIT_CACHE, or where the platform keeps a user's caches. Raises OutputError where the user has no home."""
    if chosen := os.environ.get("PROMPTKIT_CACHE"):
        return Path(chosen)
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "promptkit"
    try:
        if sys.platform == "darwin":
            return Path.home() / "Library/Caches/promptkit"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "promptkit"
    except RuntimeError:
        raise OutputError(
            "nothing can be kept: you have no home folder", "PROMPTKIT_CACHE names a folder, or HOME a home"
        ) from None


def regular_file(path: Path, limit: int) -> int:
    """The size of a file in bytes, without opening it: a pipe would hang. Raises OSError when it is none, or too large."""
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):
        raise OSError("it is not a file")
    if info.st_size > limit:
        raise OSError(f"it has {info.st_size:,} bytes, and at most {limit:,} are read")
    return info.st_size


def text_of(path: Path, limit: int = 2**26) -> str:
    """The text of a file of at most `limit` bytes, in UTF-8. Raises OSError for what is no file, ValueError for no text."""
    regular_file(path, limit)
    return path.read_text(encoding="utf-8-sig")


def toml_of(path: Path, limit: int) -> dict[str, Any]:
    """The tables of a TOML file of at most `limit` bytes. Raises OSError for what is no file, ValueError for no TOML."""
    text = text_of(path, limit)
    if _DEEP_KEY.search(_NO_KEYS.sub("", text)):
        raise ValueError("a key has too many parts")  # it takes memory by the square of their number
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_text(text: str) -> bool:
    """Can it be written in UTF-8? Names of files and what is typed may hold other bytes, which Python keeps as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def missing(path: Path, what: str) -> tuple[str, str]:
    """Message and hint of the error that there is no such thing: the nearest name, and from where on it is not there."""
    gone = next(part for part in (*reversed(path.parents), path) if not os.path.exists(part))
    siblings = os.listdir(gone.parent) if os.path.isdir(gone.parent) and os.access(gone.parent, os.R_OK) else []
    nearest = nearest_name(gone.name, siblings)
    suggestion = f"; did you mean '{gone.parent / nearest}'?" if nearest else ""
    return f"no {what} {path}{suggestion}", f"{gone.parent.resolve()} has no {gone.name!r}"


def plain_json(text: str | bytes) -> Any:
    """What json.loads gives, less what no JSON has: a key twice, NaN, infinity. Raises ValueError."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def checked_json(kind: type[T], text: str | bytes) -> T:
    """JSON as a `kind`, a dataclass or container of annotated types: nothing of another type, missing or left over.

    Raises ValueError naming every part that is not sound.
    """
    from pydantic import ValidationError

    plain_json(text)
    try:
        found: T = _adapter(cast(Any, kind)).validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        causes = error.errors(include_url=False, include_input=False)
        if not causes[0]["loc"]:
            raise ValueError(str(causes[0].get("ctx", {}).get("error", causes[0]["msg"]))) from None
        parts = dict.fromkeys(".".join(map(str, one["loc"])) for one in causes)
        raise ValueError(f"it has no sound {', '.join(parts):.1000}") from None
    return found


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def is_number(value: object) -> bool:
    """A finite one that a float holds. JSON knows integers of any length, and 1e999."""
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:
        return False


_NO_KEYS = re.compile(
    r'''"""(?:\\.|[^\\])*?"""|\'{3}.*?\'{3}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|#[^\n]*|[ \t]+''', re.DOTALL
)
"""Strings, comments and blanks of TOML."""
_DEEP_KEY = re.compile(r"(?:[^\s=,{}\[\].]*\.){9}")

Number = Annotated[int | float, Predicate(is_number)]


@contextlib.contextmanager
def writing(path: Path | str, hint: str) -> Iterator[None]:
    """Raises OutputError, naming the file, or what `path` says, where the system refuses."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror or error}", hint) from None


@contextlib.contextmanager
def replacing(path: Path, hint: str) -> Iterator[Path]:
    """A file to write, beside `path`; at the end of the block it is synced and takes the place of what is there.

    A crash, an error or a full disk leaves the old one as it was. Raises OutputError when it can't be written.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path, hint):
        try:
            yield fresh
            with fresh.open("r+b") as file:  # Windows syncs none that it may not write
                os.fsync(file.fileno())
            fresh.replace(path)
        finally:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)


def delete_unfinished(path: Path) -> None:
    """Delete what writers of a file that were killed left beside it. Only where nobody else writes it."""
    for left in path.parent.glob(f".{path.name}.*"):
        with contextlib.suppress(OSError):
            left.unlink()


def check_spelling(folder: Path, hint: str) -> None:
    """Raises OutputError for a name that is no text, in which safetensors reads and writes nothing."""
    if not is_text(str(folder)):
        raise OutputError(f"{folder} can't be written: its name is not in UTF-8", hint)


def check_writable(folder: Path, hint: str) -> None:
    """Make a folder and see that it takes files, those of safetensors too. Raises OutputError."""
    check_spelling(folder, hint)
    with writing(folder, hint):
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass


def check_output(path: Path, hint: str) -> None:
    """See that `write_output` can write a file, before the work that ends with it. Raises OutputError."""
    with writing(path, hint):
        if path.is_dir():
            raise OSError("it is a folder")
        if not is_special(path):
            with TemporaryFile(dir=path.parent):
                pass


def replace_file(path: Path, content: bytes, hint: str) -> None:
    """`replacing` at one stroke. Raises OutputError when it can't be written."""
    with replacing(path, hint) as fresh:
        fresh.write_bytes(content)


def write_output(path: Path, content: bytes, hint: str) -> None:
    """`replace_file` for a file that the user named. What is there and keeps nothing, such as /dev/stdout, stays there.

    Raises OutputError when it can't be written.
    """
    if not is_special(path):
        replace_file(path, content, hint)
        return
    with writing(path, hint):
        path.write_bytes(content)


def is_special(path: Path) -> bool:
    """Is there something that is no file, such as a device or a pipe?"""
    return os.path.exists(path) and not os.path.isfile(path)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")

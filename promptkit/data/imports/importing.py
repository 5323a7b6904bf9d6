"""Write an origin's pictures into a folder: [<domain>/][<split>/]<class>/<number>, once, resumable, and checked."""

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from promptkit.data.formats import formats
from promptkit.data.images import Unreadable, try_image
from promptkit.data.imports.hf import HuggingFace
from promptkit.data.imports.origin import Content, Example, Origin, Wanted
from promptkit.data.imports.vision import Torchvision
from promptkit.data.imports.wds import WebDataset
from promptkit.data.layouts import read_dataset
from promptkit.data.manifests import SPLITS
from promptkit.errors import DataError, OutputError, UnknownNameError
from promptkit.files import checked_json, replace_file, text_of, writing

ORIGINS: Mapping[str, Callable[[str, Wanted], Origin]] = {
    "hf": HuggingFace,
    "torchvision": Torchvision,
    "wds": WebDataset,
}
RECORD = ".import.json"
"""What is imported here, and whether all of it is there."""
SUFFIX_OF = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "WEBP": ".webp",
    "PPM": ".ppm",
    "JPEG2000": ".jp2",
}
"""Files that are kept as they are; what else can be read becomes PNG."""
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
HINT = "choose another FOLDER, or make room"


@dataclass(frozen=True)
class Record:
    """What stands in RECORD."""

    source: str
    wanted: dict[str, str]
    finished: bool = False

    @staticmethod
    def of(source: str, wanted: Wanted) -> "Record":
        return Record(source, {name: str(value) for name, value in asdict(wanted).items() if value})


@dataclass
class Imported:
    """What an import found."""

    layout: str = ""
    """Of the folder, as it is read."""
    unreadable: list[Unreadable] = field(default_factory=list)
    unlabelled: int = 0
    """Pictures without a class, which are left out."""
    only_split: str = ""
    """Of an origin that has one: its pictures are written without it."""


def open_origin(source: str, wanted: Wanted) -> Origin:
    """`hf:NAME`, `torchvision:NAME` or `wds:PATTERN`. Raises UnknownNameError for another, and what opening one does."""
    scheme, colon, name = source.partition(":")
    if scheme not in ORIGINS or not name:
        raise UnknownNameError(
            "source", source if colon else scheme, (), "expected hf:NAME, torchvision:NAME or wds:PATTERN"
        )
    return ORIGINS[scheme](name, wanted)


def check_folder(folder: Path, record: Record) -> None:
    """See that a folder is new, or holds a part of the same import. Raises OutputError where it holds something else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        before = checked_json(Record, text_of(folder / RECORD))
    except (OSError, ValueError):
        raise OutputError(f"{folder} exists already, and no import made it", "choose another FOLDER") from None
    if before.finished and before == replace(record, finished=True):
        raise OutputError(f"{folder} holds all of {record.source} already", f"promptkit data {folder} looks at it")
    if before != record:
        raise OutputError(f"{folder} holds an import of {before.source} with other words", "choose another FOLDER")


def import_pictures(
    origin: Origin, folder: Path, record: Record, on_picture: Callable[[int], None] = lambda count: None
) -> Imported:
    """Write every picture that is not there yet, as its file was or as PNG, and read the folder back.

    Args:
        origin: Whose pictures are written; a single split is written without a folder for it.
        folder: That `check_folder` has seen.
        record: What it is an import of.
        on_picture: Called for each picture.

    Raises:
        DataError: When no picture could be written, or the folder reads otherwise than it was written.
        OutputError: When the folder can't be written.
    """
    with writing(folder, HINT):
        folder.mkdir(parents=True, exist_ok=True)
    _write_record(folder, record)
    found = Imported(only_split=origin.splits[0] if len(origin.splits) == 1 else "")
    there = {path.with_suffix("") for path in folder.rglob("*") if path.suffix in SUFFIX_OF.values()}
    places: dict[str, str] = {}
    written: Counter[tuple[str, str | None]] = Counter()
    for example in origin:
        on_picture(1)
        if example.label is None:
            found.unlabelled += 1
            continue
        split = SPLITS[example.split.lower()] if len(origin.splits) > 1 else None
        levels = [example.domain and _folder_name(example.domain, {}), split or "", _folder_name(example.label, places)]
        target = folder.joinpath(*filter(None, levels), f"{example.number:06}")
        if target not in there and (reason := _write(target, example)):
            found.unreadable.append(Unreadable(Path(example.place), reason))
            continue
        written[example.domain and levels[0], split] += 1
    if not written:
        raise DataError("not one picture could be imported", "are the image and label columns the right ones?")
    names = {place: name.replace("_", " ") for name, place in places.items() if place != name}
    if names:
        replace_file(folder / "classnames.json", json.dumps(names, ensure_ascii=False, indent=1).encode(), HINT)
    dataset = read_dataset(folder)
    if Counter((item.domain, item.split) for item in dataset.items) != written:
        raise DataError(
            f"{folder} reads otherwise than it was written: {dataset.layout}", "delete it, and import it anew"
        )
    _write_record(folder, replace(record, finished=True))
    found.layout = dataset.layout
    return found


def _write_record(folder: Path, record: Record) -> None:
    replace_file(folder / RECORD, (json.dumps(asdict(record), indent=1) + "\n").encode(), HINT)


def _folder_name(name: str, places: dict[str, str]) -> str:
    """A class's folder, which any file system takes and no other class has, however it is spelt; kept in `places`."""
    if name not in places:
        plain = re.sub(r'[\x00-\x1f<>:"/\\|?*]', "-", name).strip(" .") or "class"
        others = {place.casefold() for place in places.values()}
        place, number = plain, 2
        while place.casefold() in others:
            place, number = f"{plain} {number}", number + 1
        places[name] = place
    return places[name]


def _write(target: Path, example: Example) -> str:
    """The file appears whole or not at all. Returns why it can't be read, "" where it can."""
    try:
        held, suffix = _file_of(example.content())
    except Exception as error:  # PIL's decoders raise nearly anything on damaged files
        return f"damaged: {error}"
    fresh = target.with_name(f".{target.name}")
    with writing(target, HINT):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            fresh.write_bytes(held)
            image = try_image(fresh)
            if isinstance(image, Unreadable):
                return image.reason
            fresh.replace(target.with_suffix(suffix))
        finally:
            fresh.unlink(missing_ok=True)
    return ""


def _file_of(content: Content) -> tuple[bytes, str]:
    """What a file holds, and its suffix: as it is, where it is of a usual format or none, else as PNG."""
    held = content.read_bytes() if isinstance(content, Path) else content
    if isinstance(held, bytes):
        try:
            image: Image.Image = Image.open(io.BytesIO(held), formats=formats())
        except UnidentifiedImageError:
            return held, ""  # reading it says so
        if suffix := SUFFIX_OF.get(image.format or ""):
            return held, suffix
    else:
        image = held
    out = io.BytesIO()
    (image if image.mode in PNG_MODES else image.convert("RGB")).save(out, "PNG")
    return out.getvalue(), ".png"

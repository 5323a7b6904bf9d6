"""`wds:PATTERN`: shards of WebDataset on disk, as img2dataset, open_clip and CLIP_benchmark have them."""

import glob
import json
import tarfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from promptkit.data.formats import SUFFIXES
from promptkit.data.imports.origin import Content, Example, Origin, Wanted, chosen_splits
from promptkit.data.manifests import SPLITS
from promptkit.errors import DataError
from promptkit.extras import needs
from promptkit.files import plain_json, text_of

NAMES = "classnames.txt"
"""A name a line, for labels that are numbers; beside the shards or in the folder above, as CLIP_benchmark has it."""


class WebDataset(Origin):
    """The pictures of shards, shard after shard. A folder named after a split that shards lie in is their split."""

    def __init__(self, pattern: str, wanted: Wanted) -> None:
        """`pattern` is a file, has * or {000..123} in it, or is a folder of shards or of splits.

        Raises DataError where there are no shards, or one can't be read.
        """
        self.source = f"wds:{pattern}"
        needs(self.source, "webdataset")
        shards = _shards(self.source, pattern)
        folders = {shard.parent.name.lower() for shard in shards}
        by_split: dict[str, list[Path]] = {}
        for shard in shards:
            split = shard.parent.name.lower() if folders <= SPLITS.keys() else ""
            by_split.setdefault(split, []).append(shard)
        self.splits = chosen_splits(self.source, by_split, wanted.splits)
        self.shards = {split: by_split[split] for split in self.splits}
        self.wanted = wanted
        self.total = sum(1 for part in self.shards.values() for _ in self._samples(part))

    def _samples(self, shards: list[Path]) -> Iterator[Mapping[str, Any]]:
        """Those that have a picture."""
        import webdataset

        try:
            for sample in webdataset.WebDataset(
                [str(shard) for shard in shards], shardshuffle=False, empty_check=False
            ):
                if _image(sample):
                    yield sample
        except (OSError, ValueError, tarfile.TarError) as error:
            raise DataError(f"{self.source} can't be read: {error}", "is every shard a whole .tar file?") from error

    def __iter__(self) -> Iterator[Example]:
        for split, shards in self.shards.items():
            names = _names(shards[0].parent)
            for number, sample in enumerate(self._samples(shards)):
                about = _about(sample)
                label, domain = self._label(sample, about, names), about.get(self.wanted.domain or "domain", "")
                yield Example(split, number, label, str(domain), partial(_content, sample))

    def _label(self, sample: Mapping[str, Any], about: Mapping[str, Any], names: list[str]) -> str | None:
        if self.wanted.label:
            value = about.get(self.wanted.label)
        elif "cls" in sample:
            value = sample["cls"].decode(errors="replace").strip()
        else:
            value = about.get("label", about.get("class"))
        if value is None or str(value).strip() in ("", "-1"):
            return None
        text = str(value)
        if not text.isdecimal():
            return text
        if not names:
            raise DataError(
                f"{self.source}: the labels are numbers, and there is no {NAMES} to name them",
                "one name a line, from 0",
            )
        if int(text) >= len(names):
            raise DataError(f"{self.source}: a label is {text}, and {NAMES} has {len(names)} names")
        return names[int(text)]


def _shards(source: str, pattern: str) -> list[Path]:
    """In the order of their names. Nothing is fetched: a shard is a file."""
    from braceexpand import braceexpand

    if "://" in pattern or pattern.startswith("pipe:"):
        raise DataError(f"{source} is not on this machine", "copy the shards here first")
    try:
        names = list(braceexpand(pattern))
    except ValueError as error:  # braces that don't match
        raise DataError(f"{source}: {error}", "such as: wds:shards/train-{000..009}.tar") from None
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            found += sorted([*path.glob("*.tar"), *path.glob("*/*.tar")])
        else:
            found += [path] if path.is_file() else sorted(map(Path, glob.glob(name)))
    if not found:
        raise DataError(
            f"{source}: no shard is there", "such as: wds:shards/train-{000..009}.tar, or wds:'shards/*.tar'"
        )
    return list(dict.fromkeys(found))


def _names(folder: Path) -> list[str]:
    for file in (folder / NAMES, folder.parent / NAMES):
        if file.is_file():
            return [line.strip() for line in text_of(file).splitlines() if line.strip()]
    return []


def _image(sample: Mapping[str, Any]) -> str:
    """The key of the picture, "" where there is none."""
    return next((key for key in sample if f".{key.rpartition('.')[2].lower()}" in SUFFIXES), "")


def _about(sample: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        about = plain_json(sample["json"]) if "json" in sample else {}
    except (ValueError, json.JSONDecodeError):
        return {}
    return about if isinstance(about, dict) else {}


def _content(sample: Mapping[str, Any]) -> Content:
    content: bytes = sample[_image(sample)]
    return content

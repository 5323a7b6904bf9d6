"""`torchvision:NAME`: data sets of torchvision, which downloads them where they are not there."""

import inspect
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from promptkit.data.imports.origin import Content, Example, Origin, Wanted, chosen_splits
from promptkit.errors import DataError, UnknownNameError
from promptkit.extras import needs
from promptkit.files import cache_folder

log = logging.getLogger("promptkit")

SPELLINGS = {"train": ("train", "trainval"), "val": ("val", "valid"), "test": ("test",)}
"""What splits are called there, the first that a data set has."""


class Torchvision(Origin):
    """The pictures of a data set, in its order."""

    def __init__(self, name: str, wanted: Wanted) -> None:
        """Raises UnknownNameError for a data set that torchvision doesn't have, DataError for what can't be read."""
        self.source = f"torchvision:{name}"
        needs(self.source, "torchvision")
        from torchvision import datasets

        known = {known.lower(): known for known in datasets.__all__}
        if name.lower() not in known:
            raise UnknownNameError("data set of torchvision", name, datasets.__all__, "names are those of its classes")
        kind = getattr(datasets, known[name.lower()])
        self.root = wanted.root or cache_folder() / "torchvision"
        there = self._parts(kind)
        self.splits = chosen_splits(self.source, there, wanted.splits)
        self.parts = {split: there[split] for split in self.splits}
        self.total = sum(map(len, self.parts.values()))
        self.names = [name[0] if isinstance(name, tuple) else str(name) for name in _classes(there[self.splits[0]])]
        if not self.names:
            log.warning("%s has no names of classes; their numbers take their place", self.source)

    def _parts(self, kind: Any) -> dict[str, Any]:
        """By split, "" where there are none."""
        takes = inspect.signature(kind).parameters
        words: dict[str, Any] = {"download": True} if "download" in takes else {}
        if "loader" in takes:
            words["loader"] = Path  # the file is copied as it is
        if "train" in takes:
            return {"train": self._made(kind, train=True, **words), "test": self._made(kind, train=False, **words)}
        if "split" not in takes:
            return {"": self._made(kind, **words)}
        found: dict[str, Any] = {}
        for split, spellings in SPELLINGS.items():
            for spelling in spellings:
                if split not in found and (part := self._made(kind, split=spelling, **words)) is not None:
                    found[split] = part
        if not found:
            raise DataError(f"{self.source} has none of the splits train, val and test")
        return found

    def _made(self, kind: Any, **words: Any) -> Any:
        """None for a split that it doesn't have."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            return kind(self.root, **words)
        except (RuntimeError, OSError, ValueError, TypeError, ImportError) as error:
            if "split" in words and str(error).startswith("Unknown value"):
                return None
            raise DataError(
                f"{self.source} can't be read: {' '.join(str(error).split())[:400]}",
                f"it is looked for, and downloaded to, {self.root}; --root names another folder",
            ) from error

    def __iter__(self) -> Iterator[Example]:
        for split, part in self.parts.items():
            for number in range(len(part)):
                try:
                    picture, label = part[number]
                except OSError:  # unreadable, which is found out where it is written
                    yield Example(split, number, None, "", bytes)
                    continue
                if not isinstance(picture, Path | Image.Image) or not isinstance(label, int):
                    raise DataError(f"{self.source} is no data set of pictures with one class each")
                name = self.names[label] if self.names else str(label)
                yield Example(split, number, name, "", partial(_itself, picture))


def _itself(picture: Content) -> Content:
    return picture


def _classes(part: Any) -> list[Any]:
    return list(getattr(part, "classes", None) or getattr(part, "categories", None) or ())

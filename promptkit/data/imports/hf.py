"""`hf:NAME`: data sets of Hugging Face's library, from the hub or from a folder that it saved."""

import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from promptkit.data.imports.origin import Content, Example, Origin, Wanted, chosen_column, chosen_splits
from promptkit.errors import DataError
from promptkit.extras import needs

LABELS = ("label", "labels", "class", "class_name", "category", "target")
"""Columns that are a label where none has the names of classes."""


class HuggingFace(Origin):
    """The pictures of a data set, in the order of its rows."""

    def __init__(self, name: str, wanted: Wanted) -> None:
        """Raises DataError for what can't be read, or has no column that is the image or the label."""
        source = f"hf:{name}"
        needs(source, "datasets")
        import datasets

        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        found = _load(source, name, wanted.config)
        if not isinstance(found, Mapping):
            found = {"": found}
        self.splits = chosen_splits(source, found, wanted.splits)
        features = found[self.splits[0]].features
        kinds = {column: type(feature).__name__ for column, feature in features.items()}
        images = [column for column, kind in kinds.items() if kind == "Image"]
        self.image = chosen_column("image", source, wanted.image, images, list(features))
        domain = wanted.domain or ("domain" if "domain" in features else "")
        self.domain = domain and chosen_column("domain", source, domain, [], list(features))
        labels = [column for column, kind in kinds.items() if kind == "ClassLabel" and column != self.domain]
        labels = labels or [column for column in features if column.lower() in LABELS]
        self.label = chosen_column("label", source, wanted.label, labels, list(features))
        columns = [column for column in (self.image, self.label, self.domain) if column]
        self.parts = {
            split: found[split].select_columns(columns).cast_column(self.image, datasets.Image(decode=False))
            for split in self.splits
        }
        self.total = sum(part.num_rows for part in self.parts.values())

    def __iter__(self) -> Iterator[Example]:
        for split, part in self.parts.items():
            names = [self._named(part, column) for column in (self.label, self.domain)]
            for number, (label, domain) in enumerate(zip(*names, strict=True)):
                yield Example(split, number, label, domain or "", partial(_content, part, number, self.image))

    def _named(self, part: Any, column: str) -> list[str | None]:
        """What each row has in a column, by name; None where nothing stands there."""
        if not column:
            return [None] * part.num_rows
        values, names = part[column][:], getattr(part.features[column], "names", None)
        if names is None:
            return [None if value is None else str(value) for value in values]
        return [None if value is None or value < 0 else names[value] for value in values]


def _load(source: str, name: str, config: str) -> Any:
    import datasets

    folder = Path(name)
    saved = any((folder / file).exists() for file in ("dataset_dict.json", "state.json"))
    try:
        return datasets.load_from_disk(name) if saved else datasets.load_dataset(name, config or None)
    except Exception as error:  # the library has no one class for what it can't read
        lines = str(error).strip().splitlines() or [type(error).__name__]
        hint = "--config NAME chooses one" if "onfig name is missing" in lines[0] else "check the name, and the network"
        raise DataError(f"{source} can't be read: {' '.join(lines)[:400]}", hint) from error


def _content(part: Any, number: int, column: str) -> Content:
    picture = part[number][column]
    if picture is None:
        return b""
    return picture["bytes"] if picture["bytes"] is not None else Path(picture["path"])

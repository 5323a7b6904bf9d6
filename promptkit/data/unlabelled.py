"""Pictures without labels, or whose labels are not looked at."""

import os
from collections.abc import Iterable
from pathlib import Path

from promptkit.data.formats import is_picture
from promptkit.data.layouts import Dataset, Item
from promptkit.data.manifests import SUFFIXES as MANIFESTS
from promptkit.data.manifests import read_manifest
from promptkit.data.selection import split_policy, subset
from promptkit.errors import DataError
from promptkit.settings import DataSettings, split_names


def read_unlabelled(path: Path) -> Dataset:
    """All pictures below a folder, sorted by path, or those that a manifest lists; every label is -1.

    Raises DataError where there are none.
    """
    if path.suffix.lower() in MANIFESTS and path.is_file():
        paths = [row.path for row in read_manifest(path)]
    else:
        paths = sorted(Path(folder, name) for folder, _, names in os.walk(path) for name in names if is_picture(name))
    if not paths:
        raise DataError(f"there are no pictures in {path}", "a folder of pictures, or a manifest, is expected")
    return _without_labels(path, paths)


def unlabelled_part(dataset: Dataset, settings: DataSettings) -> Dataset:
    """The training pictures of `data.unlabelled_domains`, no matter how many shots have labels; every label is -1.

    The validation and test pictures of these domains are not among them.
    Raises UnknownNameError for a domain that the data doesn't have, DataError where there are none.
    """
    split = split_policy(settings.split).split(dataset, settings.split_seed)
    found = subset(split, "train", split_names(settings.unlabelled_domains))
    if not found.items:
        raise DataError(
            f"there is no training picture in {settings.unlabelled_domains} of {dataset.root}",
            "give it some, or draw the splits with --split draw",
        )
    return _without_labels(dataset.root, [item.path for item in found.items])


def _without_labels(root: Path, paths: Iterable[Path]) -> Dataset:
    items = tuple(Item(picture, -1, "", None) for picture in paths)
    return Dataset(root, f"{len(items)} pictures without labels", (), (), items, 0)

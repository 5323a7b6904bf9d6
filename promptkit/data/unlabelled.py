"""Pictures without labels, or whose labels are not looked at."""

import os
from pathlib import Path

from promptkit.data.formats import is_picture
from promptkit.data.layouts import Dataset, Item
from promptkit.data.manifests import SUFFIXES as MANIFESTS
from promptkit.data.manifests import read_manifest
from promptkit.errors import DataError


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
    items = tuple(Item(picture, -1, "", None) for picture in paths)
    return Dataset(path, f"{len(items)} pictures without labels", (), (), items, 0)

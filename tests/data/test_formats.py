"""Pictures in formats that are read where something is installed, and those that are named because they are not."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from promptkit.data import formats
from promptkit.data.images import Unreadable, open_image, try_image
from promptkit.data.layouts import read_dataset
from promptkit.errors import DataError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three classes: two have a HEIC picture each, all a PNG; and what nobody reads."""
    pytest.importorskip("pillow_heif").register_heif_opener()
    for name in ("cat", "dog", "cow"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (64, 48), (200, 30, 40)).save(tmp_path / name / "1.png")
    for name in ("cat", "dog"):
        Image.new("RGB", (64, 48), (200, 30, 40)).save(tmp_path / name / "2.HEIC", format="HEIF")
    (tmp_path / "cow/raw.nef").touch()
    (tmp_path / "cow/notes.txt").touch()
    return tmp_path


@pytest.fixture
def without_heif(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    heif = replace(formats.OPTIONAL["HEIF"], at_hand=lambda: False)
    monkeypatch.setattr(formats, "OPTIONAL", {**formats.OPTIONAL, "HEIF": heif})
    formats._at_hand.cache_clear()
    yield
    formats._at_hand.cache_clear()


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    monkeypatch.setattr(logging.getLogger("promptkit"), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records]


def test_heic_is_read_where_pillow_heif_is_installed(tree: Path, warnings: Callable[[], list[str]]) -> None:
    data = read_dataset(tree)
    assert data.counts() == (2, 1, 2)
    assert data.skipped == 1
    image = open_image(tree / "cat/2.HEIC")
    assert image.shape == (48, 64, 3)
    assert np.abs(image.mean((0, 1)) - (200, 30, 40)).max() < 8
    assert warnings() == [f"{tree}: 1 picture is not read: 1 .nef (convert them to .jpg or .png)"]


def test_heic_is_named_with_what_reads_it(tree: Path, without_heif: None, warnings: Callable[[], list[str]]) -> None:
    data = read_dataset(tree)
    assert data.counts() == (1, 1, 1)
    assert data.skipped == 1
    assert warnings() == [
        f"{tree}: 3 pictures are not read: 2 .heic (pip install pillow-heif, and they are read); "
        "1 .nef (convert them to .jpg or .png)"
    ]
    found = try_image(tree / "cat/2.HEIC")
    assert isinstance(found, Unreadable)
    assert "pip install pillow-heif" in found.reason
    for name in ("cat", "dog", "cow"):
        (tree / name / "1.png").unlink()
    with pytest.raises(DataError, match=r"holds no pictures that are read: 2 \.heic \(pip install pillow-heif"):
        read_dataset(tree)

"""`promptkit data import`: what other libraries hold becomes an ordinary folder; each set is made with its library."""

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from promptkit.data.layouts import read_dataset
from promptkit.testing import write_images

Command = Callable[..., "Finished"]

NAMES = ["circle", "big star", "a/c"]


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, list[Path]]:
    """Six of each class; one of the first is damaged."""
    folder = write_images(tmp_path / "drawn", ["circle", "star", "cross"], [], per_class=6)
    (folder / "circle/005.png").write_bytes(b"no picture")
    return {
        name: sorted((folder / drawn).iterdir()) for name, drawn in zip(NAMES, ("circle", "star", "cross"), strict=True)
    }


def rows(pictures: dict[str, list[Path]], split: str) -> list[tuple[Path, int, str]]:
    """Picture, label and domain; half of the pictures train."""
    half = slice(0, 3) if split == "train" else slice(3, 6)
    return [
        (path, label, domain)
        for label, paths in enumerate(pictures.values())
        for path, domain in zip(paths[half], ("ink", "oil", "ink"), strict=True)
    ]


@pytest.mark.filterwarnings("ignore")
def test_of_hugging_face(
    pictures: dict[str, list[Path]], promptkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets: Any = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES), "style": datasets.Value("string")}
    made = {}
    for split in ("train", "validation"):
        found = [{"image": str(path), "label": label, "style": style} for path, label, style in rows(pictures, split)]
        if split == "train":
            found.append({"image": str(pictures["circle"][0]), "label": None, "style": "ink"})
        made[split] = datasets.Dataset.from_list(found, features=datasets.Features(kinds))
    datasets.DatasetDict(made).save_to_disk("saved")

    done = promptkit("data", "import", "hf:saved", "out", "--domain", "style")
    assert done.status == 0, done.err
    assert "2 domains, 3 classes, 17 pictures (<domain>/<split>/<class>/<image>)" in done.out
    assert "pictures without a class, left out: 1" in done.out
    assert "1 picture left out: picture 2 of validation (not a picture in a known format" in done.err
    data = read_dataset(tmp_path / "out")
    assert data.classnames == ("a/c", "big star", "circle")
    assert data.domains == ("ink", "oil")
    assert {item.split for item in data.items} == {"train", "val"}
    file = tmp_path / "out/ink/train/big star/000003.png"
    assert file.read_bytes() == pictures["big star"][0].read_bytes()  # as it was

    # Once, and from nowhere else; by words that fit.
    for words, message in (
        (["hf:saved", "out", "--domain", "style"], "out holds all of hf:saved already"),
        (["hf:saved", "out"], "out holds an import of hf:saved with other words"),
        (["hf:saved", "drawn"], "drawn exists already, and no import made it"),
        (["hf:saved", "two", "--label", "lable"], "no column named 'lable'; did you mean 'label'?"),
        (["hf:saved", "two", "--splits", "test"], "no split named 'test'"),
        (["of:saved", "two"], "no source named 'of:saved'"),
        (["hf:drawn/gone.parquet", "two"], "hf:drawn/gone.parquet can't be read"),
    ):
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        done = promptkit("data", "import", *words)
        assert done.status == 2, words
        assert message in done.err
        assert "Traceback" not in done.err
    assert not (tmp_path / "two").exists()


@pytest.mark.filterwarnings("ignore")
def test_it_goes_on_where_it_was_stopped(
    pictures: dict[str, list[Path]], promptkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of shards as CLIP_benchmark lays them out: a folder a split, labels that are numbers, names beside them."""
    webdataset: Any = pytest.importorskip("webdataset")
    for split in ("train", "test"):
        (tmp_path / "shards" / split).mkdir(parents=True)
        with webdataset.ShardWriter(f"{tmp_path}/shards/{split}/%d.tar", maxcount=4, verbose=0) as shards:
            for number, (path, label, _) in enumerate(rows(pictures, split)):
                shards.write({"__key__": f"s{number:04}", "png": path.read_bytes(), "cls": label})
    (tmp_path / "shards/classnames.txt").write_text("\n".join(NAMES) + "\n")

    from promptkit.data.imports import importing

    written: list[Path] = []

    def stopped(target: Path, example: Any, write: Any = importing._write) -> str:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(target)
        return str(write(target, example))

    with monkeypatch.context() as patch:
        patch.setattr(importing, "_write", stopped)
        done = promptkit("data", "import", "wds:shards", "out")
    assert (done.status, "the same command goes on" in done.out) == (130, True)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    assert len(before) == 4  # and a damaged one
    done = promptkit("data", "import", "wds:shards", "out")
    assert done.status == 0, done.err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    data = read_dataset(tmp_path / "out")
    assert data.layout == "3 classes, 17 pictures (<split>/<class>/<image>)"
    assert data.classnames == ("a/c", "big star", "circle")

    # A pattern; and what is wrong with shards.
    done = promptkit("data", "import", "wds:shards/{train,test}/{0..2}.tar", "again", "--splits", "train")
    assert "3 classes, 9 pictures (<class>/<image>)" in done.out, done.err
    assert "its only split, train, is written without a folder: splits are drawn" in done.out
    (tmp_path / "shards/classnames.txt").unlink()
    assert (
        "the labels are numbers, and there is no classnames.txt" in promptkit("data", "import", "wds:shards", "x").err
    )
    (tmp_path / "shards/test/0.tar").write_bytes(b"no shard")
    assert "wds:shards can't be read: " in promptkit("data", "import", "wds:shards", "y").err
    assert "is not on this machine" in promptkit("data", "import", "wds:pipe:cat x", "y").err
    gc.collect()  # the library leaves a damaged shard open


def test_of_torchvision(pictures: dict[str, list[Path]], promptkit: Command, tmp_path: Path) -> None:
    """Data sets that take a folder for theirs, once it is there."""
    for split, spelt in (("train", "train"), ("val", "valid"), ("test", "test")):
        for path, label, _ in rows(pictures, split):
            target = tmp_path / "originals/country211" / spelt / NAMES[label].replace("/", "") / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    done = promptkit("data", "import", "torchvision:country211", "out", "--root", "originals")
    assert done.status == 0, done.err
    assert "3 classes, 25 pictures (<split>/<class>/<image>)" in done.out
    assert "2 pictures left out: picture 8 of val" in done.err
    assert {item.split for item in read_dataset(tmp_path / "out").items} == {"train", "val", "test"}
    for path in (tmp_path / "originals/country211/train").rglob("*.png"):
        target = tmp_path / "originals/eurosat/2750" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).convert("CMYK").save(target.with_suffix(".jpg"))
    done = promptkit("data", "import", "torchvision:EuroSAT", "two", "--root", "originals")
    assert "3 classes, 9 pictures (<class>/<image>)" in done.out, done.err
    done = promptkit("data", "import", "torchvision:DTDD", "three")
    assert "no data set of torchvision named 'DTDD'; did you mean 'DTD'?" in done.err


def test_the_record_is_of_the_folder(pictures: dict[str, list[Path]], tmp_path: Path) -> None:
    """Names that no file system takes, or that differ in their case alone, have folders of their own."""
    from promptkit.data.imports.importing import _folder_name

    places: dict[str, str] = {}
    names = ["Cat", "cat", "a/c", "a:c", ".hidden", "..", "con?"]
    assert [_folder_name(name, places) for name in names] == ["Cat", "cat 2", "a-c", "a-c 2", "hidden", "class", "con-"]
    assert json.loads(json.dumps(places)) == places

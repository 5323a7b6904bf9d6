"""`promptkit predict`, `eval --keep` and `promptkit.load`, as a user meets them."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import promptkit as package
from promptkit.testing import write_images

Command = Callable[..., "Finished"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """CoOp after an epoch on the tiny backbone."""
    from rich.console import Console

    from promptkit.config import resolve
    from promptkit.registry import installed
    from promptkit.training.run import Run

    out = tmp_path_factory.mktemp("runs") / "coop"
    flags = {"data.path": str(images), "backbone.name": "tiny", "backbone.weights": "none", "train.epochs": 1}
    config = resolve(installed(), "coop", None, [], {**flags, "data.shots": 2, "train.workers": 0})
    Run(config, out, registry=installed()).train(Console(quiet=True), lines=False)
    return out


def test_pictures_of_every_kind_are_predicted_and_written(
    promptkit: Command, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "new", ["circle", "star"], [], per_class=3)
    Image.new("RGBA", (90, 41)).save(tmp_path / "new" / "clear.png")
    Image.fromarray(np.full((8, 9), 60000, np.uint16)).save(tmp_path / "grey.tif")
    (tmp_path / "new" / "broken.jpg").write_bytes(b"not a picture")
    (tmp_path / "new" / "notes.txt").write_text("no picture")
    monkeypatch.setattr("sys.stdin", io.StringIO("grey.tif\n"))
    done = promptkit("predict", run, "new/star", "new/*.png", "new/broken.jpg", "new", "-", "--topk", 2)
    assert done.status == 0, done.err
    lines = [line.split("\t") for line in done.out.splitlines()]
    stars, circles = ([f"new/{name}/{number:03}.png" for number in range(3)] for name in ("star", "circle"))
    assert [line[0] for line in lines] == [*stars, "new/clear.png", *circles, "grey.tif"]  # each once
    assert all(len(line) == 5 and float(line[2]) >= float(line[4]) for line in lines)
    assert "1 picture left out: new/broken.jpg (not a picture in a known format" in done.err

    classifier = package.load(run, device="cpu")
    assert [answer["label"] for answer in classifier("grey.tif", topk=2)] == lines[-1][1::2]
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        assert promptkit("predict", run, "new/star", "--out", name).out == f"3 pictures in {name}\n"
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    answers = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    table = pq.read_table(tmp_path / "a.parquet").to_pylist()
    for row, answer, record, expected in zip(rows, answers, table, map(classifier, stars), strict=True):
        assert row["path"] == answer["path"] == record["path"]
        labels = [one["label"] for one in expected]
        assert [row["label"], row["label_2"]] == labels[:2]
        assert [one["label"] for one in answer["answers"]] == record["likeliest"] == labels
        assert record["probabilities"] == pytest.approx([one["score"] for one in expected], abs=1e-5)


def test_other_classes_are_asked_about(promptkit: Command, run: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\n\nsnow leopard\n")
    for classes, names in (("cat, dog", {"cat", "dog"}), ("names.txt", {"cat", "snow leopard"})):
        done = promptkit("predict", run, images / "photo/star/000.png", "--classes", classes)
        assert set(done.out.strip().split("\t")[1::2]) == names, done.err


def test_python_takes_what_people_have(run: Path, images: Path) -> None:
    classifier = package.load(run, classnames=["star", "moon", "circle"], device="cpu")
    path = images / "photo/star/000.png"
    alone = classifier(path)
    assert {answer["label"] for answer in alone} == set(classifier.classnames)
    scores = [answer["score"] for answer in alone]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1)
    picture = Image.open(path)
    together = classifier([str(path), picture, np.asarray(picture), picture.convert("RGBA")])
    for answers in together:
        assert [one["label"] for one in answers] == [one["label"] for one in alone]
        assert [one["score"] for one in answers] == pytest.approx(scores, abs=1e-5)
    grey = np.asarray(picture.convert("L"))
    assert (classifier.preprocess(grey) == classifier.preprocess(picture.convert("L"))).all()
    assert classifier.preprocess(path).shape == (3, 32, 32)
    assert classifier([]) == []
    for wrong in (grey.astype(float), np.zeros((3, 32, 32), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(package.DataError, match="is no picture"):
            classifier(wrong)


def test_a_recipe_that_trains_nothing_answers_without_a_run(promptkit: Command, images: Path, tmp_path: Path) -> None:
    photo, own = images / "photo/star/000.png", ("--backbone", "tiny", "--weights", "none")
    assert promptkit("train", "zeroshot", "--data", images, *own, "--out", "run").status == 0
    asked = (photo, "--classes", "star,snow leopard")
    done = promptkit("predict", "zeroshot", *asked, *own)
    assert done.status == 0, done.err
    assert done.out == promptkit("predict", "run", *asked).out
    done = promptkit("explain", "zeroshot", "--picture", photo, *asked[1:], *own)
    assert done.status == 0, done.err
    with pytest.raises(package.ConfigError, match="coop has to be trained before it can answer"):
        package.load("coop", ["star", "moon"])
    done = promptkit("predict", "zeroshot", photo, *own)
    assert (done.status, "hint:  such as: --classes cat,dog" in done.err) == (2, True)
    (tmp_path / "zeroshot").mkdir()  # a folder of the name is meant
    assert "zeroshot holds no run" in promptkit("predict", "zeroshot", *asked, *own).err


def test_what_was_answered_is_kept(promptkit: Command, run: Path, images: Path, tmp_path: Path) -> None:
    from promptkit.runs.records import read_records

    assert read_records(run) == []
    done = promptkit("eval", run, "--keep", "--json", "figures.json", "--batch-size", 5)
    assert done.status == 0, done.err
    assert f"kept {run}/records/" in done.out
    figures = json.loads((tmp_path / "figures.json").read_text())["runs"]["coop"]
    records = {record.domain: record for record in read_records(run)}
    assert records.keys() == figures.keys() == {"cartoon", "photo"}
    classifier = package.load(run, device="cpu")
    for domain, record in records.items():
        rows = record.table.to_pylist()
        assert len(rows) == figures[domain]["n"]
        right = [row["likeliest"][0] == row["label"] for row in rows]
        assert sum(right) / len(rows) == pytest.approx(figures[domain]["accuracy"])
        for row in rows:
            assert row["path"].startswith(f"{domain}/{row['label']}/")
        answer = classifier(images / rows[0]["path"])
        assert rows[0]["likeliest"] == [one["label"] for one in answer]
        assert rows[0]["probabilities"] == pytest.approx([one["score"] for one in answer], abs=1e-5)


def test_answers_of_another_learner_are_left_out_and_a_damaged_file_is_named(
    promptkit: Command, run: Path, tmp_path: Path
) -> None:
    from promptkit.runs.records import read_records

    shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns("records"))
    assert promptkit("eval", "copy", "--keep").status == 0
    weights = tmp_path / "copy/learner.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before + b"\0")
    assert read_records(tmp_path / "copy") == []
    weights.write_bytes(before)
    assert len(read_records(tmp_path / "copy")) == 2
    (file, *_) = (tmp_path / "copy/records").rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(package.CheckpointError, match="is no record of answers"):
        read_records(tmp_path / "copy")


def test_bad_input_has_one_clear_message(promptkit: Command, run: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jpg").touch()
    photo = images / "photo/star/000.png"
    for words, message in (
        (["nowhere", photo], "nowhere holds no run"),
        ([run, "empty"], "empty holds no pictures"),
        ([run, "bad.jpg"], "not one of the pictures could be read"),
        ([run, "bad.jpg", "--strict"], "bad.jpg can't be read: the file is empty"),
        ([run, "bad.jpeg"], "no picture or folder bad.jpeg; did you mean 'bad.jpg'?"),
        ([run, "*.gif"], "no file matches *.gif"),
        ([run, photo, "--out", "a.xls"], "no format named '.xls'"),
        ([run, photo, "--out", "nowhere/a.csv"], "nowhere/a.csv can't be written: No such file or directory"),
        ([run, photo, "--classes", "cat"], "two or more classes are needed"),
        ([run, photo, "--classes", "cat,cat,dog"], "cat is there twice"),
        ([run, photo, "--classes", "gone.txt"], "--classes gone.txt can't be read"),
        ([run, photo, "--backbone", "demo"], "was trained on tiny"),
    ):
        done = promptkit("predict", *words)
        assert done.status == 2, words
        assert message in done.err
        assert "Traceback" not in done.err

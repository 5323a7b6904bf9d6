"""Manifests as anybody could write them: rows, or one error that names the line."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptkit.data.layouts import read_dataset
from promptkit.data.manifests import read_manifest
from promptkit.errors import DataError
from promptkit.testing import write_images

values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), st.lists(st.integers(), max_size=2),
    st.sampled_from(["a.png", "b.png", "../a.png", "/dev/null", "train", "\x00", "x" * 5000, "\ud800"]),
)  # fmt: skip
columns = st.sampled_from(["path", "label", "domain", "split", " path", "PATH", "", "more"])
objects = st.dictionaries(columns, values, max_size=5).map(json.dumps)
lines = objects | st.sampled_from(
    ["[" * 100_000, "9" * 10_000, "null", "[]", '{"path": 1' + 400 * "0" + "}", "\x00", "NaN"]
)
cells = st.text(max_size=6) | st.sampled_from(
    ["a.png", "b.png", "/dev/null", "train", '"', '"a\nb"', "\x00", "x" * 5000]
)
tables = st.lists(st.lists(cells, max_size=5).map(",".join), max_size=4).map("\n".join)


def check(content: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.png", "b.png"):
            (Path(folder) / name).touch()
        manifest = Path(folder) / f"manifest{suffix}"
        manifest.write_bytes(content)
        rows, said = [], ""
        try:
            rows = read_manifest(manifest)
        except DataError as error:
            said = error.message
        assert bool(rows) != (str(manifest) in said)
        for row in rows:
            assert os.path.isfile(row.path)
            assert row.folder.encode()
            assert row.split in (None, "train", "val", "test")


def encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


@given(st.lists(lines, max_size=4).map("\n".join).map(encoded) | st.binary(max_size=80))
def test_any_json_lines_are_rows_or_one_error(content: bytes) -> None:
    check(content, ".jsonl")


@given(
    st.tuples(st.sampled_from(["path,label", "path,label,domain,split", "label, path ", "path,path,label", ""]), tables)
    .map("\n".join)
    .map(encoded)
    | st.binary(max_size=80)
)
def test_any_table_is_rows_or_one_error(content: bytes) -> None:
    check(content, ".csv")


@pytest.mark.parametrize(
    "line",
    ["[" * 100_000, '{"path": "a.png", "label": ' + "9" * 10_000 + "}", '{"path": "a.png", "label": "\\ud800"}', "nul"],
)
def test_what_is_no_json_names_its_line(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "m.jsonl").write_text(line)
    with pytest.raises(DataError, match=r"m\.jsonl, line 1: not JSON"):
        read_manifest(tmp_path / "m.jsonl")


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "huge"])
def test_what_is_no_file_does_not_hang(kind: str, no_file: Callable[[Path, str], Path], tmp_path: Path) -> None:
    path = no_file(tmp_path / "m.csv", kind)
    with pytest.raises(DataError, match=r"m\.csv can't be read"):
        read_manifest(path)


@pytest.mark.parametrize("content", ["[" * 100_000, "9" * 10_000, '{"a": "x", "a": "y"}', '{"a": 1}', "nul", "3"])
def test_class_names_that_are_no_json_are_one_error(content: str, tmp_path: Path) -> None:
    write_images(tmp_path, domains=(), per_class=1)
    (tmp_path / "classnames.json").write_text(content)
    with pytest.raises(DataError, match=r"classnames\.json"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", "path,label, label\na.png,x,y\n", "m.csv has two columns label"),
        ("m.jsonl", '{"path": "a.png", "label": "x", "label": "y"}', "line 1: not JSON: a key occurs twice"),
        ("m.jsonl", '{"path": "a.png", "label": "x", " label": "y"}', "line 1: a key occurs twice, but for blanks"),
        ("m.jsonl", '{"path": "a.png", "label": 3}', "line 1: label is 3, expected a text"),
        ("m.jsonl", '{"path": "a.png", "label": ["x"]}', r"line 1: label is \['x'\], expected a text"),
        ("m.jsonl", '{"path": "a.png", "label": "x", "split": true}', "line 1: split is True, expected a text"),
        ("m.csv", "path,label\na.png,x\nsub/../a.png,y\n", r"line 3: sub/\.\./a.png is in line 2 already"),
        ("m.csv", "path,label\na.png,x\nlinked/a.png,y\n", "line 3: linked/a.png is in line 2 already"),
    ],
)
def test_what_could_be_read_in_two_ways_is_an_error(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path / name)


def test_two_files_of_one_content_are_two_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    os.link(tmp_path / "a.png", tmp_path / "b.png")
    (tmp_path / "m.csv").write_text("path,label\na.png,x\nb.png,y\n")
    assert len(read_manifest(tmp_path / "m.csv")) == 2

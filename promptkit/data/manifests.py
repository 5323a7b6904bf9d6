"""A manifest (*.csv, *.jsonl with the columns path, label and optionally domain, split) -> rows."""

import csv
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from promptkit.errors import DataError
from promptkit.files import plain_json, regular_file

SUFFIXES = (".csv", ".jsonl")
COLUMNS = ("path", "label", "domain", "split")
MAX_MANIFEST = 2**30
"""Bytes."""
SPLITS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "crossval": "val", "test": "test"}
"""How a split may be called, in folders and manifests -> what we call it."""


class Row(NamedTuple):
    """A picture before the classes have numbers. `folder` is its class folder, or the label in a manifest."""

    path: Path
    folder: str
    domain: str = ""
    split: str | None = None


def read_manifest(manifest: Path) -> list[Row]:
    """The pictures that a manifest lists, in its order; their paths are relative to it.

    Raises DataError, naming the line, for a row without path or label, a picture that isn't there or is listed twice,
    however its path is spelt, a split of another name, and rows of which only some have a domain or a split.
    """
    rows: list[Row] = []
    line_of: dict[tuple[int, int], tuple[int, Path]] = {}
    has: dict[str, bool] = {}
    for line, fields in _records(manifest):
        where = f"{manifest}, line {line}"
        for column in ("path", "label"):
            if not fields.get(column):
                raise DataError(f"{where}: no {column}", "every picture needs a path and a label")
        for column in ("domain", "split"):
            if has.setdefault(column, bool(fields.get(column))) != bool(fields.get(column)):
                raise DataError(f"{where}: some pictures have a {column} and some have none")
        split = fields.get("split")
        if split and split.lower() not in SPLITS:
            raise DataError(f"{where}: split {split!r} is none of {', '.join(SPLITS)}")
        path = manifest.parent / fields["path"]
        file = _file(path)
        if file is None:
            raise DataError(f"{where}: no file {path}", "paths are relative to the manifest")
        before, other = line_of.setdefault(file, (line, path))
        # Two hard links are two pictures.
        if before != line and os.path.realpath(path) == os.path.realpath(other):
            raise DataError(f"{where}: {fields['path']} is in line {before} already")
        rows.append(Row(path, fields["label"], fields.get("domain", ""), SPLITS[split.lower()] if split else None))
    if not rows:
        raise DataError(f"{manifest} lists no pictures")
    return rows


def _file(path: Path) -> tuple[int, int] | None:
    """What the system knows a file by, None where there is none."""
    try:
        info = path.stat()
    except (OSError, ValueError):
        return None
    return (info.st_dev, info.st_ino) if stat.S_ISREG(info.st_mode) else None


def _records(manifest: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and fields, without the blanks around names and values."""
    records = _csv_records if manifest.suffix.lower() == ".csv" else _json_records
    try:
        regular_file(manifest, MAX_MANIFEST)
        yield from records(manifest)
    except (csv.Error, OSError, UnicodeError) as error:
        raise DataError(f"{manifest} can't be read: {error}") from error


def _csv_records(manifest: Path) -> Iterator[tuple[int, dict[str, str]]]:
    with manifest.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restval="")
        columns = [name.strip() for name in reader.fieldnames or ()]
        if twice := {name for name in columns if name and columns.count(name) > 1}:
            raise DataError(
                f"{manifest} has two columns {', '.join(sorted(twice))}", "the first line names the columns"
            )
        lacking = [name for name in ("path", "label") if name not in columns]
        if lacking:
            raise DataError(f"{manifest} has no column {', '.join(lacking)}", "the first line names the columns")
        for fields in reader:
            if None in fields:
                raise DataError(
                    f"{manifest}, line {reader.line_num}: more fields than columns",
                    "a comma inside a field needs quotes around the field",
                )
            yield reader.line_num, {name.strip(): value.strip() for name, value in fields.items()}


def _json_records(manifest: Path) -> Iterator[tuple[int, dict[str, str]]]:
    with manifest.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                record = plain_json(text)
                json.dumps(record, ensure_ascii=False).encode()  # "\ud800" is half a character
            except (ValueError, RecursionError) as error:
                raise DataError(f"{manifest}, line {line}: not JSON: {error}") from error
            if not isinstance(record, dict):
                raise DataError(f"{manifest}, line {line}: not a JSON object")
            fields = {name.strip(): value for name, value in record.items()}
            if len(fields) < len(record):
                raise DataError(f"{manifest}, line {line}: a key occurs twice, but for blanks")
            for name in COLUMNS:
                if not isinstance(fields.get(name), str | None):
                    raise DataError(f"{manifest}, line {line}: {name} is {fields[name]!r:.80}, expected a text")
            yield line, {name: (fields.get(name) or "").strip() for name in COLUMNS}

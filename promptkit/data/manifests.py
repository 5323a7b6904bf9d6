"""A manifest (*.csv, *.jsonl with the columns path, label and optionally domain, split) -> rows."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from promptkit.errors import DataError
from promptkit.files import regular_file

SUFFIXES = (".csv", ".jsonl")
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
    a split of another name, and rows of which only some have a domain or a split.
    """
    rows: list[Row] = []
    line_of: dict[Path, int] = {}
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
        if not os.path.isfile(path):  # unlike Path.is_file, never raises
            raise DataError(f"{where}: no file {path}", "paths are relative to the manifest")
        if line_of.setdefault(path, line) != line:
            raise DataError(f"{where}: {fields['path']} is in line {line_of[path]} already")
        rows.append(Row(path, fields["label"], fields.get("domain", ""), SPLITS[split.lower()] if split else None))
    if not rows:
        raise DataError(f"{manifest} lists no pictures")
    return rows


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
        lacking = [name for name in ("path", "label") if name not in map(str.strip, reader.fieldnames or ())]
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
                record = json.loads(text)
                json.dumps(record, ensure_ascii=False).encode()  # "\ud800" is half a character
            except (ValueError, RecursionError) as error:
                raise DataError(f"{manifest}, line {line}: not JSON: {error}") from error
            if not isinstance(record, dict):
                raise DataError(f"{manifest}, line {line}: not a JSON object")
            yield line, {name: "" if value is None else str(value).strip() for name, value in record.items()}

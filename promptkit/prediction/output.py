"""Answers as a file: CSV, JSON lines or Parquet, whole or not at all."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from promptkit.errors import UnknownNameError
from promptkit.files import FOR_OUT, replacing
from promptkit.prediction.classifier import Answer
from promptkit.runs.records import write_table

Answers = Mapping[Path, Sequence[Answer]]


def _write_csv(path: Path, answers: Answers) -> None:
    """path, label, score, label_2, score_2, ..."""
    most = max(map(len, answers.values()), default=1)
    head = ["path", "label", "score"]
    for place in range(2, most + 1):
        head += [f"label_{place}", f"score_{place}"]
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        for picture, said in answers.items():
            writer.writerow([picture, *(cell for one in said for cell in (one["label"], f"{one['score']:.6f}"))])


def _write_jsonl(path: Path, answers: Answers) -> None:
    """{"path": ..., "answers": [{"label": ..., "score": ...}, ...]}"""
    with path.open("w", encoding="utf-8") as file:
        for picture, said in answers.items():
            file.write(json.dumps({"path": str(picture), "answers": said}) + "\n")


def _write_parquet(path: Path, answers: Answers) -> None:
    """path, likeliest, probabilities: the columns of a run's records."""
    likeliest = np.array([[one["label"] for one in said] for said in answers.values()], object)
    probabilities = np.array([[one["score"] for one in said] for said in answers.values()], np.float32)
    write_table(path, (list(map(str, answers)), None, None, likeliest, probabilities), {})


FORMATS: Mapping[str, Callable[[Path, Answers], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}


def check_format(path: Path) -> None:
    """Raises UnknownNameError for a file that is none of FORMATS."""
    if path.suffix.lower() not in FORMATS:
        raise UnknownNameError("format", path.suffix or path.name, FORMATS, f"--out FILE ends in {', '.join(FORMATS)}")


def write_answers(path: Path, answers: Answers) -> None:
    """Raises OutputError when the file can't be written."""
    with replacing(path, FOR_OUT) as fresh:
        FORMATS[path.suffix.lower()](fresh, answers)

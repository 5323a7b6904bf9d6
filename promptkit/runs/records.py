"""What a run answered, picture by picture: a Parquet file for each data set and domain, in the run's folder.

    RUN/records/<data set>, <split>, <classes>/<domain>.parquet

    path           below the data's folder, or whole where the picture lies elsewhere
    domain         "all" where the data has none
    label          the class of the picture, null where none is known
    likeliest      the likeliest classes, best first: five, or all where there are fewer
    probabilities  theirs, out of all classes that were asked about

What the answers are of stands in the file's metadata, under "promptkit" (`About`). A file is there whole or not at all.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from promptkit.data.layouts import Dataset
from promptkit.errors import CheckpointError
from promptkit.files import checked_json, replacing, writing
from promptkit.metrics import Predictions
from promptkit.runs.checkpoint import WEIGHTS, read_metadata

if TYPE_CHECKING:
    import pyarrow

log = logging.getLogger("promptkit")

RECORDS = "records"
ROWS = 65_536
"""That are made at a time, however many pictures there are."""
COLUMNS = ("path", "domain", "label", "likeliest", "probabilities")
_KEY = b"promptkit"
_HINT = "make room, or leave the records out"


@dataclass(frozen=True)
class About:
    """What answers are of."""

    dataset: str
    """In the catalogue, or the folder's name."""
    split: str
    classes: str
    """all, base, new, ...: the choice of classes."""
    data: str
    """The folder that paths are below."""
    classnames: tuple[str, ...]
    """Those that were asked about."""
    learner: str
    """The checksum of what was learned; see `learner_checksum`."""
    packages: dict[str, str]
    """What the run was made with; see `promptkit.runs.packages`."""

    @property
    def asked(self) -> tuple[str, str, str]:
        """What two runs have to share to be compared picture by picture."""
        return self.dataset, self.split, self.classes


@dataclass(frozen=True, eq=False)
class Record:
    """The answers of one run on one domain."""

    domain: str
    about: About
    table: "pyarrow.Table"
    written: float
    """When, as `time.time` counts."""


def learner_checksum(run: Path) -> str:
    """sha256 of a run's tensors: what a folder answered before it was trained again are not its answers."""
    with (run / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_records(
    run: Path,
    dataset: Dataset,
    asked: tuple[str, str, str],
    classnames: tuple[str, ...],
    answers: Mapping[str, Predictions],
) -> Path:
    """Write what a run answered, in the place of what it answered about the same before.

    Args:
        run: Its folder.
        dataset: Whose names the labels are.
        asked: The name of the data, and the choice of its split and classes: `About.asked`.
        classnames: That were asked about.
        answers: By domain; `index` counts the pictures as `Dataset.by_domain` has them.

    Returns:
        The folder of the files.

    Raises OutputError when they can't be written.
    """
    about = About(*asked, str(dataset.root.absolute()), classnames, learner_checksum(run), read_metadata(run).packages)
    folder = run / RECORDS / quote(", ".join(asked), safe=" ,")
    with writing(folder, _HINT):
        folder.mkdir(parents=True, exist_ok=True)
    items = dataset.by_domain()
    for domain, answered in answers.items():
        kept = [items[domain][place] for place in answered.index.tolist()]
        columns = (
            [dataset.relative(item) for item in kept],
            [domain] * len(kept),
            [dataset.classnames[item.label] if item.label >= 0 else None for item in kept],
            np.array(classnames, object)[answered.likeliest.numpy()],
            answered.probabilities.numpy(),
        )
        with replacing(folder / f"{quote(domain, safe=' ')}.parquet", _HINT) as fresh:
            write_table(fresh, columns, asdict(about))
    return folder


def write_table(path: Path, columns: Sequence[Any], about: dict[str, Any]) -> None:
    """The columns, COLUMNS without those that are None, as a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = dict.fromkeys(COLUMNS, pa.string()) | {
        "likeliest": pa.list_(pa.string()),
        "probabilities": pa.list_(pa.float32()),
    }
    # A name that is no text is kept as it can be spelt.
    columns = [[path.encode(errors="backslashreplace").decode() for path in columns[0]], *columns[1:]]
    filled = {name: column for name, column in zip(COLUMNS, columns, strict=True) if column is not None}
    schema = pa.schema([(name, kinds[name]) for name in filled], metadata={_KEY: json.dumps(about)})
    rows = len(columns[0])
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, rows, ROWS):
            some = {name: _array(column[first : first + ROWS], kinds[name]) for name, column in filled.items()}
            writer.write_table(pa.table(some, schema=schema))


def _array(column: Any, kind: Any) -> Any:
    import pyarrow as pa

    if not isinstance(column, np.ndarray):
        return pa.array(column, kind)
    ends = np.arange(len(column) + 1, dtype=np.int32) * column.shape[1]
    return pa.ListArray.from_arrays(ends, pa.array(column.ravel(), kind.value_type))


def read_records(run: Path) -> list[Record]:
    """The answers that a run's folder holds. Those of another learner, trained there before, cause a warning.

    Raises CheckpointError for a file that is no record.
    """
    found = [_read(path) for path in sorted((run / RECORDS).glob("*/*.parquet"))]
    now = learner_checksum(run) if found else ""
    if stale := [record for record in found if record.about.learner != now]:
        log.warning("%s: %d records are of a learner that was there before; left out", run, len(stale))
    return [record for record in found if record.about.learner == now]


def _read(path: Path) -> Record:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, partitioning=None)
        about = checked_json(About, table.schema.metadata[_KEY])
        if list(table.column_names) != list(COLUMNS):
            raise ValueError("its columns are other ones")
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise CheckpointError(f"{path} is no record of answers: {error}", "eval --keep writes it again") from None
    domains = table["domain"].unique().to_pylist()
    return Record(domains[0] if domains else "", about, table, path.stat().st_mtime)

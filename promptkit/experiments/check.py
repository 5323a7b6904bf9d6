"""Were the rows of one table made with the same packages, weights and pictures?"""

from collections.abc import Iterator

import pandas

from promptkit.experiments.formats import Table
from promptkit.experiments.frame import results_frame
from promptkit.experiments.summary import Summary

ROWS = {
    "learner": "learner",
    "title": "data set",
    "domain": "domain",
    "classes": "classes",
    "shots": "shots",
    "seed": "seed",
}
"""What a row of results is called by, and the name of it."""


def made_with(summary: Summary) -> Table:
    """What some results of a summary were made with and others with something else: a row for each of the values.

    A package is compared wherever it was used; weights are, of one backbone; pictures, where they ought to be the same. No
    rows: all were made with the same.
    """
    labels = [label for label, results in summary.results.items() for _ in results]
    frame = results_frame([result for results in summary.results.values() for result in results]).assign(learner=labels)
    rows = [row for what, column, same in _compared(frame) for row in _different(frame, what, column, same)]
    title = f"{summary.title}: made with different " + ", ".join(dict.fromkeys(what for what, *_ in rows))
    if not rows:
        title = f"{summary.title}: all {len(frame)} results were made with the same packages, weights and pictures"
    return Table(title, ("made with", "which", *ROWS.values(), "results"), tuple(rows), 2)


def _compared(frame: pandas.DataFrame) -> Iterator[tuple[str, str, list[str]]]:
    """What is compared, the column that it stands in, and the columns within whose values it ought to be the same."""
    for column in sorted(column for column in frame if str(column).startswith("packages.")):
        yield column.removeprefix("packages."), column, []
    yield "weights", "fingerprint", ["backbone", "weights"]
    # What a run was trained on depends on what it is tested on in one protocol alone.
    left_out = ["domain"] if frame["protocol"].iloc[0] in ("leave-one-domain-out", "domain-adaptation") else []
    trained = ["source"] if frame["source"].iloc[0] else ["dataset", "title", "split"]
    yield "training pictures", "trained_on", [*trained, *left_out, "shots", "seed"]
    yield "test pictures", "tested_on", ["dataset", "title", "split", "domain", "classes"]


def _different(frame: pandas.DataFrame, what: str, column: str, same: list[str]) -> Iterator[tuple[str, ...]]:
    groups = [group for _, group in frame.groupby(same)] if same else [frame]
    for group in groups:
        if group[column].nunique() > 1:
            for value, part in group.groupby(column):
                about = (_listed(part[name], group[name]) for name in ROWS)
                yield (what, str(value) if column.startswith("packages.") else str(value)[:16], *about, str(len(part)))


def _listed(values: pandas.Series, among: pandas.Series) -> str:
    """The values, or "all" where there are several and none is missing."""
    found = sorted(values.unique())
    return "all" if 1 < len(found) == among.nunique() else ", ".join(map(str, found))

"""The tables of a summary, as texts: learners side by side, all statistics, and two learners compared."""

from collections.abc import Sequence
from dataclasses import dataclass

from promptkit.bench.published import published_figure
from promptkit.bench.statistics import Statistic, statistic
from promptkit.bench.summary import Row, Summary
from promptkit.errors import DataError, UnknownNameError


@dataclass(frozen=True)
class Table:
    """The first `labels` columns say what a row is about, the others hold numbers; `best` marks (row, column)."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int
    best: frozenset[tuple[int, int]] = frozenset()

    def trimmed(self) -> "Table":
        """Without the columns that are empty."""
        kept = [number for number in range(len(self.columns)) if any(row[number] for row in self.rows)]
        return Table(
            self.title,
            tuple(self.columns[number] for number in kept),
            tuple(tuple(row[number] for number in kept) for row in self.rows),
            sum(number < self.labels for number in kept),
            frozenset((row, kept.index(column)) for row, column in self.best),
        )


def side_by_side(summary: Summary) -> Table:
    """A column for each learner: mean ± standard deviation over seeds, in per cent."""
    learners = list(summary.results)
    rows: list[tuple[str, ...]] = []
    best: set[tuple[int, int]] = set()
    for row, statistics in summary.statistics.items():
        best |= {(len(rows), 3 + learners.index(learner)) for learner in summary.best(row)}
        rows.append((*_about(row), *(_mean_and_sd(statistics.get(learner)) for learner in learners)))
    title = f"{summary.title}: mean ± standard deviation over seeds, %"
    return Table(title, ("data set", "domain", "figure", *learners), tuple(rows), 3, frozenset(best))


def all_statistics(summary: Summary) -> Table:
    """A row for each learner and figure, in per cent, with what is published."""
    columns = (
        "data set",
        "domain",
        "figure",
        "learner",
        "mean",
        "sd",
        "95 % from",
        "to",
        "seeds",
        "published",
        "difference",
    )
    rows: list[tuple[str, ...]] = []
    best: set[tuple[int, int]] = set()
    for row, statistics in summary.statistics.items():
        for learner, found in statistics.items():
            if learner in summary.best(row):
                best.add((len(rows), 4))
            known = published_figure(summary, row, learner)
            beside = ("", "") if known is None else (f"{known:.2f}", f"{found.mean - known:+.2f}")
            rows.append((*_about(row), learner, *_texts(found), str(found.n), *beside))
    return Table(f"{summary.title}: statistics over seeds, %", columns, tuple(rows), 4, frozenset(best))


def comparisons(summaries: Sequence[Summary], first: str, second: str) -> list[Table]:
    """The differences of two learners, in every summary that has both, paired by data set and seed.

    Where tables name a learner with its shots or its backbone, those of the same are compared. Domains are averaged and
    the source of a transfer is left out before. Raises UnknownNameError for a learner without results, DataError when
    the two have no data set and seed in common.
    """
    known = {name: result.learner for summary in summaries for name, (result, *_) in summary.results.items()}
    for learner in (first, second):
        if learner not in known and learner not in known.values():
            there = sorted({*known.values()})
            raise UnknownNameError("learner", learner, there, f"with results: {', '.join(there)}")
    found = [
        _comparison(summary, name, second + name.removeprefix(first))
        for summary in summaries
        for name in summary.results
        if f"{name} ".startswith(f"{first} ") and second + name.removeprefix(first) in summary.results
    ]
    tables = [table for table in found if table.rows]
    if not tables:
        raise DataError(f"{first} and {second} have no data set and seed in common")
    return tables


def _comparison(summary: Summary, first: str, second: str) -> Table:
    rows = []
    figures = dict.fromkeys(row.figure for row in summary.series)
    for figure in figures:
        pairs = [
            (series[first][seed], series[second][seed])
            for dataset in summary.whole
            for series in [summary.over_domains(dataset, figure)]
            for seed in series.get(first, {}).keys() & series.get(second, {}).keys()
        ]
        if pairs:
            differences = [one - other for one, other in pairs]
            better = [x if summary.metric.higher_is_better else -x for x in (round(x, 9) for x in differences)]
            counts = sum(x > 0 for x in better), sum(x == 0 for x in better), sum(x < 0 for x in better)
            rows.append((figure, *_texts(statistic(differences), "+"), *map(str, counts), str(len(pairs))))
    columns = ("figure", "mean", "sd", "95 % from", "to", "wins", "ties", "losses", "pairs")
    return Table(f"{summary.title}: {first} less {second}, paired by data set and seed, %", columns, tuple(rows), 1)


def _about(row: Row) -> tuple[str, str, str]:
    return row.dataset, row.domain if row.domain != "all" else "", row.figure


def _mean_and_sd(found: Statistic | None) -> str:
    if found is None:
        return ""
    return f"{found.mean:.2f}" if found.sd is None else f"{found.mean:.2f} ± {found.sd:.2f}"


def _texts(found: Statistic, sign: str = "") -> tuple[str, str, str, str]:
    """Mean, standard deviation and both ends of the interval."""
    mean = f"{found.mean:{sign}.2f}"
    if found.sd is None or found.half_width is None:
        return mean, "", "", ""
    ends = found.mean - found.half_width, found.mean + found.half_width
    return mean, f"{found.sd:.2f}", *(f"{end:{sign}.2f}" for end in ends)  # type: ignore[return-value]

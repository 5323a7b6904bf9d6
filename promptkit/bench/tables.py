"""The tables of a summary, as texts: learners side by side, all statistics, and two learners compared."""

from collections.abc import Sequence

from promptkit.bench.formats import Table
from promptkit.bench.published import published_figure
from promptkit.bench.statistics import FEWEST, Statistic, statistic
from promptkit.bench.summary import Row, Summary
from promptkit.errors import DataError, UnknownNameError


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
    fewest = min(found.n for statistics in summary.statistics.values() for found in statistics.values())
    for row, statistics in summary.statistics.items():
        for learner, found in statistics.items():
            if learner in summary.best(row):
                best.add((len(rows), 4))
            known = published_figure(summary, row, learner)
            beside = ("", "") if known is None else (f"{known:.2f}", f"{found.mean - known:+.2f}")
            rows.append((*_about(row), learner, *_texts(found, (0, 100)), str(found.n), *beside))
    title = f"{summary.title}: statistics over seeds, %{_why_none(fewest)}"
    return Table(title, columns, tuple(rows), 4, frozenset(best))


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
    fewest = FEWEST
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
            fewest = min(fewest, len(pairs))
            rows.append((figure, *_texts(statistic(differences), (-100, 100), "+"), *map(str, counts), str(len(pairs))))
    columns = ("figure", "mean", "sd", "95 % from", "to", "wins", "ties", "losses", "pairs")
    about = f"{first} less {second}, paired by data set and seed, %{_why_none(fewest, 'pairs')}"
    return Table(f"{summary.title}: {about}", columns, tuple(rows), 1)


def _about(row: Row) -> tuple[str, str, str]:
    return row.dataset, row.domain if row.domain != "all" else "", row.figure


def _mean_and_sd(found: Statistic | None) -> str:
    if found is None:
        return ""
    return f"{found.mean:.2f}" if found.sd is None else f"{found.mean:.2f} ± {found.sd:.2f}"


def _texts(found: Statistic, bounds: tuple[float, float], sign: str = "") -> tuple[str, str, str, str]:
    """Mean, standard deviation and both ends of the interval, which lie within what the figure can be."""
    texts = [f"{found.mean:{sign}.2f}", "" if found.sd is None else f"{found.sd:.2f}", "", ""]
    if found.half_width is not None:
        low, high = bounds
        texts[2] = f"{max(low, found.mean - found.half_width):{sign}.2f}"
        texts[3] = f"{min(high, found.mean + found.half_width):{sign}.2f}"
    return texts[0], texts[1], texts[2], texts[3]


def _why_none(fewest: int, what: str = "seeds") -> str:
    return f"; no 95 % interval from fewer than {FEWEST} {what}" if fewest < FEWEST else ""

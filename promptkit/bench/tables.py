"""The tables of a summary, as texts: learners side by side, all statistics, and learners compared."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from pandas import DataFrame, isna

from promptkit.bench.formats import Table
from promptkit.bench.published import published_figure
from promptkit.bench.statistics import FEWEST, FEWEST_DATASETS, enough, friedman, statistics, wilcoxon
from promptkit.bench.summary import Row, Summary
from promptkit.errors import DataError, UnknownNameError

STATISTICS = ("mean", "sd", "95 % from", "to")
TESTED = ("p (Wilcoxon)", "p (Holm)")


def side_by_side(summary: Summary) -> Table:
    """A column for each learner: mean ± standard deviation over seeds, in per cent."""
    learners = list(summary.results)
    rows: list[tuple[str, ...]] = []
    best: set[tuple[int, int]] = set()
    for row, found in summary.statistics.items():
        best |= {(len(rows), 3 + learners.index(learner)) for learner in summary.best(row)}
        texts = {
            one.Index: f"{one.mean:.2f}" + ("" if isna(one.sd) else f" ± {one.sd:.2f}") for one in found.itertuples()
        }
        rows.append((*_about(row), *(texts.get(learner, "") for learner in learners)))
    title = f"{summary.title}: mean ± standard deviation over seeds, %"
    return Table(title, ("data set", "domain", "figure", *learners), tuple(rows), 3, frozenset(best))


def all_statistics(summary: Summary) -> Table:
    """A row for each learner and figure, in per cent, with what is published."""
    columns = ("data set", "domain", "figure", "learner", *STATISTICS, "seeds", "published", "difference")
    rows: list[tuple[str, ...]] = []
    best: set[tuple[int, int]] = set()
    for row, found in summary.statistics.items():
        for one in found.itertuples():
            if one.Index in summary.best(row):
                best.add((len(rows), 4))
            known = published_figure(summary, row, one.Index)
            beside = ("", "") if known is None else (f"{known:.2f}", f"{one.mean - known:+.2f}")
            rows.append((*_about(row), one.Index, *_texts(one, (0, 100)), str(one.n), *beside))
    fewest = min((found["n"].min() for found in summary.statistics.values()), default=FEWEST)
    title = f"{summary.title}: statistics over seeds, %{_why_none(fewest)}"
    return Table(title, columns, tuple(rows), 4, frozenset(best))


def comparisons(summaries: Sequence[Summary], learners: Sequence[str]) -> list[Table]:
    """Learners compared two at a time, in every summary that has several of them; and ranked, where there are three.

    Where tables name a learner with its shots or its backbone, those of the same are compared. Domains are averaged and
    the source of a transfer is left out before. Raises UnknownNameError for a learner without results, DataError when
    none have a data set and seed in common.
    """
    known = {name: result.learner for summary in summaries for name, (result, *_) in summary.results.items()}
    for learner in learners:
        if learner not in known and learner not in known.values():
            there = sorted({*known.values()})
            raise UnknownNameError("learner", learner, there, f"with results: {', '.join(there)}")
    tables = []
    for summary in summaries:
        names = [
            (name, learner) for name in summary.results for learner in learners if f"{name} ".startswith(f"{learner} ")
        ]
        for rest in dict.fromkeys(name.removeprefix(learner) for name, learner in names):
            same = [learner + rest for learner in learners if learner + rest in summary.results]
            figures = dict.fromkeys(row.figure for row in summary.series)
            over = {figure: summary.over_domains(figure) for figure in figures}
            found = {figure: values.reindex(columns=same) for figure, values in over.items() if len(values)}
            if (table := _pairs(summary, found)).rows:
                tables += [table, *([_ranks(summary, found)] if len(same) > 2 else [])]
    if not tables:
        raise DataError(f"{' and '.join(learners)} have no data set and seed in common")
    return tables


def _pairs(summary: Summary, figures: Mapping[str, DataFrame]) -> Table:
    """Differences, paired by data set and seed; over enough data sets, whether they are more than chance."""
    rows: list[tuple[str, ...]] = []
    fewest = FEWEST
    for figure, values in figures.items():
        tested = wilcoxon(_blocks(values)) if enough(_blocks(values)) else {}
        for first, second in combinations(values, 2):
            difference = (values[first] - values[second]).dropna()
            if not len(difference):
                continue
            better = difference.round(9) * (1 if summary.metric.higher_is_better else -1)
            counts = ((better > 0).sum(), (better == 0).sum(), (better < 0).sum(), len(difference))
            fewest = min(fewest, len(difference))
            (found,) = statistics(difference).itertuples()
            chances = [f"{p:.3g}" for p in tested.get((first, second), ())]
            rows.append((figure, first, second, *_texts(found, (-100, 100), "+"), *map(str, counts), *chances))
    several = len({row[1:3] for row in rows}) > 1
    about = "learners compared two at a time" if several else f"{' less '.join(rows[0][1:3])}" if rows else ""
    table = Table(
        f"{summary.title}: {about}, paired by data set and seed, %{_why_none(fewest, 'pairs')}",
        ("figure", "learner", "less", *STATISTICS, "wins", "ties", "losses", "pairs", *TESTED),
        tuple(row + ("",) * (13 - len(row)) for row in rows),
        3,
    )
    return table if several else table.without("learner", "less")


def _ranks(summary: Summary, figures: Mapping[str, DataFrame]) -> Table:
    """Friedman's test of the learners over data sets, and their mean ranks; or why there is none."""
    title = f"{summary.title}: mean ranks over data sets, and Friedman's test (Demšar, JMLR 2006)"
    names = next(iter(figures.values())).columns
    rows: list[tuple[str, ...]] = []
    best: set[tuple[int, int]] = set()
    columns = ("figure", "data sets", "chi²", "p", "F", "p of F", *names)
    for figure, values in figures.items():
        block = _blocks(values)
        if enough(block):
            ranks = block.rank(axis=1, ascending=not summary.metric.higher_is_better).mean()
            best |= {(len(rows), columns.index(name)) for name in ranks.index[ranks == ranks.min()]}
            tested = (f"{value:.3g}" for value in friedman(block))
            rows.append((figure, str(len(block)), *tested, *(f"{rank:.2f}" for rank in ranks)))
    if not rows:
        most = max(len(_blocks(values)) for values in figures.values())
        why = f"it needs {FEWEST_DATASETS} that all learners have, and there {_many(most)}"
        title = f"{summary.title}: no test over data sets: {why}"
    return Table(title, columns, tuple(rows), 1, frozenset(best))


def _blocks(values: DataFrame) -> DataFrame:
    """The mean of the seeds that all learners have, of each data set that they all have."""
    return values.dropna().groupby("dataset").mean().round(9)


def _many(number: int) -> str:
    return "is 1" if number == 1 else f"are {number}"


def _about(row: Row) -> tuple[str, str, str]:
    return row.dataset, row.domain if row.domain != "all" else "", row.figure


def _texts(found: Any, bounds: tuple[float, float], sign: str = "") -> tuple[str, str, str, str]:
    """Mean, standard deviation and both ends of the interval, which lie within what the figure can be."""
    low, high = max(bounds[0], found.mean - found.half_width), min(bounds[1], found.mean + found.half_width)
    ends = ("", "") if isna(found.half_width) else (f"{low:{sign}.2f}", f"{high:{sign}.2f}")
    return f"{found.mean:{sign}.2f}", "" if isna(found.sd) else f"{found.sd:.2f}", *ends


def _why_none(fewest: int, what: str = "seeds") -> str:
    return f"; no 95 % interval from fewer than {FEWEST} {what}" if fewest < FEWEST else ""

"""The tables of a summary, as texts: learners side by side, all statistics, and learners compared."""

from collections.abc import Sequence
from typing import Any

from pandas import isna

from promptkit.experiments.comparison import Comparison, compared
from promptkit.experiments.formats import Table
from promptkit.experiments.published import published_figure
from promptkit.experiments.statistics import FEWEST, FEWEST_DATASETS
from promptkit.experiments.summary import Row, Summary

STATISTICS = ("mean", "sd", "95 % from", "to")


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
        leaders = summary.best(row)
        for one in found.itertuples():
            if one.Index in leaders:
                best.add((len(rows), 4))
            known = published_figure(summary, row, one.Index)
            beside = ("", "") if known is None else (f"{known:.2f}", f"{one.mean - known:+.2f}")
            rows.append((*_about(row), one.Index, *_texts(one), str(one.n), *beside))
    fewest = min((found["n"].min() for found in summary.statistics.values()), default=FEWEST)
    title = f"{summary.title}: statistics over seeds, %{_why_none(fewest)}"
    return Table(title, columns, tuple(rows), 4, frozenset(best))


def comparisons(summaries: Sequence[Summary], learners: Sequence[str]) -> list[Table]:
    """The differences of every two learners; where there are three, their ranks, or why there are none. See `compared`."""
    tables = []
    for one in compared(summaries, learners):
        tables.append(_pairs(one))
        if len(one.learners) > 2:
            tables.append(_ranks(one))
    return tables


def _pairs(found: Comparison) -> Table:
    several = len(found.learners) > 2
    about = "learners compared two at a time" if several else " less ".join(found.learners)
    about += f", paired by data set and seed, %{_why_none(found.pairs['n'].min(), 'pairs')}"
    rows = tuple(
        (
            *(one.figure, one.learner, one.less, *_texts(one, "+")),
            *(f"{count:.0f}" for count in (one.wins, one.ties, one.losses, one.n)),
            *(_short(chance) for chance in (one.wilcoxon, one.holm)),
        )
        for one in found.pairs.itertuples()
    )
    counts = ("wins", "ties", "losses", "pairs", "p (Wilcoxon)", "p (Holm)")
    table = Table(f"{found.summary.title}: {about}", ("figure", "learner", "less", *STATISTICS, *counts), rows, 3)
    return table if several else table.without("learner", "less")


def _ranks(found: Comparison) -> Table:
    names = found.learners
    columns = ("figure", "data sets", "chi²", "p", "F", "p of F", *names)
    if found.ranks.empty:
        there = f"there {'is' if found.datasets == 1 else 'are'} {found.datasets}"
        why = f"no test over data sets: it needs {FEWEST_DATASETS} that all learners have, and {there}"
        return Table(f"{found.summary.title}: {why}", columns, (), 1)
    rows = tuple(
        (
            str(figure),
            f"{one['datasets']:.0f}",
            *(_short(one[name]) for name in ("chi2", "p", "f", "p_of_f")),
            *(f"{one[name]:.2f}" for name in names),
        )
        for figure, one in found.ranks.iterrows()
    )
    lowest = found.ranks[names].eq(found.ranks[names].min(axis=1), axis=0).to_numpy().nonzero()
    best = frozenset((int(row), 6 + int(place)) for row, place in zip(*lowest, strict=True))
    title = f"{found.summary.title}: mean ranks over data sets, and Friedman's test (Demšar, JMLR 2006)"
    return Table(title, columns, rows, 1, best)


def _short(value: float) -> str:
    return "" if isna(value) else f"{value:.3g}"


def _about(row: Row) -> tuple[str, str, str]:
    return row.dataset, row.domain if row.domain != "all" else "", row.figure


def _texts(found: Any, sign: str = "") -> tuple[str, str, str, str]:
    """Mean, standard deviation and both ends of the interval."""
    ends = ("", "") if isna(found.low) else (f"{found.low:{sign}.2f}", f"{found.high:{sign}.2f}")
    return f"{found.mean:{sign}.2f}", "" if isna(found.sd) else f"{found.sd:.2f}", *ends


def _why_none(fewest: int, what: str = "seeds") -> str:
    return f"; no 95 % interval from fewer than {FEWEST} {what}" if fewest < FEWEST else ""

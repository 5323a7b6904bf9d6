"""Learners compared two at a time, by paired differences, and over data sets, as Demšar (JMLR 2006) has it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import nan
from typing import Any

from pandas import DataFrame

from promptkit.errors import DataError, UnknownNameError
from promptkit.experiments.statistics import FEWEST_DATASETS, friedman, statistics, wilcoxon
from promptkit.experiments.summary import Summary, limits


@dataclass(frozen=True)
class Comparison:
    """Some learners of one summary, in per cent."""

    summary: Summary
    pairs: DataFrame
    """A row for each figure and two learners: figure, learner, less; the `statistics` of the differences, paired by data
    set and seed; wins, ties, losses; over enough data sets wilcoxon and holm, the p-values of Wilcoxon's test."""
    ranks: DataFrame
    """By figure, where it has three learners or more on enough data sets: datasets, chi2, p, f, p_of_f (Friedman), and for
    each learner its mean rank."""
    datasets: int
    """That all of the learners have, of the figure that has most of them."""

    @property
    def learners(self) -> list[str]:
        return list(dict.fromkeys([*self.pairs["learner"], *self.pairs["less"]]))


def compared(summaries: Sequence[Summary], learners: Sequence[str]) -> list[Comparison]:
    """Learners compared in every summary that has several of them.

    Where tables name a learner with its shots or its backbone, those of the same are compared. Domains are averaged and
    the source of a transfer is left out before. Raises UnknownNameError for a learner without results, DataError when
    none have a data set and seed in common.
    """
    known = {name: result.learner for summary in summaries for name, (result, *_) in summary.results.items()}
    for learner in learners:
        if learner not in known and learner not in known.values():
            there = sorted({*known.values()})
            raise UnknownNameError("learner", learner, there, f"with results: {', '.join(there)}")
    found = []
    for summary in summaries:
        rests = dict.fromkeys(
            name.removeprefix(learner)
            for name in summary.results
            for learner in learners
            if f"{name} ".startswith(f"{learner} ")
        )
        over = {figure: summary.over_domains(figure) for figure in dict.fromkeys(row.figure for row in summary.series)}
        for rest in rests:
            same = [learner + rest for learner in learners if learner + rest in summary.results]
            figures = {figure: values.reindex(columns=same) for figure, values in over.items() if len(values)}
            found.append(_compare(summary, figures))
    if not (found := [one for one in found if len(one.pairs)]):
        raise DataError(f"{' and '.join(learners)} have no data set and seed in common")
    return found


def _compare(summary: Summary, figures: Mapping[str, DataFrame]) -> Comparison:
    """`figures`: by data set and seed, a column for each learner."""
    pairs: list[dict[str, Any]] = []
    ranks: dict[str, dict[str, float]] = {}
    most = 0
    sign = 1 if summary.metric.higher_is_better else -1
    low, high = limits(summary.metric)
    for figure, values in figures.items():
        # The mean of the seeds that all learners have, of each data set that they all have.
        blocks = values.dropna().groupby("dataset").mean().round(9)
        most = max(most, len(blocks))
        tested = wilcoxon(blocks) if len(blocks) >= FEWEST_DATASETS else {}
        if tested and len(blocks.columns) > 2:
            mean_ranks = (sign * blocks).rank(axis=1, ascending=False).mean()
            ranks[figure] = {"datasets": len(blocks), **friedman(blocks), **mean_ranks}
        for first, second in combinations(values, 2):
            if len(difference := (values[first] - values[second]).dropna()):
                better = sign * difference.round(9)
                pairs.append(
                    {
                        "figure": figure,
                        "learner": first,
                        "less": second,
                        **statistics(difference, within=(low - high, high - low)).iloc[0],
                        "wins": (better > 0).sum(),
                        "ties": (better == 0).sum(),
                        "losses": (better < 0).sum(),
                        **tested.get((first, second), {"wilcoxon": nan, "holm": nan}),
                    }
                )
    return Comparison(summary, DataFrame(pairs), DataFrame(ranks).T, most)

"""From results to what tables show: means over seeds, domains and data sets, and harmonic means."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, NamedTuple
from zlib import crc32

import pandas

from promptkit.errors import DataError
from promptkit.experiments.protocols import OTHERS, VARIANTS
from promptkit.experiments.results import Result
from promptkit.experiments.statistics import statistics
from promptkit.metrics import STANDARD, Metric, accuracy

AVERAGE = "average"
"""In the place of a data set: over all of them, but for the one that a transfer was trained on."""
MEAN, WORST = "mean of domains", "worst domain"
"""In the place of a domain: over all of them."""
OF_MEANS, OF_SEEDS = "harmonic mean of the means", "mean of the harmonic means"
"""Of base and new. Papers print the first; the second, which is over seeds, has a standard deviation."""


class Row(NamedTuple):
    """What is measured."""

    dataset: str
    domain: str
    figure: str
    """base, new, a harmonic mean of the two, or the metric."""


@dataclass
class Summary:
    """The results of one protocol in one metric."""

    title: str
    metric: Metric
    results: Mapping[str, Sequence[Result]]
    """By learner, as tables name it: with the shots, the backbone or the template, where there are several."""
    titles: Mapping[tuple[str, str, str], str]
    """What tables call the data of a result, `Result.data`."""
    series: Mapping[Row, pandas.Series]
    """Per cent, by learner and seed."""
    statistics: Mapping[Row, pandas.DataFrame]
    """By learner; see `promptkit.experiments.statistics`."""
    whole: Mapping[str, str]
    """The data sets that the average is over; for each, what stands in the place of its domain there."""

    @property
    def protocol(self) -> str:
        return next(iter(self.results.values()))[0].protocol

    def best(self, row: Row) -> set[str]:
        """The learners with the best mean, where there are several learners; they may share it."""
        means = self.statistics[row]["mean"].round(2)
        best = means.max() if self.metric.higher_is_better else means.min()
        return set(means.index[means == best]) if len(means) > 1 else set()

    def over_domains(self, figure: str) -> pandas.DataFrame:
        """The mean of each data set's domains, or its only one: by data set and seed, a column for each learner."""
        found = {dataset: self.series.get(Row(dataset, domain, figure)) for dataset, domain in self.whole.items()}
        there = {dataset: series.unstack("learner") for dataset, series in found.items() if series is not None}
        return pandas.concat(there, names=["dataset"]) if there else pandas.DataFrame()


def summaries(results: Sequence[Result], metric: Metric = accuracy) -> list[Summary]:
    """One for each protocol, and where it transfers for each data set that was trained on.

    Raises DataError when no result has the metric.
    """
    if not any(metric.name in result.scores.figures for result in results):
        raise DataError(
            f"no result has the metric {metric.name!r}", "it is computed when learners are tested, by a bench"
        )
    apart: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        apart[result.protocol, result.source].append(result)
    return [summarize(own, metric) for _, own in sorted(apart.items())]


def summarize(results: Sequence[Result], metric: Metric = accuracy) -> Summary:
    """Of one protocol, one source and at least one result; one that lacks the metric leaves a blank.

    Where results are missing, a mean over domains or data sets is over the seeds that have all of them.
    """
    learners, common = _by_learner(results)
    titles = _titles(results)
    source = results[0].source
    described = [*common, *([f"trained on {source}"] if source else []), metric.name]
    measured = pandas.Series(
        {
            (titles[one.data], one.domain, metric.name if one.classes == "all" else one.classes, learner, one.seed): 100
            * one.scores.figures.get(metric.name, float("nan"))
            for learner, own in learners.items()
            for one in own
        }
    )
    measured = measured.rename_axis(["dataset", "domain", "figure", "learner", "seed"]).sort_index()
    order = {titles[one.data]: _order(one) for one in results}
    sources = {titles[one.data] for one in results if one.dataset == source}
    parts: dict[tuple[str, str], pandas.Series] = {}
    whole: dict[str, str] = {}
    for dataset in sorted(order, key=lambda title: order[title]):
        domains = measured.loc[dataset].unstack("domain")
        parts |= {(dataset, domain): domains[domain] for domain in domains}
        if several := len(domains.columns) > 1:
            worst = domains.min if metric.higher_is_better else domains.max
            parts[dataset, MEAN] = domains.mean(axis=1, skipna=False)
            parts[dataset, WORST] = worst(axis=1, skipna=False)
        if dataset not in sources:
            whole[dataset] = MEAN if several else domains.columns[0]
    if len(whole) > 1:
        parts[AVERAGE, "all"] = pandas.concat([parts[place] for place in whole.items()], axis=1).mean(
            axis=1, skipna=False
        )
    series: dict[Row, pandas.Series] = {}
    found: dict[Row, pandas.DataFrame] = {}
    within = limits(metric)
    for place, part in parts.items():
        figures = part.unstack("figure").reindex(list(learners), level="learner")
        series |= {Row(*place, figure): own for figure in figures if len(own := figures[figure].dropna())}
        halves = [Row(*place, "base"), Row(*place, "new")]
        found |= {row: statistics(own, "learner", within) for row, own in series.items() if row[:2] == place}
        if metric.higher_is_better and place[1] != WORST and series.keys() >= {*halves}:
            of_means = pandas.concat([found[half][["mean", "n"]] for half in halves], axis=1, join="inner")
            of_seeds = pandas.concat([series[half] for half in halves], axis=1, join="inner")
            if len(of_means):
                both = {"mean": _harmonic(of_means["mean"]), "n": of_means["n"].min(axis=1)}
                found[Row(*place, OF_MEANS)] = pandas.DataFrame(both).reindex(columns=found[halves[0]].columns)
            if len(of_seeds):
                row = Row(*place, OF_SEEDS)
                series[row] = _harmonic(of_seeds)
                found[row] = statistics(series[row], "learner", within)
    return Summary(", ".join([results[0].protocol, *described]), metric, learners, titles, series, found, whole)


def limits(metric: Metric) -> tuple[float, float]:
    """What a figure lies between, in per cent: our own are shares, a plugin's may be anything."""
    return (0, 100) if metric.name in STANDARD else (-inf, inf)


def _harmonic(values: pandas.DataFrame) -> pandas.Series:
    """The harmonic mean of each row; 0 where a value is."""
    return 1 / (1 / values).mean(axis=1)


def _by_learner(results: Sequence[Result]) -> tuple[dict[str, list[Result]], list[str]]:
    """Results by what tells their rows apart, zero-shot first, and what all of them have in common, in words."""
    common, differ = [], []
    for describe in (_shots, _backbone):
        described = {describe(result) for result in results}
        if len(described) > 1:
            differ.append(describe)
        else:
            common.append(described.pop())
    several_templates = _with_several(results, "template", "")
    several_settings = _with_several(results, "settings", {})
    found: dict[str, list[Result]] = defaultdict(list)
    for result in sorted(results, key=lambda result: (result.learner != "zeroshot", result.learner, result.shots)):
        words = [result.learner, *(describe(result) for describe in differ)]
        if result.learner in several_templates:
            words.append(_template(result))
        if result.learner in several_settings:
            words.append(_settings(result))
        found[" ".join(words)].append(result)
    return dict(found), common


def _with_several(results: Sequence[Result], field: str, none: object) -> set[str]:
    """Learners that were asked the same thing with different values of a field, whose absence is `none`.

    Between data sets they may differ: recipes have hand-made prompts and settings for one.
    """
    blank: dict[str, Any] = {field: none}
    values: dict[tuple[object, ...], set[str]] = defaultdict(set)
    for result in results:
        values[replace(result, **blank).key].add(repr(getattr(result, field)))
    return {result.learner for result in results if len(values[replace(result, **blank).key]) > 1}


def _shots(result: Result) -> str:
    return {0: "all pictures", 1: "1 shot"}.get(result.shots, f"{result.shots} shots")


def _backbone(result: Result) -> str:
    return f"{result.backbone} {result.weights}"


def _template(result: Result) -> str:
    first, *others = result.template.splitlines() or [""]
    # Many templates are told from as many others by their checksum.
    return f"'{first}' and {len(others)} more ({crc32(result.template.encode()):08x})" if others else f"'{first}'"


def _settings(result: Result) -> str:
    settings = ", ".join(f"{key}={value}" for key, value in sorted(result.settings.items()))
    return f"[{settings or 'as published'}]"


def _titles(results: Sequence[Result]) -> dict[tuple[str, str, str], str]:
    """Splits that promptkit drew are not those of the papers, and tables say so."""
    shown = {result.data: f"{result.title} (drawn)" if result.split == "drawn" else result.title for result in results}
    count = Counter(shown.values())
    return {
        (dataset, title, split): text if count[text] == 1 else f"{title} ({dataset}, {split})"
        for (dataset, title, split), text in shown.items()
    }


def _order(result: Result) -> tuple[bool, int, str, bool, str]:
    known = ("imagenet", *OTHERS, *VARIANTS)
    place = known.index(result.dataset) if result.dataset in known else len(known)
    return result.dataset != result.source, place, result.title, result.split == "drawn", result.domain

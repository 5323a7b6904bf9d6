"""From results to what tables show: means over seeds, domains and data sets, and harmonic means."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from zlib import crc32

from promptkit.bench.protocols import OTHERS, VARIANTS
from promptkit.bench.results import Result
from promptkit.bench.statistics import Statistic, statistic
from promptkit.errors import DataError
from promptkit.metrics import Metric, accuracy

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


Series = Mapping[str, Mapping[int, float]]
"""Per cent, by learner and seed."""


@dataclass
class Summary:
    """The results of one protocol in one metric."""

    title: str
    metric: Metric
    results: Mapping[str, Sequence[Result]]
    """By learner, as tables name it: with the shots, the backbone or the template, where there are several."""
    titles: Mapping[tuple[str, str, str], str]
    """What tables call the data of a result, `Result.data`."""
    series: dict[Row, Series] = field(default_factory=dict)
    statistics: dict[Row, dict[str, Statistic]] = field(default_factory=dict)
    whole: list[str] = field(default_factory=list)
    """The data sets that the average is over."""

    @property
    def protocol(self) -> str:
        return next(iter(self.results.values()))[0].protocol

    def best(self, row: Row) -> set[str]:
        """The learners with the best mean, where there are several learners; they may share it."""
        means = {learner: round(found.mean, 2) for learner, found in self.statistics[row].items()}
        if len(means) < 2:
            return set()
        best = max(means.values()) if self.metric.higher_is_better else min(means.values())
        return {learner for learner, mean in means.items() if mean == best}

    def over_domains(self, dataset: str, figure: str) -> Series:
        """The mean of the domains, or the only one; empty where no learner has a seed in all of them."""
        domains = {row.domain for row in self.series if row.dataset == dataset} - {MEAN, WORST}
        domain = MEAN if len(domains) > 1 else domains.pop()
        return self.series.get(Row(dataset, domain, figure), {})

    def _put(self, dataset: str, domain: str, figures: Mapping[str, Series]) -> None:
        figures = {figure: series for figure, series in figures.items() if series}
        for figure, series in figures.items():
            row = Row(dataset, domain, figure)
            self.series[row] = series
            self.statistics[row] = {learner: statistic(list(seeds.values())) for learner, seeds in series.items()}
        if {"base", "new"} <= figures.keys() and domain != WORST and self.metric.higher_is_better:
            base, new = (self.statistics[Row(dataset, domain, figure)] for figure in ("base", "new"))
            of_means = {
                learner: Statistic(
                    statistics.harmonic_mean([base[learner].mean, new[learner].mean]),
                    min(base[learner].n, new[learner].n),
                )
                for learner in base
                if learner in new
            }
            if of_means:
                self.statistics[Row(dataset, domain, OF_MEANS)] = of_means
            of_seeds = _combine([figures["base"], figures["new"]], statistics.harmonic_mean)
            self._put(dataset, domain, {OF_SEEDS: of_seeds})


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
    by_learner, common = _by_learner(results)
    titles = _titles(results)
    source = results[0].source
    described = [*common, *([f"trained on {source}"] if source else []), metric.name]
    summary = Summary(", ".join([results[0].protocol, *described]), metric, by_learner, titles)
    measured: dict[str, dict[str, dict[str, dict[str, dict[int, float]]]]] = {}
    for learner, own in by_learner.items():
        for result in sorted(own, key=_order):
            domains = measured.setdefault(titles[result.data], {})
            figures = domains.setdefault(result.domain, {})
            series = figures.setdefault(metric.name if result.classes == "all" else result.classes, {})
            if metric.name in result.scores.figures:
                series.setdefault(learner, {})[result.seed] = 100 * result.scores[metric.name]

    sources = {titles[result.data] for result in results if result.dataset == source}
    order = {titles[result.data]: _order(result) for result in results}
    over_domains: dict[str, dict[str, Series]] = {}
    for dataset in sorted(measured, key=lambda title: order[title][:4]):
        domains = {domain: dict(sorted(figures.items())) for domain, figures in sorted(measured[dataset].items())}
        for domain, figures in domains.items():
            summary._put(dataset, domain, figures)
        whole = _combined(list(domains.values()), statistics.fmean)
        if len(domains) > 1:
            summary._put(dataset, MEAN, whole)
            summary._put(dataset, WORST, _combined(list(domains.values()), min if metric.higher_is_better else max))
        if dataset not in sources:
            over_domains[dataset] = whole
    summary.whole = list(over_domains)
    if len(over_domains) > 1:
        summary._put(AVERAGE, "all", _combined(list(over_domains.values()), statistics.fmean))
    return summary


def _combined(parts: Sequence[Mapping[str, Series]], combine: Callable[[Sequence[float]], float]) -> dict[str, Series]:
    """Figure by figure; see `_combine`."""
    figures = dict.fromkeys(figure for part in parts for figure in part)
    return {figure: _combine([part.get(figure, {}) for part in parts], combine) for figure in figures}


def _combine(parts: Sequence[Series], combine: Callable[[Sequence[float]], float]) -> Series:
    """Seed by seed, for the learners and seeds that are in all parts."""
    combined: dict[str, dict[int, float]] = {}
    for learner in parts[0]:
        seeds = set.intersection(*(set(part.get(learner, {})) for part in parts))
        if seeds:
            combined[learner] = {seed: combine([part[learner][seed] for part in parts]) for seed in sorted(seeds)}
    return combined


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

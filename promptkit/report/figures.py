"""The figures that papers print, of a bench's results, by matplotlib."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from promptkit.errors import ConfigError, DataError, UnknownNameError
from promptkit.experiments.results import RESULTS, Result, read_results, results_of
from promptkit.experiments.statistics import statistics
from promptkit.experiments.summary import AVERAGE, MEAN, OF_SEEDS, WORST, Row, Summary, summaries
from promptkit.metrics import Metric
from promptkit.report.answers import Answers, columns, reliability
from promptkit.report.plots import SERIES, STYLE
from promptkit.runs.records import read_records

WIDTH = 3.2
"""Inches of a panel: two make a page of text."""
MARKERS = "osD^vP*X"


def few_shot(summary: Summary, folders: Sequence[Path], against: str) -> Any:
    """Accuracy over shots, as in CoOp's figure 3: a panel for each data set and the average; mean and deviation."""
    lines: dict[str, dict[str, dict[int, tuple[float, float]]]] = {}
    for dataset, domain in {AVERAGE: "all", **summary.whole}.items():
        for name, (mean, sd) in _means(summary, Row(dataset, domain, summary.metric.name)).items():
            result = summary.results[name][0]
            lines.setdefault(dataset, {}).setdefault(result.learner, {})[result.shots] = mean, sd
    if not any(len(shots) > 1 for own in lines.values() for shots in own.values()):
        raise DataError("the results are of one number of shots", "promptkit bench few-shot has several")
    figure, axes = _panels(len(lines), 4)
    for axis, (dataset, own) in zip(axes, lines.items(), strict=False):
        for style, (learner, shots) in zip(_styles(), own.items(), strict=False):
            found = {count: values for count, values in sorted(shots.items()) if count}
            means, sds = np.array(list(found.values())).reshape(-1, 2).T
            axis.plot(list(found), means, label=learner, **style)
            axis.fill_between(list(found), means - sds, means + sds, color=style["color"], alpha=0.15, linewidth=0)
        axis.set_title(dataset, fontweight="bold" if dataset == AVERAGE else None)
        axis.set_xticks(sorted({count for shots in own.values() for count in shots if count}))
        axis.set_xlabel("training pictures per class")
        axis.set_ylabel(_label(summary))
    _legend(figure, axes)
    return figure


def domains(summary: Summary, folders: Sequence[Path], against: str) -> Any:
    """Each learner on each domain, a panel for each data set; mean and deviation over seeds."""
    rows: dict[str, dict[str, Row]] = defaultdict(dict)
    several = len({row.figure for row in summary.series if row.figure != OF_SEEDS}) > 1
    for row in summary.series:
        if row.domain not in (WORST, "all") and row.figure != OF_SEEDS:
            name = "mean" if row.domain == MEAN else row.domain
            rows[row.dataset][f"{name}\n{row.figure}" if several else name] = row
    if not rows:
        raise DataError("the results have no domains", "promptkit bench leave-one-domain-out has them")
    return _bars(summary, rows)


def base_new(summary: Summary, folders: Sequence[Path], against: str) -> Any:
    """Each learner on base classes, on new ones, and the harmonic mean, a panel for each data set and the average."""
    rows: dict[str, dict[str, Row]] = defaultdict(dict)
    for figure, name in (("base", "base"), ("new", "new"), (OF_SEEDS, "harmonic\nmean")):
        for row in summary.series:
            if row.figure == figure and row.domain in ("all", MEAN):
                rows[row.dataset][name] = row
    kept = {dataset: own for dataset, own in rows.items() if len(own) == 3}
    if not kept:
        raise DataError("the results have no base and new classes", "promptkit bench base-to-new has them")
    return _bars(summary, kept)


def ablation(summary: Summary, folders: Sequence[Path], against: str) -> Any:
    """The others less one learner, a panel for each figure: every pair of data set and seed, mean and 95 % interval."""
    learners = {name: results[0].learner for name, results in summary.results.items()}
    if against not in learners.values():
        raise UnknownNameError("learner to compare with", against, {*learners.values()}, "say which with --against")
    pairs = {name: against + name.removeprefix(learner) for name, learner in learners.items() if learner != against}
    panels = {}
    for figure in dict.fromkeys(row.figure for row in summary.series):
        values = summary.over_domains(figure)
        there = {name: other for name, other in pairs.items() if name in values and other in values}
        if own := {name: d for name, other in there.items() if len(d := (values[name] - values[other]).dropna())}:
            panels[figure] = own
    if not panels:
        raise DataError(f"no learner has a data set and seed in common with {against}", "an ablation compares variants")
    figure, axes = _panels(len(panels), 2)
    for axis, (name, differences) in zip(axes, panels.items(), strict=False):
        for place, (style, difference) in enumerate(zip(_styles(), differences.values(), strict=False)):
            (found,) = statistics(difference).itertuples()
            axis.plot(difference, [place] * len(difference), "|", color=style["color"], markersize=8)
            axis.errorbar(found.mean, place, xerr=found.half_width, color=style["color"], marker="o", capsize=3)
        axis.axvline(0, color="0.5", linewidth=0.8, linestyle=":")
        axis.set_yticks(range(len(differences)), list(differences))
        axis.set(ylim=(len(differences) - 0.5, -0.5), xlabel=f"{_label(summary)}, less that of {against}")
        axis.set_title(name)
    return figure


def calibration(summary: Summary, folders: Sequence[Path], against: str) -> Any:
    """Accuracy over confidence, a panel for each learner, over all of its runs' records."""
    runs = {path.parent for folder in folders for path in folder.rglob(RESULTS)}
    found: dict[str, list[Answers]] = defaultdict(list)
    for run in sorted(runs):
        results: list[Result] = [one for one in results_of(run)[0] if one.protocol == summary.protocol]
        if results:
            by_asked = defaultdict(list)
            for record in read_records(run):
                by_asked[record.about.asked].append(record)
            found[results[0].learner] += [columns(run.name, records) for records in by_asked.values()]
    kept = {learner: several for learner, several in found.items() if several}
    if not kept:
        raise DataError("the runs have kept no answers", "promptkit bench keeps them, without --no-keep")
    figure, axes = _panels(len(kept), 4)
    for axis, (learner, several) in zip(axes, kept.items(), strict=False):
        confidence, accuracy, count, error = reliability(several)
        axis.plot([0, 1], [0, 1], color="0.5", linewidth=0.8, linestyle=":")
        shades = [(SERIES[0], 0.3 + 0.7 * share) for share in count / count.max()]
        axis.bar(confidence, accuracy, width=0.05, color=shades)
        axis.set_title(f"{learner}, ECE {100 * error:.1f} %")
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy")
    return figure


KINDS: Mapping[str, Callable[[Summary, Sequence[Path], str], Any]] = {
    "few-shot": few_shot,
    "ablation": ablation,
    "domains": domains,
    "base-new": base_new,
    "calibration": calibration,
}
SUFFIXES = (".pdf", ".svg", ".png")


def draw(kind: str, summary: Summary, folders: Sequence[Path], ink: str = "black", against: str = "") -> Any:
    """A figure of matplotlib, its lines and letters in `ink`.

    An ablation is `against` one learner. Raises DataError for results that have none of the kind.
    """
    from matplotlib import rc_context

    with rc_context(STYLE | _PRINT | dict.fromkeys(_INKED, ink)):
        return KINDS[kind](summary, folders, against)


def draw_first(kind: str, folders: Sequence[Path], metric: Metric, against: str = "") -> tuple[Any, str]:
    """The figure of the first protocol in folders of results that has one of the kind, and its title.

    Raises UnknownNameError for another kind, DataError where no results have one.
    """
    if kind not in KINDS:
        raise UnknownNameError("kind of figure", kind, KINDS)
    if kind == "ablation" and not against:
        raise ConfigError("an ablation draws the others less one learner", "say which with --against LEARNER")
    why: DataError | None = None
    for summary in summaries(read_results(folders), metric):
        try:
            return draw(kind, summary, folders, against=against), summary.title
        except DataError as error:
            why = error
    assert why is not None
    raise why


def save(figure: Any, path: Path, kind: str) -> None:
    """Write it as `kind`, one of SUFFIXES without the dot."""
    from matplotlib import rc_context

    with rc_context(STYLE | _PRINT):
        figure.savefig(path, format=kind, dpi=300, metadata=None if kind == "png" else {"Creator": "promptkit"})


_PRINT: Any = {"pdf.fonttype": 42, "font.size": 8}
_INKED = ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color")


def _bars(summary: Summary, panels: Mapping[str, Mapping[str, Row]]) -> Any:
    """Groups of learners' bars, one for each row of a panel."""
    from matplotlib import rcParams

    figure, axes = _panels(len(panels), 2, wide=max(len(rows) for rows in panels.values()) > 4)
    for axis, (dataset, rows) in zip(axes, panels.items(), strict=False):
        found = [_means(summary, row) for row in rows.values()]
        learners = [name for name in summary.results if any(name in means for means in found)]
        width = 0.8 / len(learners)
        for number, (style, learner) in enumerate(zip(_styles(), learners, strict=False)):
            there = {place: means[learner] for place, means in enumerate(found) if learner in means}
            means, sds = zip(*there.values(), strict=True)
            axis.bar(
                [place + (number - (len(learners) - 1) / 2) * width for place in there],
                means,
                width,
                yerr=sds,
                color=style["color"],
                label=learner,
                error_kw={"linewidth": 0.8, "ecolor": rcParams["text.color"]},
            )
        axis.set_xticks(range(len(rows)), list(rows))
        axis.set_title(dataset)
        axis.set_ylabel(_label(summary))
    _legend(figure, axes)
    return figure


def _panels(count: int, most: int, wide: bool = False) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    across = 1 if wide else min(most, count)
    down = -(-count // across)
    figure = Figure(((2 if wide else 1) * WIDTH * across, 2.4 * down + 0.3))
    axes = figure.subplots(down, across, squeeze=False).ravel().tolist()
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes


def _legend(figure: Any, axes: Sequence[Any]) -> None:
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", frameon=False, ncols=6)


def _styles() -> list[dict[str, Any]]:
    return [
        {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.2}
        for colour, marker in zip(SERIES, MARKERS, strict=True)
    ] * 3


def _means(summary: Summary, row: Row) -> dict[str, tuple[float, float]]:
    """By learner, mean and standard deviation over seeds, 0 of one; none where no seed has the row in full."""
    found = summary.statistics.get(row)
    return {} if found is None else {one.Index: (one.mean, one.sd) for one in found.fillna(0).itertuples()}


def _label(summary: Summary) -> str:
    return f"{summary.metric.name.replace('_', ' ')}, %"

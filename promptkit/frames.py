"""What benches and runs left, as data frames: results, statistics, comparisons, answers; and as figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas

from promptkit.errors import ConfigError
from promptkit.experiments.comparison import compared
from promptkit.experiments.frame import comparison_frame, results_frame, statistics_frame
from promptkit.experiments.results import read_results
from promptkit.experiments.summary import Summary, summaries
from promptkit.registry import installed
from promptkit.report.figures import draw_first
from promptkit.report.making import needs_extra
from promptkit.runs.records import read_records


def results(*folders: str | Path) -> pandas.DataFrame:
    """The results that benches left in and below folders.

    Example:
        ```python
        found = promptkit.results("results")
        found.pivot_table(index="domain", columns="learner", values="accuracy")
        ```

    Args:
        folders: Of results; "results" by default.

    Returns:
        A row for each result: protocol, learner, recipe, dataset, domain, classes, seed, shots, split, source, backbone,
        weights, run, n; a column for every metric, out of 1, for every setting that is not the recipe's ("loss.contrast"),
        and for the version of every package that it was made with ("packages.torch"); the fingerprints of the backbone, of
        the training pictures (`trained_on`) and of the test's (`tested_on`).

    Raises:
        DataError: Where there are none.
    """
    return results_frame(read_results(_paths(folders)))


def figure(kind: str, *folders: str | Path, metric: str = "accuracy", against: str = "") -> Any:
    """Draw results, as `promptkit figure` does.

    Example:
        ```python
        promptkit.figure("domains", "results").savefig("domains.pdf")
        ```

    Args:
        kind: "few-shot", "ablation", "domains", "base-new" or "calibration".
        folders: Of results; "results" by default.
        metric: See `promptkit list metric`.
        against: In an ablation, the learner that the others are compared with.

    Returns:
        A `matplotlib.figure.Figure`, which a notebook shows after `%matplotlib inline`.

    Raises:
        UnknownNameError: For a kind, metric or learner that there is none of.
        DataError: Where the results have no figure of the kind.
        ConfigError: Without matplotlib.
    """
    needs_extra()
    return draw_first(kind, _paths(folders), installed().get("metric", metric), against)[0]


def samples(*runs: str | Path) -> pandas.DataFrame:
    """What runs answered, picture by picture, where it was kept.

    Example:
        ```python
        answers = promptkit.samples("runs/coop")
        answers[answers["label"] != answers["likeliest"].str[0]]  # the pictures it got wrong
        ```

    Args:
        runs: Their folders.

    Returns:
        A row for each picture and run: run, dataset, split, classes, path, domain, label, likeliest and probabilities.

    Raises:
        CheckpointError: Where what a run kept is damaged.
        ConfigError: Where nothing is kept.
    """
    frames = []
    for run in runs:
        for record in read_records(Path(run)):
            frame = record.table.to_pandas()
            dataset, split, classes = record.about.asked
            frames.append(frame.assign(run=str(run), dataset=dataset, split=split, classes=classes))
    if not frames:
        raise ConfigError(f"no answers are kept in {', '.join(map(str, runs)) or 'no run'}", "evaluate with keep=True")
    return pandas.concat(frames, ignore_index=True)


def statistics(*folders: str | Path, metric: str = "accuracy", protocol: str = "") -> pandas.DataFrame:
    """Means over seeds, domains and data sets, harmonic means, and 95 % intervals, as `promptkit table` prints them.

    Example:
        ```python
        found = promptkit.statistics("results")
        found[found["dataset"] == "average"].pivot(index="figure", columns="learner", values="mean")
        ```

    Args:
        folders: Of results; "results" by default.
        metric: See `promptkit list metric`.
        protocol: Its results alone; those of all by default.

    Returns:
        A row for each learner and row of a table: table (its title), dataset, domain, figure, learner; mean, sd and the
        ends of the interval, low and high, in per cent; seeds; published, what the literature prints. What too few seeds
        have is NaN.

    Raises:
        DataError: Where there are no results.
        UnknownNameError: For another metric or protocol.
    """
    return statistics_frame(_summaries(folders, metric, protocol))


def compare(
    learners: Sequence[str], *folders: str | Path, metric: str = "accuracy", protocol: str = ""
) -> pandas.DataFrame:
    """The differences of every two learners, paired by data set and seed, as `promptkit table --compare` prints them.

    Example:
        ```python
        found = promptkit.compare(["coop", "zeroshot"], "results")
        found[["figure", "learner", "less", "mean", "low", "high"]]
        ```

    Args:
        learners: Two or more, as tables name them.
        folders: Of results; "results" by default.
        metric: See `promptkit list metric`.
        protocol: Its results alone; those of all by default.

    Returns:
        A row for each table, figure and two learners: learner, less; mean, sd, low and high (95 %) of the differences, in per
        cent; wins, ties, losses, pairs. Where six data sets or more have all of the learners, the p-values of Wilcoxon's test
        over data sets, wilcoxon and holm (for as many pairs); then, of three learners or more, friedman.datasets,
        friedman.chi2 and .p, friedman.f and .p_of_f (Iman and Davenport's), and the mean ranks, rank and rank_of_less. Else
        these are NaN.

    Raises:
        DataError: Where there are no results, or the learners have no data set and seed in common.
        UnknownNameError: For another learner, metric or protocol.
    """
    return comparison_frame(compared(_summaries(folders, metric, protocol), learners))


def _summaries(folders: Sequence[str | Path], metric: str, protocol: str) -> list[Summary]:
    return summaries(read_results(_paths(folders), protocol), installed().get("metric", metric))


def _paths(folders: Sequence[str | Path]) -> list[Path]:
    return [Path(folder) for folder in folders or ("results",)]

"""What the commands do, from Python: `promptkit.train`, `evaluate`, `compare`, and results as data frames.

Settings are keyword arguments, by the name of the command's option or as `slot.field`:

    run = promptkit.train("gopro", data="pictures/", shots=16, **{"prompts.n_ctx": 8})
    run.evaluate(domains="sketch").scores["sketch"]["accuracy"]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from promptkit.bench.comparison import compared
from promptkit.bench.frame import comparison_frame, results_frame, statistics_frame
from promptkit.bench.jobs import run_jobs
from promptkit.bench.order import Order
from promptkit.bench.plan import Request
from promptkit.bench.results import read_results
from promptkit.bench.runner import Failure
from promptkit.bench.space import needs_optuna
from promptkit.bench.summary import Summary, summaries
from promptkit.config import COMPONENT_SLOTS, resolve
from promptkit.errors import ConfigError, UnknownNameError
from promptkit.evaluation import evaluate as evaluation
from promptkit.evaluation.runs import keep_answers, open_runs
from promptkit.metrics import Scores
from promptkit.prediction.classifier import Classifier, open_classifier
from promptkit.progress import reported
from promptkit.registry import installed
from promptkit.report.figures import draw_first
from promptkit.report.making import needs_extra
from promptkit.runs.checkpoint import Metadata, read_metadata
from promptkit.runs.records import read_records
from promptkit.settings import SLOTS, BackboneSettings, EvalSettings, Scalar, flagged, parsed, set_text
from promptkit.training.run import Run

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class TrainedRun:
    """A finished run, in its folder."""

    path: Path

    @property
    def metadata(self) -> Metadata:
        """What the learner's header says: classes, the epoch that is kept and its figures."""
        return read_metadata(self.path)

    def evaluate(self, **settings: Any) -> Mapping[str, Scores]:
        """The scores of each domain; the settings are those of `promptkit.evaluate`."""
        return evaluate([self.path], **settings)[self.path]

    def classifier(self, classnames: Sequence[str] | None = None, device: str = "auto") -> Classifier:
        """See `promptkit.load`."""
        return open_classifier(self.path, classnames, device)


def train(
    recipe: str,
    out: str | Path | None = None,
    *,
    force: bool = False,
    resume: bool = False,
    cache: bool = True,
    console: Console | None = None,
    **settings: Scalar,
) -> TrainedRun:
    """Train a learner, as `promptkit train` does.

    Args:
        recipe: Such as "gopro".
        out: The folder of the run; runs/RECIPE by default.
        force: Replace the run that the folder holds.
        resume: Go on with it, where it was stopped.
        cache: Keep what frozen image towers see for the next time.
        console: Where progress is shown; standard output by default, which a notebook renders.
        settings: `data="pictures/"`, `shots=16`, ..., any `**{"slot.field": value}`, and components: `loss="gopro"`.

    Raises:
        PromptkitError: Whatever the command would end with.
    """
    sets, flags = _settings("train", settings)
    registry = installed()
    folder = Path(out) if out is not None else Path("runs") / recipe
    run = Run(resolve(registry, recipe, None, sets, flags), folder, force, resume, cache=cache)
    run.train(console or Console())
    return TrainedRun(folder)


def evaluate(
    runs: Sequence[str | Path],
    *,
    cache: bool = True,
    keep: bool = False,
    console: Console | None = None,
    **settings: Scalar,
) -> dict[Path, Mapping[str, Scores]]:
    """Evaluate runs side by side, as `promptkit eval` does.

    Args:
        runs: Their folders.
        cache: Keep what frozen image towers see for the next time.
        keep: Keep each picture's answer in the run's folder, for `samples`.
        console: Where progress is shown; standard error by default.
        settings: `data="pictures/"`, `domains="sketch"`, `split="all"`, ...: the command's options, and what happens at
            test time by `**{"slot.field": value}`.

    Returns:
        By run and domain ("all" where the data has none) its scores: `found[run][domain]["accuracy"]`, out of 1.

    Raises:
        PromptkitError: Whatever the command would end with.
    """
    sets, flags = _settings("eval", settings, {"eval": EvalSettings, "backbone": BackboneSettings})
    own = {key: flags.pop(key) for key in list(flags) if key.startswith("eval.")}
    chosen = parsed(EvalSettings, {key.removeprefix("eval."): value for key, value in own.items()})
    opened = open_runs([Path(run) for run in runs], chosen, flags, sets)
    work = evaluation.work(opened.learners, opened.dataset)
    with reported(console or Console(stderr=True), "evaluating", work) as advance:
        found = evaluation.evaluate(opened.learners, opened.dataset, chosen, cache, installed().metrics, advance)
    if keep:
        keep_answers(opened, found, chosen, sets)
    return {opened.folders[name]: scores for name, scores in found.scores.items()}


def compare(
    protocol: str,
    learners: Sequence[str],
    data: str | Path | Sequence[str | Path],
    *,
    datasets: Sequence[str] = (),
    source: str = "",
    seeds: Sequence[int] = (1, 2, 3),
    shots: Sequence[int] = (16,),
    vary: Mapping[str, Sequence[Scalar]] | None = None,
    out: str | Path = "results",
    jobs: int | None = None,
    cache: bool = True,
    keep: bool = True,
    console: Console | None = None,
    **settings: Scalar,
) -> "pandas.DataFrame":
    """Train and test learners by a protocol, as `promptkit bench` does; what is done in `out` is not done again.

    Args:
        protocol: Such as "few-shot".
        learners: Recipes, and variants of them: "no contrast=gopro[loss.contrast=0]".
        data: A folder of pictures or a manifest, or several; with `datasets`, the folder that holds theirs.
        datasets: Of the catalogue.
        source: What to train on; see `promptkit bench --help`.
        seeds: One run each.
        shots: Training pictures per class and domain; 0 for all.
        vary: Values by setting: all combinations, for every learner that has it.
        out: Folder for runs and results.
        jobs: Runs side by side, in processes of their own; a script then needs `if __name__ == "__main__":`.
        cache: Keep what frozen image towers see for the next time.
        keep: Keep each picture's answer.
        console: Where progress is shown; standard output by default.
        settings: Of all learners that have them.

    Returns:
        The results of the protocol, a row each; see `results`.

    Raises:
        PromptkitError: Whatever the command would end with, and when a run failed.
    """
    sets, flags = _settings("bench", settings)
    varied = [f"{key}={','.join(map(str, values))}" for key, values in (vary or {}).items()]
    registry, shown = installed(), console or Console()
    paths = [Path(data)] if isinstance(data, str | Path) else [Path(path) for path in data]
    request = Request(protocol, learners, seeds, shots, source, flags, sets, varied)
    order = Order(request, paths, datasets, Path(out), cache=cache, keep=keep)
    runner = order.runner(order.opened(registry), registry, shown)
    outcome = run_jobs(order, runner, jobs, shown) if jobs else runner.run()
    if outcome.failures:
        first: Failure = outcome.failures[0]
        raise ConfigError(f"{first.folder} failed: {first.message}", "what is done is kept; the same call tries again")
    found = results(out)
    return found[found["protocol"] == protocol].reset_index(drop=True)


@dataclass(frozen=True)
class Tuned:
    """The trials of a study, and the best of them."""

    settings: dict[str, Scalar]
    """Of the best trial: those that were tuned, by `slot.field`."""
    accuracy: float
    """Its accuracy on the val split, out of 1."""
    run: TrainedRun
    config: Path
    """All of its settings as a run file, for `promptkit train --config`."""
    trials: "pandas.DataFrame"
    """A row for each: trial, state (complete, pruned, failed), accuracy, epochs, run, and a column for each setting."""


def tune(
    recipe: str,
    vary: Mapping[str, str | Sequence[Scalar]],
    out: str | Path | None = None,
    *,
    trials: int = 30,
    prune: bool = True,
    storage: str = "",
    study: str = "",
    cache: bool = True,
    console: Console | None = None,
    **settings: Scalar,
) -> Tuned:
    """Choose a learner's settings by its accuracy on the val split, as `promptkit tune` does; test pictures are not used.

        tuned = promptkit.tune("gopro", {"loss.contrast": "0.01..1:log", "prompts.n_ctx": [2, 4]}, data="pictures/")

    Args:
        recipe: Such as "gopro".
        vary: By setting, a range ("1e-4..1e-2:log", "0..1") or a list of values.
        out: Folder for the trials, which goes on with those that it holds; runs/tune-RECIPE by default.
        trials: In all, those that are done already among them.
        prune: End a trial whose validation accuracy is below the median of those before, at the same epoch.
        storage: A URL of Optuna's, for several machines; a file in `out` by default.
        study: The name of the trials in the storage; the recipe's by default.
        cache: Keep what frozen image towers see for the next time.
        console: Where progress is shown; standard output by default.
        settings: Of all trials, as `train` takes them.

    Raises:
        PromptkitError: Whatever the command would end with.
    """
    needs_optuna()
    from promptkit.bench.tuning import BEST, Tuner, Tuning

    sets, flags = _settings("train", settings)
    texts = [f"{key}={one if isinstance(one, str) else ','.join(map(str, one))}" for key, one in vary.items()]
    folder = Path(out) if out is not None else Path("runs") / f"tune-{recipe}"
    tuning = Tuning(recipe, texts, sets, flags, study, storage, prune)
    tuner = Tuner(tuning, folder, installed(), console or Console(), cache)
    tuner.run(trials)
    best = tuner.best()
    return Tuned(best.settings, best.accuracy, TrainedRun(best.run), folder / BEST, tuner.frame())


def results(*folders: str | Path) -> "pandas.DataFrame":
    """The results that benches left in and below folders.

    Returns:
        A row for each result: protocol, learner, recipe, dataset, domain, classes, seed, shots, split, source, backbone,
        weights, run, n; a column for every metric, out of 1, for every setting that is not the recipe's ("loss.contrast"),
        and for the version of every package that it was made with ("packages.torch"); the fingerprints of the backbone, of
        the training pictures (`trained_on`) and of the test's (`tested_on`).

    Raises:
        DataError: Where there are none.
    """
    return results_frame(read_results([Path(folder) for folder in folders or ("results",)]))


def figure(kind: str, *folders: str | Path, metric: str = "accuracy", against: str = "") -> Any:
    """Draw results, as `promptkit figure` does.

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
    paths = [Path(folder) for folder in folders or ("results",)]
    return draw_first(kind, paths, installed().get("metric", metric), against)[0]


def samples(*runs: str | Path) -> "pandas.DataFrame":
    """What runs answered, picture by picture, where it was kept.

    Returns:
        A row for each picture and run: run, dataset, split, classes, path, domain, label, likeliest and probabilities.

    Raises:
        CheckpointError: Where what a run kept is damaged.
        ConfigError: Where nothing is kept.
    """
    import pandas

    frames = []
    for run in runs:
        for record in read_records(Path(run)):
            frame = record.table.to_pandas()
            dataset, split, classes = record.about.asked
            frames.append(frame.assign(run=str(run), dataset=dataset, split=split, classes=classes))
    if not frames:
        raise ConfigError(f"no answers are kept in {', '.join(map(str, runs)) or 'no run'}", "evaluate with keep=True")
    return pandas.concat(frames, ignore_index=True)


def statistics(*folders: str | Path, metric: str = "accuracy", protocol: str = "") -> "pandas.DataFrame":
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
) -> "pandas.DataFrame":
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
    found = read_results([Path(folder) for folder in folders or ("results",)], protocol)
    return summaries(found, installed().get("metric", metric))


def _settings(
    command: str, given: Mapping[str, Scalar], slots: Mapping[str, type] = SLOTS
) -> tuple[list[str], dict[str, Scalar]]:
    """Keyword arguments as texts of --set, for components, and as values by `slot.field`. Raises UnknownNameError."""
    known = {name.replace("-", "_"): key for name, (key, _) in flagged(command, slots).items()}
    sets: list[str] = []
    flags: dict[str, Scalar] = {}
    for name, value in given.items():
        if name.partition(".")[0] in COMPONENT_SLOTS:
            sets.append(set_text(name, value))
        elif name in known or "." in name:
            flags[known.get(name, name)] = value
        else:
            raise UnknownNameError(f"setting of {command}", name, [*known, *COMPONENT_SLOTS])
    return sets, flags

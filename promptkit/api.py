"""What the commands do, from Python: `promptkit.train`, `evaluate`, `bench` and `tune`.

Settings are keyword arguments, by the name of the command's option or as `slot.field`:

    run = promptkit.train("gopro", data="pictures/", shots=16, **{"prompts.n_ctx": 8})
    run.evaluate(domains="sketch")["sketch"]["accuracy"]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from promptkit.config import COMPONENT_SLOTS, resolve
from promptkit.errors import ConfigError, UnknownNameError
from promptkit.evaluation import evaluate as evaluation
from promptkit.evaluation.runs import keep_answers, open_runs
from promptkit.experiments.jobs import run_jobs
from promptkit.experiments.order import Order
from promptkit.experiments.plan import Request
from promptkit.experiments.runner import Failure
from promptkit.experiments.space import needs_optuna
from promptkit.frames import results
from promptkit.metrics import Scores
from promptkit.prediction.classifier import Classifier, open_classifier
from promptkit.progress import reported
from promptkit.registry import installed
from promptkit.runs.checkpoint import Metadata, read_metadata
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

    Example:
        ```python
        run = promptkit.train("coop", data="pictures/", shots=4, epochs=2, backbone="demo", **{"prompts.n_ctx": 2})
        run.metadata.figures["val_accuracy"]  # out of 1
        ```

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

    Example:
        ```python
        found = promptkit.evaluate(["runs/coop"], data="pictures/", keep=True)
        for run, domains in found.items():
            for domain, scores in domains.items():
                print(run, domain, scores["accuracy"], scores.n)
        ```

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


def bench(
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

    Example:
        ```python
        frame = promptkit.bench("few-shot", ["zeroshot", "coop"], "pictures/", shots=[1], epochs=1, backbone="demo")
        frame.groupby(["learner", "domain"])["accuracy"].agg(["mean", "std"])
        ```

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

    Example:
        ```python
        tuned = promptkit.tune("coop", {"train.lr": "1e-4..1e-2:log"}, trials=2, data="pictures/", epochs=1, backbone="demo")
        tuned.trials.sort_values("accuracy")
        promptkit.train("coop", "runs/tuned", data="pictures/", epochs=1, backbone="demo", **tuned.settings)
        ```

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
    from promptkit.experiments.tuning import BEST, Tuner, Tuning

    sets, flags = _settings("train", settings)
    texts = [f"{key}={one if isinstance(one, str) else ','.join(map(str, one))}" for key, one in vary.items()]
    folder = Path(out) if out is not None else Path("runs") / f"tune-{recipe}"
    tuning = Tuning(recipe, texts, sets, flags, study, storage, prune)
    tuner = Tuner(tuning, folder, installed(), console or Console(), cache)
    tuner.run(trials)
    best = tuner.best()
    return Tuned(best.settings, best.accuracy, TrainedRun(best.run), folder / BEST, tuner.frame())


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

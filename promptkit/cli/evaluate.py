"""`promptkit eval`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptkit.cli import options
from promptkit.settings import BackboneSettings, EvalSettings, parsed

if TYPE_CHECKING:
    from rich.table import Table

    from promptkit.evaluation.evaluate import Evaluation


@options.with_settings("eval", {"eval": EvalSettings, "backbone": BackboneSettings})
def evaluate(
    runs: Annotated[list[Path], typer.Argument(help="Folders that promptkit train made.", metavar="RUN...")],
    given: options.Given = options.NOTHING,
    cache: options.Cache = True,
    json_: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here as well.", show_default=False)
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Evaluate runs on every domain, side by side.

    Learners are asked for the classes of the data, so classes that none of them was trained on work.
    """

    from promptkit.cli.console import RANK, console, progress
    from promptkit.cli.plugins import warn_broken
    from promptkit.evaluation import evaluate as evaluation
    from promptkit.evaluation.runs import open_runs
    from promptkit.registry import installed
    from promptkit.training.run import warn_unreadable

    registry = installed()
    warn_broken(registry)
    settings = parsed(EvalSettings, {key.removeprefix("eval."): given[key] for key in given if key.startswith("eval.")})
    opened = open_runs(runs, settings, {key: given[key] for key in given if not key.startswith("eval.")})
    with progress() as bar:
        task = bar.add_task("evaluating", total=len(opened.dataset.items))
        found = evaluation.evaluate(
            opened.learners,
            opened.dataset,
            settings,
            cache,
            registry.metrics,
            on_batch=lambda images: bar.advance(task, images),
        )
    warn_unreadable(found.unreadable)
    console().print(
        f"{opened.path}: {settings.split} pictures, {len(opened.dataset.classnames)} classes", soft_wrap=True
    )
    console().print(_table(found))
    if json_ and not RANK:
        _write_json(json_, found, opened.dataset.classnames)


def _table(found: "Evaluation") -> "Table":
    """A row per domain, then the mean and the worst over domains; accuracy and macro accuracy for each run."""
    from rich.table import Table

    table = Table()
    table.add_column("domain")
    for name in found.scores:
        table.add_column(f"{name}\naccuracy", justify="right")
        table.add_column("\nmacro", justify="right")
    table.add_column("\nn", justify="right")
    by_run = list(found.scores.values())
    domains = list(by_run[0])
    for domain in domains:
        cells = [
            f"{100 * scores[domain][figure]:.1f}" for scores in by_run for figure in ("accuracy", "macro_accuracy")
        ]
        table.add_row(domain, *cells, str(by_run[0][domain].n), end_section=domain == domains[-1])
    if len(domains) > 1:
        for label, combine in (("mean", lambda values: sum(values) / len(values)), ("worst", min)):
            cells = [
                f"{100 * combine([scores[domain][figure] for domain in domains]):.1f}"
                for scores in by_run
                for figure in ("accuracy", "macro_accuracy")
            ]
            table.add_row(label, *cells, "")
    return table


def _write_json(path: Path, found: "Evaluation", classnames: tuple[str, ...]) -> None:
    """Every figure of every domain; `per_class` in the order of `classes`."""
    import json

    from promptkit.files import writing

    figures = {
        run: {domain: {**score.figures, "per_class": score.per_class, "n": score.n} for domain, score in scores.items()}
        for run, scores in found.scores.items()
    }
    worst = {run: min(scores.items(), key=lambda item: item[1]["accuracy"]) for run, scores in found.scores.items()}
    content = {
        "runs": figures,
        "worst_domain": {
            run: {"domain": domain, "accuracy": score["accuracy"]} for run, (domain, score) in worst.items()
        },
        "classes": classnames,
        "unreadable": [str(image.path) for image in found.unreadable],
    }
    with writing(path, "the figures stand above; choose another FILE for --json"):
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

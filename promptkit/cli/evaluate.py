"""`promptkit eval`"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptkit.cli import options
from promptkit.errors import ConfigError
from promptkit.imports import uncollected
from promptkit.settings import BackboneSettings, EvalSettings, parsed

if TYPE_CHECKING:
    from promptkit.evaluation.evaluate import Evaluation
    from promptkit.experiments.formats import Table
    from promptkit.metrics import Scores


@options.with_settings("eval", {"eval": EvalSettings, "backbone": BackboneSettings})
def evaluate(
    runs: Annotated[list[Path], typer.Argument(help="Folders that promptkit train made.", metavar="RUN...")],
    given: options.Given = options.NOTHING,
    cache: options.Cache = True,
    json_: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here as well.", show_default=False)
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep each picture's answer in the run's folder: RUN/records/.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SLOT.FIELD=VALUE",
            help="What happens at test time: learner.*, test_views.*, or another learner or test_views. Repeatable.",
            show_default=False,
        ),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Evaluate runs on every domain, side by side.

    Learners are asked about the classes they were trained on, or, where the data has others, about those of the data.
    """
    with uncollected():
        from rich.console import Console

        from promptkit import distributed
        from promptkit.cli.console import console, rank
        from promptkit.cli.plugins import warn_broken
        from promptkit.data.images import warn_unreadable
        from promptkit.evaluation import evaluate as evaluation
        from promptkit.evaluation.runs import keep_answers, open_runs
        from promptkit.experiments.formats import rich_table
        from promptkit.progress import reported
        from promptkit.registry import installed

    registry = installed()
    warn_broken(registry)
    settings = parsed(EvalSettings, {key.removeprefix("eval."): given[key] for key in given if key.startswith("eval.")})
    if settings.domains and (gone := [str(run) for run in runs if not os.path.lexists(run)]):
        meant = ",".join((settings.domains, *gone))
        raise ConfigError(f"there is no run {', '.join(gone)}", f"did you mean --domains {meant}?")
    opened = open_runs(runs, settings, {key: given[key] for key in given if not key.startswith("eval.")}, set_ or ())
    work = evaluation.work(opened.learners, opened.dataset)
    with reported(Console(stderr=True, quiet=rank() > 0), "evaluating", work) as advance:
        found = evaluation.evaluate(
            opened.learners,
            opened.dataset,
            settings,
            cache,
            registry.metrics,
            on_batch=lambda images: advance(images * distributed.processes()),
        )
    warn_unreadable(found.unreadable)
    asked = {run: learner.classnames for run, learner in opened.learners.items()}
    console().print(
        f"{opened.path}: {settings.split} images of {len(opened.dataset.classnames)} classes", soft_wrap=True
    )
    console().print(rich_table(_table(found, asked)))
    if keep and not rank():
        for folder in keep_answers(opened, found, settings, set_ or ()):
            console().print(f"kept {folder}", soft_wrap=True, markup=False)
    if json_ and not rank():
        _write_json(json_, found, opened.dataset.classnames, asked)


def _table(found: "Evaluation", asked: Mapping[str, Sequence[str]]) -> "Table":
    """A row per domain, then the mean and the worst over domains; accuracy and macro accuracy of each run.

    `asked` are the classes that each run was asked about.
    """
    from promptkit.experiments.formats import Table

    shown = [(run, figure) for run in found.scores for figure in ("accuracy", "macro_accuracy")]
    heads = [head for run in found.scores for head in (f"{run}\nof {len(asked[run])} classes\naccuracy", "\n\nmacro")]
    first = next(iter(found.scores.values()))
    figures = [
        [100 * scores[domain][figure] for domain in scores] for run, figure in shown for scores in [found.scores[run]]
    ]
    rows = [(domain, *texts, str(first[domain].n)) for domain, *texts in zip(first, *map(_texts, figures), strict=True)]
    if len(first) > 1:
        rows.append(("mean", *_texts([fmean(column) for column in figures]), ""))
        rows.append(("worst", *_texts([min(column) for column in figures]), ""))
    return Table("", ("domain", *heads, "\n\nn"), tuple(rows), 1, parts=frozenset({len(first) - 1}))


def _texts(figures: Sequence[float]) -> list[str]:
    return [f"{figure:.1f}" for figure in figures]


def _write_json(path: Path, found: "Evaluation", classnames: Sequence[str], asked: Mapping[str, Sequence[str]]) -> None:
    """Every figure of every domain; `per_class` in the order of `classes`, those of the images."""
    import json

    from promptkit.files import write_output

    def figures(run: str, score: "Scores") -> dict[str, Any]:
        shares = dict(zip(asked[run], score.per_class, strict=True))
        return {**score.figures, "per_class": [shares[name] for name in classnames], "n": score.n}

    worst = {run: min(scores.items(), key=lambda item: item[1]["accuracy"]) for run, scores in found.scores.items()}
    content = {
        "runs": {
            run: {domain: figures(run, score) for domain, score in scores.items()}
            for run, scores in found.scores.items()
        },
        "worst_domain": {
            run: {"domain": domain, "accuracy": score["accuracy"]} for run, (domain, score) in worst.items()
        },
        "classes": classnames,
        "asked": asked,
        "unreadable": [str(image.path) for image in found.unreadable],
    }
    write_output(
        path, (json.dumps(content, indent=2) + "\n").encode(), "the figures stand above; choose another FILE for --json"
    )

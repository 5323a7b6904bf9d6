"""From runs, or the folder of a bench, to the page."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from promptkit.data.images import warn_unreadable
from promptkit.errors import CheckpointError, DataError
from promptkit.evaluation.evaluate import evaluate
from promptkit.evaluation.runs import keep_answers, names_of, open_runs
from promptkit.experiments.formats import html_
from promptkit.experiments.results import read_results
from promptkit.experiments.summary import Summary, summaries
from promptkit.experiments.tables import all_statistics, side_by_side
from promptkit.extras import needs
from promptkit.progress import reported
from promptkit.registry import installed
from promptkit.report.answers import read_answers
from promptkit.report.content import gather
from promptkit.report.figures import draw
from promptkit.report.page import Subject, render
from promptkit.report.plots import INK, to_svg
from promptkit.runs.checkpoint import read_metadata
from promptkit.runs.hub import local_run
from promptkit.settings import EvalSettings, Scalar

SIDE_BY_SIDE = 6
"""Runs of a bench."""


def needs_extra(*libraries: str) -> None:
    """Raises ConfigError where libraries are not installed: those that write pages and draw, if none is named."""
    needs("a page", *(libraries or ("jinja2", "matplotlib")))


def runs_subject(runs: Sequence[Path], settings: EvalSettings, flags: dict[str, Scalar], anew: bool) -> Subject:
    """Runs side by side. They are evaluated, and keep their answers, where they have no record of the same pictures.

    `anew` evaluates them in any case. Raises what `open_runs` and `evaluate` do.
    """
    runs = [local_run(run) for run in runs]
    for run in runs:
        read_metadata(run)
    by_name = {name: run for run, name in names_of(runs).items()}
    data = Path(settings.data) if settings.data else None
    answers = [] if anew else read_answers(by_name, data)
    if not answers:
        opened = open_runs(runs, settings, flags)
        work = (1 + len(opened.learners)) * len(opened.dataset.items)
        with reported(Console(stderr=True), "evaluating", work) as advance:
            found = evaluate(opened.learners, opened.dataset, settings, metrics=installed().metrics, on_batch=advance)
        warn_unreadable(found.unreadable)
        keep_answers(opened, found, settings)
        answers = read_answers(by_name)
    return Subject(", ".join(by_name), by_name, answers)


def bench_subject(folder: Path) -> Subject:
    """The tables of a bench, and the runs of one seed, with the answers that they kept.

    Raises DataError where there is no result, CheckpointError where no run of it is there any more.
    """
    results = read_results([folder])
    found = summaries(results)
    tables = html_([side_by_side(summary).trimmed() for summary in found])
    statistics = html_([all_statistics(summary).trimmed() for summary in found])
    runs: dict[str, Path] = {}
    for path in sorted(folder.rglob("results.jsonl"), key=lambda path: ("seed-1" not in path.parts, path)):
        learner = next(result.learner for result in read_results([path.parent]))
        if learner not in runs and len(runs) < SIDE_BY_SIDE:
            runs[learner] = path.parent
    if not runs:
        raise CheckpointError(f"{folder} holds results, and no runs", "give the folder that promptkit bench wrote")
    return Subject(str(folder), runs, read_answers(runs, largest=True), tables, statistics, _figures(found, folder))


def _figures(found: Sequence[Summary], folder: Path) -> list[str]:
    """Those of each protocol that its results have."""
    svgs = []
    for number, summary in enumerate(found):
        for kind in ("few-shot", "base-new", "domains"):
            with contextlib.suppress(DataError):
                svgs.append(
                    to_svg(draw(kind, summary, [folder], INK), f"figure{number}{kind}", f"{summary.title}: {kind}")
                )
    return svgs


def make_page(subject: Subject, flags: dict[str, Scalar], device: str) -> str:
    """The page, as HTML."""
    parts = gather(subject.runs, subject.answers, flags, device)
    return render(subject, parts)

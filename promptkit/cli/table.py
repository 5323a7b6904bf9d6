"""`promptkit table`"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptkit.cli import options
from promptkit.experiments.formats import FORMATS, rich_table

if TYPE_CHECKING:
    from promptkit.experiments.formats import Table
    from promptkit.experiments.results import Result


def table(
    results: Annotated[
        list[Path], typer.Argument(help="Folders that promptkit bench made.", metavar="RESULTS...", show_default=False)
    ],
    format_: Annotated[str, typer.Option("--format", help=f"{', '.join(('rich', *FORMATS))}.")] = "rich",
    protocol: Annotated[
        str | None, typer.Option(help="Its results alone; those of all by default.", show_default=False)
    ] = None,
    metric: Annotated[
        str, typer.Option(help="accuracy, macro_accuracy, top5, ...: see promptkit list metric.")
    ] = "accuracy",
    compare: Annotated[
        str | None,
        typer.Option(
            help="Learners, such as gopro,coop, or all: the differences of every two, paired by data set and seed; over six "
            "data sets or more, Wilcoxon's test, and Friedman's where there are three learners."
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Say instead which rows of a table were made with other packages, weights or pictures."
        ),
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Make tables of results: learners side by side, then all statistics, with what is published.

    csv holds the statistics alone; with --compare, the comparison alone. With --check the exit status is 1 where the rows
    of a table were made with different versions of a package, weights of a backbone or pictures.
    """
    from promptkit.errors import UnknownNameError
    from promptkit.experiments.results import read_results

    if format_ not in ("rich", *FORMATS):
        raise UnknownNameError("format", format_, ("rich", *FORMATS))
    found = read_results(results, protocol or "")
    if check:
        print_check(found, format_)
    else:
        print_tables(found, format_, metric, compare)


def print_check(results: "Sequence[Result]", format_: str = "rich") -> None:
    """What the rows of each table were made with, where it was not the same; the exit status is 1 then."""
    from promptkit.experiments.check import made_with
    from promptkit.experiments.summary import summaries

    tables = [made_with(summary).trimmed() for summary in summaries(results)]
    _print(tables, format_)
    raise typer.Exit(int(any(table.rows for table in tables)))


def print_tables(
    results: "Sequence[Result]", format_: str = "rich", metric: str = "accuracy", compare: str | None = None
) -> None:
    """Every protocol, and every data set that one transfers from, has tables of its own."""
    from promptkit.errors import ConfigError
    from promptkit.experiments.summary import summaries
    from promptkit.experiments.tables import all_statistics, comparisons, side_by_side
    from promptkit.experiments.variants import split_learners
    from promptkit.registry import installed

    learners = split_learners(compare or "")
    if learners == ["all"]:
        learners = list(dict.fromkeys(result.learner for result in results))
    if compare is not None and len(set(learners)) < max(2, len(learners)):
        raise ConfigError(
            f"--compare {compare}: two learners or more are expected, each once", "such as: --compare gopro,coop"
        )
    found = summaries(results, installed().get("metric", metric))
    compared = comparisons(found, learners) if learners else []
    if format_ == "csv":
        tables = compared or [all_statistics(summary) for summary in found]
    else:
        made = [make(summary) for summary in found for make in (side_by_side, all_statistics)]
        tables = [one.trimmed() for one in made + compared]
    _print(tables, format_)


def _print(tables: "Sequence[Table]", format_: str) -> None:
    from promptkit.cli.console import console

    if format_ != "rich":
        typer.echo(FORMATS[format_](tables), nl=False)
        return
    for table in tables:
        console().print(table.title, soft_wrap=True, markup=False)
        if table.rows:
            console().print(rich_table(table))

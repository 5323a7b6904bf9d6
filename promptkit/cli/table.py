"""`promptkit table`"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptkit.cli import options
from promptkit.settings import split_names

if TYPE_CHECKING:
    from promptkit.bench.results import Result


def table(
    results: Annotated[
        list[Path], typer.Argument(help="Folders that promptkit bench made.", metavar="RESULTS...", show_default=False)
    ],
    format_: Annotated[str, typer.Option("--format", help="rich, markdown, latex, csv or html.")] = "rich",
    protocol: Annotated[
        str | None, typer.Option(help="Its results alone; those of all by default.", show_default=False)
    ] = None,
    metric: Annotated[
        str, typer.Option(help="accuracy, macro_accuracy, top5, ...: see promptkit list metric.")
    ] = "accuracy",
    compare: Annotated[
        str | None,
        typer.Option(help="Two learners, such as gopro,coop: their differences, paired by data set and seed."),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Make tables of results: learners side by side, then all statistics, with what is published.

    csv holds the statistics alone; with --compare, the comparison alone.
    """
    from promptkit.bench.results import read_results
    from promptkit.errors import UnknownNameError

    found = read_results(results)
    if protocol:
        there = {result.protocol for result in found}
        if protocol not in there:
            raise UnknownNameError("protocol", protocol, there, f"with results: {', '.join(sorted(there))}")
        found = [result for result in found if result.protocol == protocol]
    print_tables(found, format_, metric, compare)


def print_tables(
    results: "Sequence[Result]", format_: str = "rich", metric: str = "accuracy", compare: str | None = None
) -> None:
    """Every protocol, and every data set that one transfers from, has tables of its own."""
    from promptkit.bench.formats import FORMATS, rich_table
    from promptkit.bench.summary import summaries
    from promptkit.bench.tables import all_statistics, comparisons, side_by_side
    from promptkit.cli.console import console
    from promptkit.errors import ConfigError, UnknownNameError
    from promptkit.registry import installed

    if format_ not in ("rich", *FORMATS):
        raise UnknownNameError("format", format_, ("rich", *FORMATS))
    pair = split_names(compare or "")
    if compare is not None and len(pair) != 2:
        raise ConfigError(f"--compare {compare}: two learners are expected", "such as: --compare gopro,coop")
    found = summaries(results, installed().get("metric", metric))
    compared = comparisons(found, *pair) if pair else []
    if format_ == "csv":
        tables = compared or [all_statistics(summary) for summary in found]
    else:
        made = [make(summary) for summary in found for make in (side_by_side, all_statistics)]
        tables = [one.trimmed() for one in made + compared]
    if format_ == "rich":
        for one in tables:
            console().print(one.title, soft_wrap=True, markup=False)
            console().print(rich_table(one))
    else:
        typer.echo(FORMATS[format_](tables), nl=False)

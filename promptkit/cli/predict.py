"""`promptkit predict`"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptkit.cli import options
from promptkit.imports import uncollected
from promptkit.settings import BackboneSettings, PredictSettings, parsed

if TYPE_CHECKING:
    from rich.table import Table

    from promptkit.prediction.classifier import Answer


@options.with_settings("eval", {"predict": PredictSettings, "backbone": BackboneSettings})
def predict(
    run: Annotated[Path, typer.Argument(help=options.RUN_OR_RECIPE, metavar="RUN", show_default=False)],
    pictures: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders with all that they hold, patterns such as '*.jpg', or - for a list on the standard input.",
            metavar="PICTURES...",
            show_default=False,
        ),
    ],
    classes: options.AskedClasses = "trained",
    topk: Annotated[int, typer.Option(help="How many of the likeliest classes to say.", min=1)] = 5,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write .csv, .jsonl or .parquet instead of printing.", show_default=False),
    ] = None,
    given: options.Given = options.NOTHING,
    debug: options.Debug = False,
) -> None:
    """Say what new pictures show, with probabilities.

    A table on a terminal; elsewhere a line for each picture as it is done: path, then class and probability, likeliest
    first, with tabs between.
    """
    with uncollected():
        from rich.console import Console

        from promptkit.cli.console import console, visible
        from promptkit.cli.plugins import warn_broken
        from promptkit.data.images import Unreadable, warn_unreadable
        from promptkit.errors import DataError
        from promptkit.files import FOR_OUT, check_output
        from promptkit.prediction.classifier import Answer, open_classifier
        from promptkit.prediction.output import check_format, write_answers
        from promptkit.prediction.pictures import find_pictures
        from promptkit.progress import reported
        from promptkit.registry import installed

    if out:
        check_format(out)
        check_output(out, FOR_OUT)
    names = options.class_names(classes)
    paths = find_pictures(pictures, sys.stdin)
    warn_broken(installed())
    slot = "predict."
    settings = parsed(PredictSettings, {key.removeprefix(slot): given[key] for key in given if key.startswith(slot)})
    flags = {key: given[key] for key in given if not key.startswith(slot)}
    classifier = open_classifier(run, names, settings.device, flags, settings)
    terminal = console()
    lines = not out and not terminal.is_terminal
    answers: dict[Path, list[Answer]] = {}
    unreadable: list[Unreadable] = []
    with reported(Console(stderr=True), "predicting", len(paths)) as advance:
        for answered in classifier.classify_files(paths, topk):
            unreadable += answered.unreadable
            if lines:
                for path, said in answered.answers.items():
                    cells = (f"{one['label']}\t{one['score']:.4f}" for one in said)
                    typer.echo("\t".join([visible(str(path)), *cells]))
            else:
                answers |= answered.answers
            advance(len(answered.answers) + len(answered.unreadable))
    warn_unreadable(unreadable, listed=len(unreadable))
    if len(unreadable) == len(paths):
        raise DataError("not one of the pictures could be read", "the warning says why")
    if out:
        write_answers(out, answers)
        terminal.print(f"{len(answers)} pictures in {out}", soft_wrap=True, markup=False)
    elif not lines:
        terminal.print(_table(answers))


def _table(answers: "dict[Path, list[Answer]]") -> "Table":
    from rich.table import Table

    from promptkit.cli.console import escape

    table = Table("picture", "class", "", box=None)
    for path, said in answers.items():
        first, *others = said
        rest = ", ".join(f"{escape(one['label'])} {one['score']:.1%}" for one in others)
        table.add_row(escape(str(path)), f"[bold]{escape(first['label'])}[/] {first['score']:.1%}", rest)
    return table

"""`promptkit runs`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptkit.cli import options

if TYPE_CHECKING:
    from promptkit.runs.listing import ListedRun


def runs(
    folder: Annotated[Path, typer.Argument(help="The folder that runs lie in or below.")] = Path("runs"),
    debug: options.Debug = False,
) -> None:
    """List the runs below a folder: what they are, how far they got, and their best figures."""
    from rich.table import Table

    from promptkit.cli.console import console, escape
    from promptkit.runs.listing import list_runs

    found = list_runs(folder)
    if not found:
        console().print(f"no runs in {escape(str(folder))}", soft_wrap=True)
        return
    table = Table("run", "recipe", "data", "seed", "epoch", "status", "best", box=None)
    for run in found:
        seed = "" if run.seed is None else str(run.seed)
        epoch = f"{run.epoch}/{run.epochs}" if run.recipe else ""
        table.add_row(escape(str(run.path)), escape(run.recipe), escape(run.data), seed, epoch, run.status, _best(run))
    console().print(table)
    for run in found:
        if run.cause:
            console().print(f"{escape(str(run.path))} is damaged: {escape(run.cause)}", soft_wrap=True)


def _best(run: "ListedRun") -> str:
    from promptkit.cli.console import escape

    shown = (
        f"val {100 * value:.1f} %" if name == "val_accuracy" else f"{escape(name)} {value:.4f}"
        for name, value in run.best.items()
    )
    return "  ".join(shown)

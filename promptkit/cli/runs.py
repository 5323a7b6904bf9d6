"""`promptkit runs`"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from promptkit.cli import options


def runs(
    folder: Annotated[Path, typer.Argument(help="The folder that runs lie in or below.")] = Path("runs"),
    debug: options.Debug = False,
) -> None:
    """List the runs below a folder: what they are, how far they got, the figures of what was kept, and of the best epoch."""
    from rich.table import Table

    from promptkit.cli.console import console, escape
    from promptkit.runs.listing import list_runs

    found = list_runs(folder)
    if not found:
        console().print(f"no runs in {escape(str(folder))}", soft_wrap=True)
        return
    table = Table("run", "recipe", "data", "seed", "epoch", "status", "kept", "best", box=None)
    for run in found:
        seed = "" if run.seed is None else str(run.seed)
        epoch = f"{run.epoch}/{run.epochs}" if run.recipe else ""
        best = "" if run.best is None else f"{_told({'val_accuracy': run.best})}, epoch {run.best_epoch}"
        names = (escape(text) for text in (str(run.path), run.recipe, run.data))
        table.add_row(*names, seed, epoch, run.status, _told(run.kept), best)
    console().print(table)
    for run in found:
        if run.cause:
            console().print(f"{escape(str(run.path))} is damaged: {escape(run.cause)}", soft_wrap=True)


def _told(figures: Mapping[str, float]) -> str:
    from promptkit.cli.console import escape

    shown = (
        f"val {100 * value:.1f} %" if name == "val_accuracy" else f"{escape(name)} {value:.4f}"
        for name, value in figures.items()
    )
    return "  ".join(shown)

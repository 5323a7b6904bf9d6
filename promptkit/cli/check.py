"""`promptkit check`"""

from typing import Annotated

import typer

from promptkit.cli import options
from promptkit.errors import ConfigError


def check(
    name: Annotated[str, typer.Argument(help="A recipe or component, such as gopro.")],
    debug: options.Debug = False,
) -> None:
    """Check that a recipe or component keeps the contract: trained for a moment, on a tiny backbone.

    The exit status is 1 when something fails. Plugin authors run the same from a test: promptkit.testing.
    """
    from rich.table import Table

    from promptkit.cli.console import console, escape
    from promptkit.cli.plugins import find, warn_broken
    from promptkit.registry import installed
    from promptkit.testing.conformance import CHECKS, examine

    registry = installed()
    warn_broken(registry)
    terminal = console()
    failed = False
    for entry in find(registry, name):
        if entry.kind not in CHECKS:
            raise ConfigError(
                f"there is nothing to check about the {entry.kind} {name!r}", "promptkit data looks at data"
            )
        table = Table("check", "result", box=None, title=f"{entry.kind} {entry.name}", title_justify="left")
        for outcome in examine(entry.kind, entry.name):
            result = f"[red bold]fails[/]: {escape(outcome.problem)}" if outcome.problem else "ok"
            table.add_row(outcome.check, result)
            failed |= bool(outcome.problem)
        terminal.print(table)
        terminal.print()
    raise typer.Exit(int(failed))

"""The command line. Nothing here imports torch or loads a plugin; the commands do, when they run."""

import logging
import os
import sys
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

import promptkit
from promptkit.cli import bench, cache, check, data, demo, evaluate, install, new, plugins, runs, table, train
from promptkit.cli.console import RANK
from promptkit.errors import PromptkitError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"promptkit {promptkit.__version__}")
        raise typer.Exit()


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train and evaluate CLIP prompt learners on your own pictures."""


RUNS, IMAGES, PLUGINS = "Runs", "Pictures", "Plugins"
"""The panels of the help."""

app.command("demo", rich_help_panel=RUNS)(demo.demo)
app.command("train", no_args_is_help=True, rich_help_panel=RUNS)(train.train)
app.command("eval", no_args_is_help=True, rich_help_panel=RUNS)(evaluate.evaluate)
app.command("bench", no_args_is_help=True, rich_help_panel=RUNS)(bench.bench)
app.command("table", no_args_is_help=True, rich_help_panel=RUNS)(table.table)
app.command("runs", rich_help_panel=RUNS)(runs.runs)
app.command("data", no_args_is_help=True, rich_help_panel=IMAGES)(data.data)
app.command("demo-data", no_args_is_help=True, rich_help_panel=IMAGES)(demo.demo_data)
app.add_typer(cache.app, name="cache", rich_help_panel=IMAGES)
app.command("list", rich_help_panel=PLUGINS)(plugins.list_)
app.command("show", no_args_is_help=True, rich_help_panel=PLUGINS)(plugins.show)
app.command("install", no_args_is_help=True, context_settings=install.PASSES_ON, rich_help_panel=PLUGINS)(
    install.install
)
app.command("uninstall", no_args_is_help=True, rich_help_panel=PLUGINS)(install.uninstall)
app.command("new", no_args_is_help=True, rich_help_panel=PLUGINS)(new.new)
app.command("check", no_args_is_help=True, rich_help_panel=PLUGINS)(check.check)

INTERRUPTED = 130
"""The shell's exit status of a program that Ctrl-C ended."""


def main() -> None:
    """Run a command; whatever goes wrong becomes one message, and a trace only with --debug."""
    debug = "--debug" in sys.argv[1:]
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    _log_to(Console(stderr=True, soft_wrap=True, highlight=False, quiet=RANK > 0), debug)
    try:
        # click would turn Ctrl-C into an "Aborted!" that says nothing of what was kept.
        status = app(standalone_mode=True)
    except PromptkitError as error:
        _let_the_first_speak(errors)
        if debug:
            errors.print_exception()
        errors.print(f"[red bold]error:[/] {escape(error.message)}")
        if error.hint:
            errors.print(f"[bold]hint:[/]  {escape(error.hint)}")
        status = 2
    except BrokenPipeError:
        # The reader, such as head, has gone; Python must not trip over it again while it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except Exception as error:
        _let_the_first_speak(errors)
        if debug:
            raise
        errors.print(f"[red bold]error:[/] unexpected {type(error).__name__}: {escape(str(error))}")
        errors.print("[bold]hint:[/]  --debug shows where; please report it")
        status = 1
    sys.exit(status)


def _let_the_first_speak(errors: Console) -> None:
    """A mistake that all processes make ends the first one, and with it the others, before they repeat it."""
    if RANK:
        time.sleep(10)
        errors.print(f"process {RANK}:")


def _log_to(console: Console, debug: bool) -> None:
    """Everything promptkit logs goes to stderr, a line each, warnings marked."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            mark = "[yellow bold]warning:[/] " if record.levelno >= logging.WARNING else ""
            console.print(f"{mark}{escape(record.getMessage())}")

    log = logging.getLogger("promptkit")
    log.handlers = [Handler()]
    log.setLevel(logging.DEBUG if debug else logging.INFO)
    log.propagate = False

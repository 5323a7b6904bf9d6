"""The command line. Nothing here imports torch or loads a plugin; the commands do, when they run."""

import functools
import io
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich import markup
from rich.console import Console

import promptkit
from promptkit import interrupts
from promptkit.cli import (
    bench,
    cache,
    check,
    data,
    demo,
    evaluate,
    explain,
    export,
    figure,
    help,
    install,
    new,
    plan,
    plugins,
    predict,
    report,
    runs,
    share,
    table,
    train,
    tune,
)
from promptkit.cli.command import Command
from promptkit.cli.console import Prose, escape, rank, visible
from promptkit.errors import NotEnoughMemoryError, OutputError, PromptkitError

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


def _add(name: str, command: Callable[..., None], to: typer.Typer = app, **words: Any) -> None:
    """Register a command. Typer would take a plugin's KeyboardInterrupt for the user's, and end without a word."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt as error:
            if not _explained(error):
                raise
            raise RuntimeError("KeyboardInterrupt") from error

    to.command(name, cls=Command, **words)(guarded)


RUNS, IMAGES, PLUGINS = "Runs", "Pictures", "Plugins"
"""The panels of the help."""

_add("demo", demo.demo, rich_help_panel=RUNS)
_add("train", train.train, no_args_is_help=True, rich_help_panel=RUNS)
_add("plan", plan.plan, no_args_is_help=True, rich_help_panel=RUNS)
_add("eval", evaluate.evaluate, no_args_is_help=True, rich_help_panel=RUNS)
_add("predict", predict.predict, no_args_is_help=True, rich_help_panel=RUNS)
_add("bench", bench.bench, no_args_is_help=True, rich_help_panel=RUNS)
_add("tune", tune.tune, no_args_is_help=True, rich_help_panel=RUNS)
_add("table", table.table, no_args_is_help=True, rich_help_panel=RUNS)
_add("explain", explain.explain, no_args_is_help=True, rich_help_panel=RUNS)
_add("figure", figure.figure, no_args_is_help=True, rich_help_panel=RUNS)
_add("report", report.report, no_args_is_help=True, rich_help_panel=RUNS)
_add("export", export.export, no_args_is_help=True, rich_help_panel=RUNS)
_add("push", share.push, no_args_is_help=True, rich_help_panel=RUNS)
_add("pull", share.pull, no_args_is_help=True, rich_help_panel=RUNS)
_add("runs", runs.runs, rich_help_panel=RUNS)
_add("show", data.show, data.app, no_args_is_help=True)
_add("get", data.get, data.app)
_add("import", data.import_, data.app, no_args_is_help=True)
app.add_typer(data.app, name="data", rich_help_panel=IMAGES)
_add("demo-data", demo.demo_data, no_args_is_help=True, rich_help_panel=IMAGES)
app.add_typer(cache.app, name="cache", rich_help_panel=IMAGES)
_add("list", plugins.list_, rich_help_panel=PLUGINS)
_add("show", plugins.show, no_args_is_help=True, rich_help_panel=PLUGINS)
_add("install", install.install, no_args_is_help=True, context_settings=install.PASSES_ON, rich_help_panel=PLUGINS)
_add("uninstall", install.uninstall, no_args_is_help=True, rich_help_panel=PLUGINS)
_add("new", new.new, no_args_is_help=True, rich_help_panel=PLUGINS)
_add("check", check.check, no_args_is_help=True, rich_help_panel=PLUGINS)
_add("help", help.help_)

INTERRUPTED = 130
"""The shell's exit status of a program that Ctrl-C ended."""


def main() -> None:
    """Run a command; whatever goes wrong becomes one message, and a trace only with --debug."""
    debug = "--debug" in sys.argv[1:]
    errors = Prose(stderr=True, soft_wrap=True, highlight=False)
    _log_to(Prose(stderr=True, soft_wrap=True, highlight=False, quiet=rank() > 0), debug)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # which would fail at a name that it can't spell
            stream.reconfigure(errors="backslashreplace")
    try:
        _check_folder()
        interrupts.remember()
        # click would turn Ctrl-C into an "Aborted!" that says nothing of what was kept.
        status = _program()(standalone_mode=True)
    except BrokenPipeError:
        # The reader, such as head, has gone; Python must not trip over it again while it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        status = _answer(error, errors, debug)
    sys.exit(status)


@functools.cache
def _program() -> Any:
    """All commands, read from their signatures once, however many a process runs."""
    return typer.main.get_command(app)


def _check_folder() -> None:
    """Raises OutputError where the working folder is gone: nothing that has a name could be found."""
    try:
        os.getcwd()
    except OSError:
        raise OutputError("the folder that promptkit was started in is no longer there", "cd to one that is") from None


def _answer(error: BaseException, errors: Console, debug: bool) -> int:
    """Say what went wrong in one message; returns the exit status."""
    known = _explained(error)
    if known is None and isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if known is None and isinstance(error, KeyboardInterrupt):
        errors.print("stopped")
        return INTERRUPTED
    _let_the_first_speak(errors)
    if debug:
        errors.print_exception()
    if known is None and (isinstance(error, MemoryError) or "can't allocate memory" in str(error)):  # torch's
        known = NotEnoughMemoryError(
            f"there is not enough memory: {str(error)[:200]}",
            "ask for less: fewer context tokens, smaller batches, smaller pictures",
        )
    if known:
        errors.print(f"[red bold]error:[/] {markup.escape(visible(known.message, lines=True))}")
        if known.hint:
            errors.print(f"[bold]hint:[/]  {markup.escape(visible(known.hint, lines=True))}")
        if known.code:
            errors.print(f"[bold]more:[/]  promptkit help {known.code}")
        return 2
    errors.print(f"[red bold]error:[/] unexpected {type(error).__name__}: {escape(str(error))}")
    errors.print("[bold]hint:[/]  --debug shows where; please report it")
    return 1


def _explained(error: BaseException) -> PromptkitError | None:
    """See `promptkit.faults.explained`."""
    if isinstance(error, PromptkitError):
        return error
    if "promptkit.registry" not in sys.modules:  # no plugin is loaded that could be at fault
        return None
    from promptkit.faults import explained
    from promptkit.registry import installed

    return explained(error, installed())


def _let_the_first_speak(errors: Console) -> None:
    """A mistake that all processes make ends the first one, and with it the others, before they repeat it."""
    if rank():
        time.sleep(10)
        errors.print(f"process {rank()}:")


def _log_to(console: Console, debug: bool) -> None:
    """Everything promptkit logs goes to stderr, a line each, warnings marked."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            mark = "[yellow bold]warning:[/] " if record.levelno >= logging.WARNING else ""
            console.print(f"{mark}{markup.escape(visible(record.getMessage(), lines=True))}")

    log = logging.getLogger("promptkit")
    log.handlers = [Handler()]
    log.setLevel(logging.DEBUG if debug else logging.INFO)
    log.propagate = False

"""A hook of mkdocs: the page of the command line is made from its help while the site is built."""

from typing import Any

import typer
from typer.cli import get_docs_for_click

from promptkit.cli import app

PAGE = "cli.md"


def command_line() -> str:
    """Every command with its arguments and options, in Markdown."""
    root: Any = typer.main.get_command(app)
    keep_first_sentences(root)
    context = typer.Context(root, info_name="promptkit")
    return get_docs_for_click(obj=root, ctx=context, name="promptkit", title="Command line")


def keep_first_sentences(group: Any) -> None:
    """Typer cuts the summary of a command off at 45 letters."""
    for command in group.commands.values():
        command.short_help = (command.help or "").partition("\n")[0]
        if hasattr(command, "commands"):
            keep_first_sentences(command)


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    files.append(File.generated(config, PAGE, content=command_line()))
    return files

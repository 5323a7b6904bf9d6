"""A hook of mkdocs: the pages of the command line and of the settings are made from the code while the site is built."""

from typing import Any

import typer
from typer.cli import get_docs_for_click

from promptkit.cli import app
from promptkit.settings import SLOTS, option_fields


def command_line() -> str:
    """Every command with its arguments and options, in Markdown."""
    root: Any = typer.main.get_command(app)
    keep_first_sentences(root)
    context = typer.Context(root, info_name="promptkit")
    return get_docs_for_click(obj=root, ctx=context, name="promptkit", title="Command line")


def settings() -> str:
    """Every setting of a run, with its type, range, default, flag and help, in Markdown."""
    lines = [
        "# Settings",
        "",
        "`--set slot.field=value` sets any of them; those of components are listed by `promptkit show NAME`.",
    ]
    for slot, options in SLOTS.items():
        lines += [
            "",
            f"## {slot}",
            "",
            "| setting | type | default | flag | what it is |",
            "| --- | --- | --- | --- | --- |",
        ]
        for option in option_fields(options):
            flag = f"`--{(option.flag.name or option.name).replace('_', '-')}`" if option.flag else ""
            kind = option.type_name.replace("|", "\\|")
            lines.append(f"| `{slot}.{option.name}` | {kind} | `{option.default!r}` | {flag} | {option.help} |")
    return "\n".join(lines) + "\n"


def keep_first_sentences(group: Any) -> None:
    """Typer cuts the summary of a command off at 45 letters."""
    for command in group.commands.values():
        command.short_help = (command.help or "").partition("\n")[0]
        if hasattr(command, "commands"):
            keep_first_sentences(command)


PAGES = {"cli.md": command_line, "settings.md": settings}


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for page, make in PAGES.items():
        files.append(File.generated(config, page, content=make()))
    return files

"""Writes the pages that are made from the code, before the site is built: `python docs/generate.py`."""

from pathlib import Path
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
        "---\nhide: [toc]\n---\n",  # the tables need the room
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


if __name__ == "__main__":
    for page, make in PAGES.items():
        (Path(__file__).parent / page).write_text(make(), encoding="utf-8")

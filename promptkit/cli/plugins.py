"""`promptkit list` and `promptkit show`"""

from typing import TYPE_CHECKING, Annotated

import typer

from promptkit.cli import options
from promptkit.errors import UnknownNameError

if TYPE_CHECKING:
    from rich.console import Console

    from promptkit.registry import Entry, Registry


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="recipe, prompts, projector, views, loss, backbone or dataset; all by default.", show_default=False
        ),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """List what the core and the installed plugins offer."""
    from rich.table import Table

    from promptkit.cli.console import console
    from promptkit.registry import KINDS, installed

    if kind is not None and kind not in KINDS:
        raise UnknownNameError("kind", kind, KINDS)
    registry = installed()
    table = Table("kind", "name", "what it is", "from", box=None, title_justify="left")
    for entry in registry:
        if kind in (None, entry.kind):
            table.add_row(entry.kind, entry.name, entry.summary, f"{entry.package} {entry.version}")
    console().print(table)
    warn_broken(registry)


def show(
    name: Annotated[str, typer.Argument(help="A recipe or component, such as gopro.")],
    debug: options.Debug = False,
) -> None:
    """Show a recipe's slots and settings, or a component's options."""
    from promptkit.cli.console import console
    from promptkit.registry import installed

    registry = installed()
    warn_broken(registry)
    for entry in find(registry, name):
        _show_entry(console(), registry, entry)


def find(registry: "Registry", name: str) -> "list[Entry]":
    """Everything of that name, of whatever kind. Raises UnknownNameError when there is nothing."""
    found = [entry for entry in registry if entry.name == name]
    if not found:
        raise registry.unknown("recipe or component", name, {entry.name for entry in registry})
    return found


def _show_entry(console: "Console", registry: "Registry", entry: "Entry") -> None:
    from rich.markup import escape
    from rich.table import Table

    from promptkit.config import COMPONENT_SLOTS, option_fields, resolve

    console.print(
        f"[bold]{entry.kind} {entry.name}[/]  {escape(entry.summary)}  ({entry.package} {entry.version})",
        soft_wrap=True,
    )
    if entry.kind == "recipe":
        if entry.value.paper:
            console.print(f"paper: {escape(entry.value.paper)}", soft_wrap=True)
        config = resolve(registry, entry.name)
        table = Table("setting", "value", box=None)
        for slot, values in config.to_tables().items():
            if isinstance(values, dict):
                for key, value in values.items():
                    setting = slot if key == "name" and slot in COMPONENT_SLOTS else f"{slot}.{key}"
                    table.add_row(setting, escape(str(value)))
        console.print(table)
    elif hasattr(entry.value, "Options") and (fields := option_fields(entry.value.Options)):
        table = Table("option", "type", "default", "help", box=None)
        for option in fields:
            table.add_row(option.name, escape(option.type_name), escape(str(option.default)), escape(option.help))
        console.print(table)
    console.print()


def warn_broken(registry: "Registry") -> None:
    """One warning for each plugin that could not be loaded; its trace with --debug."""
    import logging

    log = logging.getLogger("promptkit")
    for plugin in registry.broken:
        log.warning("plugin %s failed to load: %s", plugin.package, plugin.cause)
        log.debug(plugin.trace)

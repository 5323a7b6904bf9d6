"""`promptkit list` and `promptkit show`"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptkit.cli import options
from promptkit.errors import UnknownNameError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from promptkit.config import RunConfig
    from promptkit.registry import Entry, Registry
    from promptkit.settings import OptionField


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="recipe, learner, prompts, projector, views, loss, backbone or dataset; all by default.",
            show_default=False,
        ),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """List what the core and the installed plugins offer."""
    from rich.table import Table

    from promptkit import index
    from promptkit.cli.console import console
    from promptkit.hooks import KINDS

    if kind is not None and kind not in KINDS:
        raise UnknownNameError("kind", kind, KINDS)
    registry = None
    if (rows := index.read()) is None:
        from promptkit.registry import installed

        registry = installed()
        rows = index.rows(registry)
    table = Table("kind", "name", "what it is", "from", box=None, title_justify="left")
    for row in rows:
        if kind in (None, row.kind):
            table.add_row(*row)
    console().print(table)
    if registry is not None:
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
    from promptkit.cli.console import escape
    from promptkit.config import resolve
    from promptkit.settings import option_fields

    console.print(
        f"[bold]{entry.kind} {entry.name}[/]  {escape(entry.summary)}  ({entry.package} {entry.version})",
        soft_wrap=True,
    )
    if entry.kind == "recipe":
        if entry.value.paper:
            console.print(f"paper: {escape(entry.value.paper)}", soft_wrap=True)
        _show_settings(console, registry, resolve(registry, entry.name))
    elif hasattr(entry.value, "Options") and (fields := option_fields(entry.value.Options)):
        table = _options_table("option")
        for option in fields:
            _add_option(table, option.name, option, option.default)
        console.print(table)
    console.print()


def _show_settings(console: "Console", registry: "Registry", config: "RunConfig") -> None:
    """What --set takes: each slot with its component and the package it is from, then the slot's settings."""
    from promptkit import __version__
    from promptkit.cli.console import escape
    from promptkit.offered import DISTRIBUTION
    from promptkit.registry import SLOT_KINDS
    from promptkit.settings import option_fields

    table = _options_table("setting")
    for slot, component in config.components.items():
        entry = registry.entry(SLOT_KINDS[slot], component.name)
        origin = f"{escape(entry.summary)}\nfrom {entry.package} {entry.version}"
        table.add_row(f"[bold]{slot}[/]", "component", component.name, origin)
        for option in option_fields(type(component.options)):
            _add_option(table, f"{slot}.{option.name}", option, getattr(component.options, option.name))
        table.add_row()
    for slot, settings in (("data", config.data), ("backbone", config.backbone), ("train", config.train)):
        table.add_row(f"[bold]{slot}[/]", "", "", f"from {DISTRIBUTION} {__version__}")
        for option in option_fields(type(settings)):
            _add_option(table, f"{slot}.{option.name}", option, getattr(settings, option.name))
        table.add_row()
    console.print(table)


def _options_table(what: str) -> "Table":
    from rich.table import Column, Table

    fold: Any = {"overflow": "fold"}
    return Table(Column(what, no_wrap=True), Column("type", **fold), Column("default", **fold), "help", box=None)


def _add_option(table: "Table", name: str, option: "OptionField", default: object) -> None:
    from promptkit.cli.console import escape

    table.add_row(name, option.type_name, escape(str(default)), escape(option.help))


def warn_broken(registry: "Registry") -> None:
    """One warning for each plugin that could not be loaded; its trace with --debug."""
    import logging

    from promptkit.offered import DISTRIBUTION, foreign_package

    log = logging.getLogger("promptkit")
    if foreign := foreign_package():
        log.warning("%s is another project's package; this one is %s: pip uninstall promptkit", foreign, DISTRIBUTION)
    for plugin in registry.broken:
        log.warning("plugin %s failed to load: %s", plugin.package, plugin.cause)
        log.debug(plugin.trace)

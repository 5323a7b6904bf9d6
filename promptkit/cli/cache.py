"""`promptkit cache`"""

from pathlib import Path
from typing import Annotated

import typer

from promptkit.cli import options
from promptkit.files import cache_folder

app = typer.Typer(help="What was kept of frozen image towers: list it, clear it.", no_args_is_help=True)


@app.command("list")
def list_(debug: options.Debug = False) -> None:
    """List what is kept by backbone and data set, the largest first."""
    import time

    from rich.table import Table

    from promptkit.cli.console import console, escape
    from promptkit.features.folder import cached_files
    from promptkit.features.shards import format_bytes

    files = cached_files()
    sizes: dict[tuple[str, str], int] = {}
    used: dict[tuple[str, str], float] = {}
    images: dict[tuple[str, str], set[bytes]] = {}
    views: dict[tuple[str, str], set[str]] = {}
    for file in files:
        contents = file.contents()
        about = contents.about if contents else {"backbone": "(damaged, or half written)"}
        group = str(about.get("backbone", "")), str(about.get("data", ""))
        sizes[group] = sizes.get(group, 0) + file.size
        used[group] = max(used.get(group, 0), file.used)
        images.setdefault(group, set()).update(contents.images if contents else ())
        views.setdefault(group, set()).add(str(about.get("views", "")))
    table = Table("size", "backbone", "data", "views", "images", "last used", box=None)
    for group in sorted(sizes, key=lambda group: -sizes[group]):
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(used[group]))
        shown = " | ".join(sorted(views[group]))
        table.add_row(format_bytes(sizes[group]), *map(escape, (*group, shown, str(len(images[group])), day)))
    if files:
        console().print(table)
    total = format_bytes(sum(sizes.values()))
    console().print(f"{len(files)} shards of features, {total} in {cache_folder()}", soft_wrap=True)


@app.command()
def clear(
    older_than: Annotated[float, typer.Option(min=0, metavar="DAYS", help="Only what was last used before.")] = 0,
    backbone: Annotated[str, typer.Option(help="Only what this backbone saw.")] = "",
    data: Annotated[Path | None, typer.Option(help="Only images of data in or below this folder.")] = None,
    debug: options.Debug = False,
) -> None:
    """Delete what is kept, all of it or what the options choose; it is computed again when it is needed."""
    from promptkit.cli.console import console
    from promptkit.errors import OutputError
    from promptkit.features.folder import delete_leftovers, select
    from promptkit.features.shards import delete_unused, format_bytes

    delete_leftovers()
    deleted, freed, in_use = 0, 0, 0
    for file in list(select(backbone, data, older_than * 86400)):
        try:
            gone = delete_unused(file.path)
        except OSError as error:
            raise OutputError(f"{file.path} can't be deleted: {error.strerror}") from None
        deleted, freed, in_use = deleted + gone, freed + file.size * gone, in_use + (not gone)
    kept = f"; {in_use} are in use by running processes and stay" if in_use else ""
    console().print(
        f"deleted {deleted} shards of features, {format_bytes(freed)}, from {cache_folder()}{kept}", soft_wrap=True
    )

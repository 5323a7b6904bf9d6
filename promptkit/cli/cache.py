"""`promptkit cache`"""

import typer

from promptkit.cli import options

app = typer.Typer(help="What was kept of frozen image towers: list it, clear it.", no_args_is_help=True)


@app.command("list")
def list_(debug: options.Debug = False) -> None:
    """List the feature caches, the largest first, and what they take on the disk."""
    from rich.table import Table

    from promptkit.cli.console import console, escape
    from promptkit.data.cachefile import format_bytes, read_about
    from promptkit.data.features import cache_folder, cached

    files = cached()
    table = Table("size", "backbone", "views", "versions", "images", "folder", box=None)
    for path, size in files:
        about = read_about(path) or {"backbone": "(damaged, or half written)"}
        columns = ("backbone", "views", "versions", "images", "folder")
        table.add_row(format_bytes(size), *(escape(str(about.get(column, ""))) for column in columns))
    if files:
        console().print(table)
    total = format_bytes(sum(size for _, size in files))
    console().print(f"{len(files)} feature caches, {total} in {cache_folder()}", soft_wrap=True)


@app.command()
def clear(debug: options.Debug = False) -> None:
    """Delete every feature cache; they are computed again when they are needed."""
    from promptkit.cli.console import console
    from promptkit.data.cachefile import format_bytes
    from promptkit.data.features import cache_folder, cached
    from promptkit.errors import OutputError

    files = cached()
    for path, _ in files:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{path} can't be deleted: {error.strerror}") from None
    freed = format_bytes(sum(size for _, size in files))
    console().print(f"deleted {len(files)} feature caches, {freed}, from {cache_folder()}", soft_wrap=True)

"""`promptkit data`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptkit.cli import options
from promptkit.settings import DataSettings, parsed

if TYPE_CHECKING:
    from rich.table import Table

    from promptkit.data.layouts import Dataset


@options.with_settings("data")
def data(
    path: Annotated[Path, typer.Argument(help="A folder of pictures or a manifest; with --dataset, the data root.")],
    given: options.Given = options.NOTHING,
    check: Annotated[bool, typer.Option("--check", help="Open every picture.")] = False,
    debug: options.Debug = False,
) -> None:
    """Say what a folder is taken for: layout, domains, classes, splits, templates and what looks odd."""
    from promptkit.cli.console import console, escape, progress
    from promptkit.cli.plugins import warn_broken
    from promptkit.data.inspection import check_images, odd_names
    from promptkit.data.selection import open_dataset, split_policy
    from promptkit.registry import installed

    settings = parsed(DataSettings, {key.removeprefix("data."): value for key, value in given.items()})
    registry, out = installed(), console()
    warn_broken(registry)
    named = registry.dataset(settings.dataset) if settings.dataset else None
    found = open_dataset(path, named, policy=settings.split)
    out.print(f"{path}: {escape(found.layout)}", soft_wrap=True)
    out.print(
        f"splits: {found.split_source}{', 50/20/30 of every class' if found.split_source == 'drawn' else ''}; "
        f"files that are no images: {found.skipped}",
        soft_wrap=True,
    )
    for template in named.templates if named else ():
        out.print(f"template: {escape(template)}", soft_wrap=True)
    out.print(_counts(split_policy(settings.split).split(found, settings.split_seed)))
    for what, names in odd_names(found.classnames).items():
        more = f", and {len(names) - 5} more" if len(names) > 5 else ""
        out.print(f"[yellow]odd class names[/] ({what}): {escape(', '.join(names[:5]))}{more}", soft_wrap=True)
    if check:
        with progress() as bar:
            task = bar.add_task("opening pictures", total=len(found.items))
            unreadable = check_images(found.items, lambda: bar.advance(task))
        out.print(f"unreadable pictures: {len(unreadable)} of {len(found.items)}")
        for image in unreadable:
            out.print(f"  {escape(str(image.path))}: {escape(image.reason)}", soft_wrap=True)


def _counts(dataset: "Dataset") -> "Table":
    """A row per class: its pictures in each split, and in each domain."""
    from collections import Counter

    from rich.table import Table

    from promptkit.cli.console import escape

    splits = [name for name in ("train", "val", "test") if any(item.split == name for item in dataset.items)]
    by_split = Counter((item.label, item.split) for item in dataset.items)
    by_domain = Counter((item.label, item.domain) for item in dataset.items)
    table = Table("class", box=None)
    for column in (*splits, *dataset.domains):
        table.add_column(column, justify="right")
    for label, name in enumerate(dataset.classnames):
        counts = [by_split[label, split] for split in splits] + [by_domain[label, d] for d in dataset.domains]
        table.add_row(escape(name), *map(str, counts))
    return table

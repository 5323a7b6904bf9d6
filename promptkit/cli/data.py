"""`promptkit data`, `promptkit data get` and `promptkit data import`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptkit.cli import options
from promptkit.cli.command import DefaultGroup
from promptkit.settings import DataSettings, parsed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.table import Table

    from promptkit.data.catalog import NamedDataset
    from promptkit.data.layouts import Dataset


app = typer.Typer(
    cls=DefaultGroup,
    help="What a folder of pictures is taken for: promptkit data FOLDER, which is short for promptkit data show FOLDER. "
    "And published data fetched, and other data made into folders.",
    no_args_is_help=True,
)


@options.with_settings("data")
def show(
    path: Annotated[Path, typer.Argument(help="A folder of pictures or a manifest; with --dataset, the data root.")],
    given: options.Given = options.NOTHING,
    check: Annotated[bool, typer.Option("--check", help="Open every picture.")] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Look at every picture, and write a page of them and of what looks odd.",
            show_default=False,
        ),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Say what a folder is taken for: layout, domains, classes, splits, templates and what looks odd."""
    from rich.console import Console

    from promptkit.cli.console import console, escape, progress
    from promptkit.cli.plugins import warn_broken
    from promptkit.data.inspection import check_images, odd_names
    from promptkit.data.selection import open_dataset, split_policy
    from promptkit.files import check_output, write_output
    from promptkit.progress import reported
    from promptkit.registry import installed

    settings = parsed(DataSettings, {key.removeprefix("data."): value for key, value in given.items()})
    if html:
        from promptkit.report.making import needs_extra

        needs_extra("jinja2")
        check_output(html, HTML_HINT)
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
    found = split_policy(settings.split).split(found, settings.split_seed)
    out.print(_counts(found))
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
    if html:
        from promptkit.report.data_page import data_page, token_counts

        with reported(Console(stderr=True), "looking at pictures", len(found.items)) as advance:
            page = data_page(found, token_counts(found.classnames), advance)
        write_output(html, page.encode(), HTML_HINT)
        out.print(f"page: {html} ({len(page) / 1e6:.1f} MB); open it in a browser", soft_wrap=True, markup=False)


HTML_HINT = "choose another FILE for --html, or make room"


def get(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Such as dtd; without one, say what can be had.", show_default=False),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="ROOT", help="The folder that holds the data sets' folders.", show_default=False),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Fetch published data sets, laid out as CoOp's DATASETS.md has them, with its split files.

    Checksums are compared. What is there is not fetched again, and when it is stopped, the same command goes on.
    """
    from rich.console import Console

    from promptkit.cli.console import console, escape
    from promptkit.cli.plugins import warn_broken
    from promptkit.data.coop import DATASETS_MD
    from promptkit.data.downloads import getting
    from promptkit.data.downloads.declared import DOWNLOADS, NAMES
    from promptkit.errors import ConfigError, DataError
    from promptkit.registry import installed

    registry, out = installed(), console()
    warn_broken(registry)
    known = {name: entry.value for name, entry in registry.entries["dataset"].items()}
    if not names:
        for table in _to_be_had(known):
            out.print(table)
        return
    if to is None:
        raise ConfigError("promptkit data get needs a folder", f"such as: promptkit data get {names[0]} --to data")
    titles = {named.title: name for name, named in known.items()}
    wanted = {titles[named.title]: named for named in map(registry.dataset, names)}
    for name, named in wanted.items():
        if name not in DOWNLOADS:
            raise DataError(f"promptkit can't get {named.title}", f"ask at {named.source}; it goes to {named.place}")
    for name, named in wanted.items():
        download = DOWNLOADS[name]
        terms = f"the publisher's terms: {download.terms}; the original: {named.source}"
        out.print(f"{named.title}, from {download.source}; {terms}", soft_wrap=True, markup=False)
        try:
            got = getting.get(named, download, to, Console(stderr=True))
        except KeyboardInterrupt:
            out.print("stopped; the same command goes on with what is here", soft_wrap=True)
            raise typer.Exit(130) from None
        out.print(f"{got.folder}: {got.fetched or 'all of it was there'}", soft_wrap=True, markup=False)
        if got.dataset:
            next_ = f"promptkit train coop --dataset {name} --data {to} --shots 16"
            out.print(f"{escape(got.dataset.layout)}\nnext: {escape(next_)}", soft_wrap=True)
        else:
            put = f"put {NAMES} into {to / 'imagenet'}, and run this again; the link is in {DATASETS_MD}"
            out.print(f"its classes have no names yet: {put}", soft_wrap=True, markup=False)


def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="hf:NAME, of Hugging Face or a folder that its library saved; torchvision:NAME; or wds:PATTERN, "
            "shards of WebDataset.",
            show_default=False,
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="To make; it must not be there yet.", show_default=False)],
    image: Annotated[str, typer.Option(metavar="COLUMN", help="The pictures, if that is not clear.")] = "",
    label: Annotated[str, typer.Option(metavar="COLUMN", help="The classes, if that is not clear.")] = "",
    domain: Annotated[str, typer.Option(metavar="COLUMN", help="The domains; domain, where there is one.")] = "",
    splits: Annotated[str, typer.Option(help="Comma-separated; all by default.")] = "",
    config: Annotated[str, typer.Option(help="Of a data set of Hugging Face that has several.")] = "",
    root: Annotated[
        Path | None,
        typer.Option(
            help="Where torchvision has or downloads the original; in the cache by default.", show_default=False
        ),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Make an ordinary folder of pictures of what is elsewhere, once.

    Splits are kept, classes go by their names. When it is stopped, the same command goes on.
    """
    from rich.console import Console

    from promptkit.cli.console import console, escape
    from promptkit.data.images import warn_unreadable
    from promptkit.data.imports.importing import Record, check_folder, import_pictures, open_origin
    from promptkit.data.imports.origin import Wanted
    from promptkit.progress import reported
    from promptkit.settings import split_names

    wanted = Wanted(image, label, domain, split_names(splits), config, root)
    record, out = Record.of(source, wanted), console()
    check_folder(folder, record)
    origin = open_origin(source, wanted)
    try:
        with reported(Console(stderr=True), "importing", origin.total) as advance:
            found = import_pictures(origin, folder, record, advance)
    except KeyboardInterrupt:
        out.print(f"stopped; the same command goes on with what {folder} holds", soft_wrap=True, markup=False)
        raise typer.Exit(130) from None
    warn_unreadable(found.unreadable)
    out.print(f"{folder}: {escape(found.layout)}", soft_wrap=True)
    if found.unlabelled:
        out.print(f"pictures without a class, left out: {found.unlabelled}")
    if found.only_split:
        out.print(f"its only split, {escape(found.only_split)}, is written without a folder: splits are drawn")
    out.print(f"next: promptkit data {folder}; promptkit train coop --data {folder}", soft_wrap=True, markup=False)


def _to_be_had(known: "Mapping[str, NamedDataset]") -> "Iterator[Table]":
    """What can be fetched, and what has to be asked for."""
    from rich.table import Table

    from promptkit.cli.console import escape
    from promptkit.data.downloads.declared import DOWNLOADS
    from promptkit.features.shards import format_bytes

    here = Table("name", "from", "download", "publisher's terms", box=None)
    elsewhere = Table("not to be had here", "ask at", "goes to", box=None)
    for name, named in known.items():
        if name in DOWNLOADS:
            download = DOWNLOADS[name]
            row = (name, str(download.source), format_bytes(download.size), download.terms)
            here.add_row(*map(escape, row))
        else:
            elsewhere.add_row(*map(escape, (name, named.source, named.place)))
    yield from (here, elsewhere)


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

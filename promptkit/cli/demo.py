"""`promptkit demo-data`"""

from pathlib import Path
from typing import Annotated

import typer

from promptkit.cli import options


def demo_data(
    path: Annotated[Path, typer.Argument(help="Folder to draw in.", show_default=False)],
    per_class: Annotated[int, typer.Option(help="Pictures of each class in each domain.", min=1)] = 24,
    size: Annotated[int, typer.Option(help="Height and width in pixels.", min=16)] = 64,
    seed: Annotated[int, typer.Option(help="Another seed draws other pictures.", min=0)] = 0,
    debug: options.Debug = False,
) -> None:
    """Draw a data set to try things out on: 30 classes as cartoons, paintings, photos and sketches.

    Pictures that are there already stay.
    """
    from rich.console import Console
    from rich.progress import Progress

    from promptkit.cli.console import console
    from promptkit.demo.pictures import CLASSES, DOMAINS, write_pictures

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("drawing", total=len(DOMAINS) * len(CLASSES) * per_class)
        count = write_pictures(path, per_class, size, seed, lambda: progress.advance(task))
    console().print(
        f"{count} pictures of {len(CLASSES)} classes in {path}: {', '.join(DOMAINS)}; "
        f"next: promptkit train coop --data {path} --domains photo --classes base",
        soft_wrap=True,
    )

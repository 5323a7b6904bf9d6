"""`promptkit plan`"""

from typing import Annotated

import typer

from promptkit.cli import options
from promptkit.errors import ConfigError

BATCHES = (1, 4, 16, 64, 256)


@options.with_settings("train")
def plan(
    recipe: Annotated[str, typer.Argument(help="gopro, coop, cocoop, ...: see promptkit list.", show_default=False)],
    n_classes: Annotated[
        int | None, typer.Option(min=2, help="Without --data: how many classes.", show_default=False)
    ] = None,
    n_pictures: Annotated[
        int | None,
        typer.Option(min=1, help="Without --data: training pictures; 16 a class by default.", show_default=False),
    ] = None,
    gpu_gb: Annotated[
        float | None,
        typer.Option(min=1, help="Plan the memory of a GPU of so many GB, which need not be here.", show_default=False),
    ] = None,
    given: options.Given = options.NOTHING,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SLOT.FIELD=VALUE", help="Any setting. Repeatable.", show_default=False),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Say what a training takes of memory, disk and time, before it runs.

    Lets each tower take a few small passes with random weights; nothing is fetched, trained or kept.
    """
    from contextlib import nullcontext
    from dataclasses import replace

    import psutil
    import torch
    from rich.table import Table

    from promptkit.build import load_backbone, pick_device
    from promptkit.cli.console import console
    from promptkit.config import resolve
    from promptkit.features.shards import format_bytes
    from promptkit.progress import format_duration
    from promptkit.registry import installed
    from promptkit.training.needs import Planner, imagined
    from promptkit.training.run import training_data

    registry, terminal = installed(), console()
    config = resolve(registry, recipe, None, set_ or [], given)
    if (n_classes is None) == (not config.data.path):
        raise ConfigError("a plan is either for the pictures at --data, or for --n-classes", "such as: --n-classes 100")
    settings = replace(config.backbone, weights="none")
    if gpu_gb and not settings.memory_gb:
        settings = replace(settings, memory_gb=gpu_gb / 2)  # what would be taken of it
    here = pick_device(config.train.device)
    planned = torch.device("cuda") if gpu_gb else here
    backbone = load_backbone(settings, registry).to(here)
    pictures = n_pictures or 16 * (n_classes or 0)
    data = (
        imagined(n_classes, pictures)
        if n_classes
        else nullcontext(training_data(config.data, config.train.seed, registry))
    )
    with data as dataset:
        planner = Planner(config, backbone, registry, dataset)
    epochs = config.train.epochs
    if planned.type == "cpu":
        room = psutil.virtual_memory().total
    else:
        room = int(gpu_gb * 1e9) if gpu_gb else torch.cuda.get_device_properties(here).total_memory
    terminal.print(
        f"{recipe} on {backbone.name}, {len(dataset.classnames)} classes, {planner.pictures} training pictures, "
        f"{'a GPU' if gpu_gb else here} with {format_bytes(room)}; times are of {here}, {planner.workers} processes "
        f"preparing pictures",
        soft_wrap=True,
    )
    long = f"{epochs} epoch{'s' * (epochs != 1)}"
    table = Table("batch", "image tower", "text tower", "text passes", "peak", "fits", "a step", long, box=None)
    if planner.bank:
        table.add_column(f"{long}, cached views")
    for batch in sorted({*BATCHES, config.train.batch_size}):
        needs = planner.needs(batch, planned)
        row = [
            f"{batch}{' (chosen)' * (batch == config.train.batch_size)}",
            format_bytes(needs.image),
            format_bytes(needs.text),
            str(needs.passes),
            format_bytes(needs.peak),
            "yes" if needs.peak < room else "no",
            f"{needs.step:.3g} s",
            format_duration(epochs * needs.epoch),
        ]
        if needs.cached_epoch is not None and planner.bank:
            row.append(format_duration(epochs * needs.cached_epoch))
        table.add_row(*row)
    terminal.print(table)
    if planner.bank:
        terminal.print(
            f"--cached-views 1 keeps {format_bytes(planner.bank)} on the disk, and takes "
            f"{format_duration(planner.encoding)} to compute them once",
            soft_wrap=True,
        )

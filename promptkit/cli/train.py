"""`promptkit train`"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from promptkit.cli import options
from promptkit.errors import ConfigError
from promptkit.imports import uncollected


@options.with_settings("train")
def train(
    recipe: Annotated[
        str | None, typer.Argument(help="gopro, coop, cocoop, zeroshot, ...: see promptkit list.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the run; runs/RECIPE by default.", show_default=False)
    ] = None,
    given: options.Given = options.NOTHING,
    cache: options.Cache = True,
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time went.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SLOT.FIELD=VALUE",
            help="Any setting (prompts.n_ctx=8), or another component for a slot (prompts=coop). Repeatable.",
            show_default=False,
        ),
    ] = None,
    templates: options.Templates = None,
    config: Annotated[
        Path | None, typer.Option(help="A run file, such as the run.toml of a run to repeat.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the run that --out holds.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run that --out holds, where it was stopped.")
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Train a learner on a folder of pictures.

    What a setting is comes from the recipe, then the run file, then --set and the options here.
    """
    with uncollected():
        from promptkit.cli.console import console
        from promptkit.cli.plugins import warn_broken
        from promptkit.config import read_run_file, resolve
        from promptkit.data.inspection import warn_indistinct
        from promptkit.faults import explained
        from promptkit.registry import installed
        from promptkit.runs.checkpoint import SETTINGS
        from promptkit.runs.status import inspect_run
        from promptkit.training.run import Run

    out = out or (Path("runs") / recipe if recipe else None)
    if resume and not config and out and os.path.exists(out / SETTINGS):
        config = out / SETTINGS
    tables = read_run_file(config) if config else {}
    recipe = recipe or tables.get("recipe")
    if recipe is None:
        raise ConfigError("no recipe to train", "such as: promptkit train gopro --data PATH")
    if tables and tables["recipe"] != recipe:
        raise ConfigError(f"{config} is a run of {tables['recipe']!r}, not of {recipe!r}", "leave one of the two out")
    registry = installed()
    warn_broken(registry)
    if templates:
        given = {**given, "prompts.template": options.read_templates(templates)}
    settings = resolve(registry, recipe, tables, set_ or [], given)

    terminal = console()
    out = out or Path("runs") / recipe
    run = Run(settings, out, force, resume, cache=cache)
    terminal.print(
        f"{recipe} on {run.backbone.name} ({run.backbone.weights}), {len(run.dataset.classnames)} classes, "
        f"{len(run.pictures.items)} training pictures and {sum(run.dataset.counts('val'))} to validate of "
        f"{run.dataset.found}, {run.trained_parameters:,} trained parameters, {run.device}",
        soft_wrap=True,
    )
    warn_indistinct(run.backbone, run.dataset.classnames)
    if read := run.learner.read_blocks:
        terminal.print(f"prompts read {len(read)} blocks of the image tower: {_listed(read)}", soft_wrap=True)
    try:
        run.train(terminal, profile)
    except KeyboardInterrupt as error:
        if explained(error, registry):
            raise
        metadata = None if run.folder.pending else inspect_run(out).metadata
        kept = f"{out} holds epoch {metadata.epoch}" if metadata else "nothing was saved yet"
        terminal.print(f"stopped; {kept}", soft_wrap=True)
        raise typer.Exit(130) from None
    named = f" --dataset {settings.data.dataset}" if settings.data.dataset else ""
    terminal.print(f"saved {out}; next: promptkit eval {out} --data {settings.data.path}{named}", soft_wrap=True)


def _listed(blocks: Sequence[str]) -> str:
    """What blocks have in common in front of their numbers is said once."""
    parents = [block.rpartition(".")[0] for block in blocks]
    return ", ".join(
        block.removeprefix(f"{parent}.") if parent and parent == before else block
        for before, parent, block in zip(["", *parents], parents, blocks, strict=False)
    )

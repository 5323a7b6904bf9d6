"""`promptkit tune`"""

import os
from pathlib import Path
from typing import Annotated

import typer

from promptkit.cli import options
from promptkit.errors import ConfigError


@options.with_settings("train")
def tune(
    recipe: Annotated[str, typer.Argument(help="gopro, coop, cocoop, ...: see promptkit list.", show_default=False)],
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SLOT.FIELD=LOW..HIGH[:log]|VALUE,VALUE,...",
            help="What is tuned: a range of a number (train.lr=1e-4..1e-2:log), or a list. Repeatable.",
            show_default=False,
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, those that are done already among them.")] = 30,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the trials; runs/tune-RECIPE by default.", show_default=False)
    ] = None,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune/--no-prune",
            help="End a trial whose validation accuracy is below the median of those before, at the same epoch.",
        ),
    ] = True,
    storage: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="Where Optuna keeps the trials, such as mysql://USER@HOST/NAME, for several machines; study.db in --out "
            "by default.",
            show_default=False,
        ),
    ] = "",
    study: Annotated[
        str, typer.Option(help="The name of the trials in the storage; RECIPE by default.", show_default=False)
    ] = "",
    given: options.Given = options.NOTHING,
    cache: options.Cache = True,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SLOT.FIELD=VALUE",
            help="A setting of all trials (prompts.n_ctx=8), or another component for a slot. Repeatable.",
            show_default=False,
        ),
    ] = None,
    templates: options.Templates = None,
    debug: options.Debug = False,
) -> None:
    """Choose a learner's settings by its accuracy on the val split; test pictures are not looked at.

    The same command goes on where it was stopped. Several processes with one --storage and --study share the trials. The
    best settings are printed, and written as a run file for promptkit train --config.
    """
    from promptkit.cli.console import console
    from promptkit.cli.plugins import warn_broken
    from promptkit.experiments.space import needs_optuna
    from promptkit.faults import explained
    from promptkit.registry import installed

    needs_optuna()
    from promptkit.experiments.tuning import BEST, Tuner, Tuning

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("promptkit tune is one process", "start one on each device, all with the same --storage")
    registry, terminal = installed(), console()
    warn_broken(registry)
    if templates:
        given = {**given, "prompts.template": options.read_templates(templates)}
    out = out or Path("runs") / f"tune-{recipe}"
    tuner = Tuner(Tuning(recipe, vary or (), set_ or (), given, study, storage, prune), out, registry, terminal, cache)
    try:
        tuner.run(trials)
    except KeyboardInterrupt as error:
        if explained(error, registry):
            raise
        terminal.print(f"stopped; what is finished is in {out}, and the same command goes on", soft_wrap=True)
        raise typer.Exit(130) from None
    best = tuner.best()
    terminal.print(f"the best, val {100 * best.accuracy:.1f} %, is {best.run.name}:\n", soft_wrap=True, markup=False)
    terminal.print(best.text, soft_wrap=True, markup=False)
    terminal.print(f"next: promptkit train --config {out / BEST} --out runs/{recipe}", soft_wrap=True, markup=False)

"""`promptkit export`"""

from pathlib import Path
from typing import Annotated

import typer

from promptkit.cli import options
from promptkit.settings import BackboneSettings


@options.with_settings("eval", {"backbone": BackboneSettings})
def export(
    run: Annotated[Path, typer.Argument(help="A folder that promptkit train made.", metavar="RUN", show_default=False)],
    folder: Annotated[Path, typer.Argument(help="Where to write; it must not be there yet.", show_default=False)],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="head (class embeddings for plain open_clip), onnx, torch (a program of torch.export), or open_clip (the "
            "whole model, with class embeddings).",
        ),
    ] = "head",
    classes: options.AskedClasses = "trained",
    data: Annotated[
        Path | None,
        typer.Option(help="Pictures to check the export on; those of the training by default.", show_default=False),
    ] = None,
    given: options.Given = options.NOTHING,
    debug: options.Debug = False,
) -> None:
    """Write a run as files that need no promptkit, with a README, and check them against the learner."""
    import sys

    from promptkit.cli.console import console
    from promptkit.cli.plugins import warn_broken
    from promptkit.errors import ConfigError
    from promptkit.export.exporting import export as write
    from promptkit.prediction.classifier import open_classifier
    from promptkit.prediction.pictures import find_pictures, trained_on
    from promptkit.registry import installed
    from promptkit.runs.hub import local_run
    from promptkit.runs.opening import run_config

    warn_broken(installed())
    names = options.class_names(classes)
    run = local_run(run)
    config = run_config(run)
    if data is None and not config.data.path:
        raise ConfigError(f"{run} says of no pictures to check on", "name some with --data PATH")
    pictures = find_pictures([str(data)], sys.stdin) if data else trained_on(config.data)
    flags = {**given, "backbone.dtype": "float32", "backbone.compile": False}
    check = write(open_classifier(run, names, "cpu", flags), folder, format_, pictures)
    console().print(
        f"{folder}: {format_}, checked on {check.pictures} pictures; the largest difference of a logit is "
        f"{check.difference:.1e}, of logits up to {check.largest:.1f}",
        soft_wrap=True,
        markup=False,
    )

"""`promptkit report`"""

from pathlib import Path
from typing import Annotated

import typer

from promptkit.cli import options
from promptkit.settings import BackboneSettings, EvalSettings, parsed


@options.with_settings("eval", {"eval": EvalSettings, "backbone": BackboneSettings})
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders that promptkit train made, or one that promptkit bench made.", metavar="RUN..."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page to write.")] = Path("report.html"),
    given: options.Given = options.NOTHING,
    debug: options.Debug = False,
) -> None:
    """Write a page to look at: accuracy, confusions, pictures, calibration, curves, and what was learned.

    What was answered is read from the runs' records. Runs that have none of the same pictures are evaluated first, and
    keep them. The page is one file that asks for nothing else.
    """
    from promptkit.cli.console import console
    from promptkit.cli.plugins import warn_broken
    from promptkit.files import FOR_OUT, check_output, write_output
    from promptkit.registry import installed
    from promptkit.report.making import bench_subject, make_page, needs_extra, runs_subject
    from promptkit.runs.checkpoint import WEIGHTS

    needs_extra()
    check_output(out, FOR_OUT)
    warn_broken(installed())
    asked = {key.removeprefix("eval."): value for key, value in given.items() if key.startswith("eval.")}
    flags = {key: value for key, value in given.items() if not key.startswith("eval.")}
    settings = parsed(EvalSettings, asked)
    if len(runs) == 1 and runs[0].is_dir() and not (runs[0] / WEIGHTS).exists():
        subject = bench_subject(runs[0])
    else:
        subject = runs_subject(
            runs, settings, flags, anew=bool(asked.keys() - {"data", "device", "workers", "batch_size"})
        )
    page = make_page(subject, flags, settings.device)
    write_output(out, page.encode(), FOR_OUT)
    console().print(f"report: {out} ({len(page) / 1e6:.1f} MB); open it in a browser", soft_wrap=True, markup=False)

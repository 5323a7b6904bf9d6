"""`promptkit figure`"""

from pathlib import Path
from typing import Annotated

import typer

from promptkit.cli import options


def figure(
    results: Annotated[
        list[Path], typer.Argument(help="Folders that promptkit bench made.", metavar="RESULTS...", show_default=False)
    ],
    kind: Annotated[
        str, typer.Option(help="few-shot, ablation, domains, base-new or calibration.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="A .pdf, .svg or .png.")] = Path("figure.pdf"),
    metric: Annotated[str, typer.Option(help="See promptkit list metric.")] = "accuracy",
    against: Annotated[
        str,
        typer.Option(metavar="LEARNER", help="In an ablation: that the others are compared with.", show_default=False),
    ] = "",
    debug: options.Debug = False,
) -> None:
    """Draw the figures that papers print, from the results that promptkit table makes tables of."""
    from promptkit.cli.console import console
    from promptkit.errors import UnknownNameError
    from promptkit.files import FOR_OUT, replacing
    from promptkit.registry import installed
    from promptkit.report.figures import SUFFIXES, draw_first, save
    from promptkit.report.making import needs_extra

    needs_extra()
    if out.suffix.lower() not in SUFFIXES:
        raise UnknownNameError("format", out.suffix or out.name, SUFFIXES, f"--out FILE ends in {', '.join(SUFFIXES)}")
    drawn, title = draw_first(kind, results, installed().get("metric", metric), against)
    with replacing(out, FOR_OUT) as fresh:
        save(drawn, fresh, out.suffix.lower().removeprefix("."))
    console().print(f"{out}: {title}", soft_wrap=True, markup=False)

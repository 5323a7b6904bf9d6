"""`promptkit explain`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptkit.cli import options
from promptkit.settings import BackboneSettings

if TYPE_CHECKING:
    from promptkit.prediction.classifier import Classifier


@options.with_settings("eval", {"backbone": BackboneSettings})
def explain(
    run: Annotated[Path, typer.Argument(help=options.RUN_OR_RECIPE, metavar="RUN", show_default=False)],
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw which patches look like its class, in --out.", show_default=False),
    ] = None,
    classes: options.AskedClasses = "trained",
    out: Annotated[Path, typer.Option(metavar="FILE", help="The .png to draw in.")] = Path("explained.png"),
    given: options.Given = options.NOTHING,
    debug: options.Debug = False,
) -> None:
    """Say which words the learned context tokens are nearest to; of a picture, show where its class is seen."""
    from rich.table import Table

    from promptkit.cli.console import console, escape
    from promptkit.cli.plugins import warn_broken
    from promptkit.prediction.classifier import open_classifier
    from promptkit.registry import installed
    from promptkit.report.insight import nearest_words

    warn_broken(installed())
    classifier = open_classifier(run, options.class_names(classes), flags=given)
    if picture:
        _draw(classifier, picture, out)
        return
    words = nearest_words(classifier.learner)
    if not words:
        console().print(
            f"{run} has no context tokens to name; --picture FILE shows where a class is seen", soft_wrap=True
        )
        return
    table = Table("token", "nearest words, with the distance of their embeddings", box=None)
    for token, near in words.items():
        table.add_row(escape(token), "  ".join(f"{escape(word)} {distance:.2f}" for word, distance in near))
    console().print(table)


def _draw(classifier: "Classifier", picture: Path, out: Path) -> None:
    import io

    from promptkit.cli.console import console
    from promptkit.files import FOR_OUT, replace_file
    from promptkit.report.insight import heat_map

    map_ = heat_map(classifier, picture)
    content = io.BytesIO()
    map_.image.save(content, "PNG")
    replace_file(out, content.getvalue(), FOR_OUT)
    console().print(
        f"{picture}: {map_.label} {map_.score:.1%}; {out} shows where, over {map_.grid[0]} x {map_.grid[1]} patches",
        soft_wrap=True,
        markup=False,
    )

"""`promptkit demo` and `promptkit demo-data`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptkit.cli import options

if TYPE_CHECKING:
    from promptkit.experiments.plan import Training


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the runs.")] = Path("runs/demo"),
    seeds: Annotated[str, typer.Option(help="Comma-separated.")] = "1,2,3",
    debug: options.Debug = False,
) -> None:
    """Compare learned prompts with hand-made ones on drawn pictures: a few minutes, and nothing to download.

    Pictures and runs that are there already stay; when it was stopped, it goes on where it was.
    """

    from promptkit.cli.console import console, progress
    from promptkit.cli.plugins import warn_broken
    from promptkit.demo.comparison import IMAGES, SHOTS, SOURCE, Comparison
    from promptkit.demo.findings import sentences, table
    from promptkit.errors import ConfigError
    from promptkit.files import replace_file
    from promptkit.registry import installed
    from promptkit.report.making import bench_subject, make_page, needs_extra

    terminal, registry = console(), installed()
    warn_broken(registry)
    comparison = Comparison(out, options.numbers("--seeds", seeds), registry)

    def on_trained(training: "Training", seconds: float) -> None:
        terminal.print(f"{training.learner.name}, seed {training.config.train.seed}: trained in {seconds:.0f} s")

    try:
        with progress() as bar:
            task = bar.add_task("drawing", total=IMAGES)
            comparison.draw(lambda: bar.advance(task))
        plan = comparison.plan()
        terminal.print(
            f"{IMAGES} drawn pictures in {comparison.images}; {len(plan.trainings)} runs, each on {SHOTS} pictures of "
            f"every base class in the domain {SOURCE!r}",
            soft_wrap=True,
        )
        comparison.run(plan, terminal, on_trained)
    except KeyboardInterrupt:
        terminal.print(f"stopped; the same command goes on with what {out} holds", soft_wrap=True)
        raise typer.Exit(130) from None
    figures = comparison.figures()
    terminal.print(table(figures))
    for sentence in sentences(figures):
        terminal.print(f"- {sentence}", soft_wrap=True)
    try:
        needs_extra()
    except ConfigError as error:
        terminal.print(f"no page to look at: {error.message}; {error.hint}", soft_wrap=True, markup=False)
    else:
        page = out / "report.html"
        replace_file(page, make_page(bench_subject(comparison.runs), {}, "auto").encode(), "make room")
        terminal.print(f"report: {page}; open it in a browser", soft_wrap=True, markup=False)
    terminal.print(
        f"next: promptkit table {comparison.runs}; and on pictures of your own: promptkit train gopro --data FOLDER",
        soft_wrap=True,
    )


def demo_data(
    path: Annotated[Path, typer.Argument(help="Folder to draw in.", show_default=False)],
    per_class: Annotated[int, typer.Option(help="Pictures of each class in each domain.", min=1, max=100_000)] = 24,
    size: Annotated[int, typer.Option(help="Height and width in pixels.", min=16, max=4096)] = 64,
    seed: Annotated[int, typer.Option(help="Another seed draws other pictures.", min=0, max=2**63 - 1)] = 0,
    debug: options.Debug = False,
) -> None:
    """Draw a data set to try things out on: 30 classes as cartoons, paintings, photos and sketches.

    Pictures that are there already stay.
    """

    from promptkit.cli.console import console, progress
    from promptkit.demo.images import CLASSES, DOMAINS, write_images

    with progress() as bar:
        count = len(DOMAINS) * len(CLASSES) * per_class
        task = bar.add_task("drawing", total=count)
        drawn = write_images(path, per_class, size, seed, lambda: bar.advance(task))
    console().print(
        f"{count} pictures of {len(CLASSES)} classes in {path}, {drawn} of them drawn now: {', '.join(DOMAINS)}; "
        f"next: promptkit train coop --backbone demo --data {path} --domains photo --classes base",
        soft_wrap=True,
    )

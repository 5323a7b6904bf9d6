"""What a person sees while a run trains: a bar on a terminal; elsewhere a line a minute."""

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from promptkit import distributed
from promptkit.progress import ProgressLines
from promptkit.training.callbacks import Callback, EpochResult


class TrainingProgress(Callback):
    """How many of the images of all epochs are done, and, with `lines`, a line for every epoch.

    `done` images were seen before, in a run that goes on. `what` says which run it is.
    """

    REFRESH = 10
    """Reading a loss off a GPU waits for it, so the terms on the bar are read every so many steps."""

    def __init__(self, console: Console, what: str, images: int, done: int = 0, lines: bool = True) -> None:
        self.console = console
        self.minutes = ProgressLines(console, what, images, done)
        self.lines = lines
        self.steps = 0
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f} pictures"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[terms]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("training", total=images, completed=done, rate="", terms="")

    def on_start(self) -> None:
        self.bar.start()

    def on_step(self, terms: Mapping[str, Tensor], images: int) -> None:
        if not self.bar.disable and self.steps % self.REFRESH == 0:
            shown = "  ".join(f"{name} {term.item():.3f}" for name, term in terms.items())
            speed = self.bar.tasks[0].speed
            self.bar.update(self.task, terms=shown, rate=f"{speed:.1f} img/s" if speed else "")
        self.steps += 1
        everywhere = images * distributed.processes()
        self.bar.advance(self.task, everywhere)
        self.minutes.advance(everywhere)

    def on_epoch(self, result: EpochResult) -> None:
        if not self.lines:
            return
        terms = "  ".join(f"{name} {value:.4f}" for name, value in result.terms.items())
        val = "" if result.val_accuracy is None else f"  val {100 * result.val_accuracy:.1f} %"
        self.console.print(
            f"epoch {result.epoch}/{result.epochs}  {terms}{val}  lr {result.lr:.2g}  "
            f"{result.images / result.seconds:.1f} img/s",
            soft_wrap=True,
        )

    def on_end(self) -> None:
        self.bar.stop()

"""What a person sees while a run trains: how long it will take; a bar on a terminal, elsewhere a line a minute."""

import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from promptkit import distributed
from promptkit.progress import ProgressLines, format_duration, shows_bars
from promptkit.training.callbacks import Callback, EpochResult


class Terms(ProgressColumn):
    """The loss terms, in the room that the other columns leave."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["terms"], no_wrap=True, overflow="ellipsis")


class TrainingProgress(Callback):
    """How many of the images of all epochs are done, and, with `lines`, a line for every epoch.

    `images` are those that an epoch trains on; `done` were seen before, in a run that goes on. `what` says which run it is.
    """

    def __init__(
        self, console: Console, what: str, images: int, epochs: int, done: int = 0, lines: bool = True
    ) -> None:
        self.console = console
        self.images = images
        self.minutes = ProgressLines(console, what, images * epochs, done)
        self.lines = lines
        self.bar = Progress(
            BarColumn(bar_width=20, table_column=Column(no_wrap=True)),
            TextColumn("{task.completed:.0f}/{task.total:.0f} pictures"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            Terms(),
            console=console,
            transient=True,
            disable=not shows_bars(console),
        )
        self.task = self.bar.add_task("training", total=images * epochs, completed=done, rate="", terms="")

    def on_start(self) -> None:
        self.bar.start()

    def on_step(self, terms: Mapping[str, float], images: int) -> None:
        if not self.bar.disable:
            shown = "  ".join(f"{name} {term:.3f}" for name, term in terms.items())
            speed = self.bar.tasks[0].speed
            self.bar.update(self.task, terms=shown, rate=f"{speed:.1f} img/s" if speed else "")
        self._advance(images * distributed.processes())

    def _advance(self, images: int) -> None:
        self.bar.advance(self.task, images)
        self.minutes.advance(images)

    def on_epoch(self, result: EpochResult) -> None:
        self._advance(result.epoch * self.images - self.minutes.done)  # those that could not be read
        if not self.lines:
            return
        terms = "  ".join(f"{name} {value:.4f}" for name, value in result.terms.items())
        val = "" if result.val_accuracy is None else f"  val {100 * result.val_accuracy:.1f} %"
        self.console.print(
            f"epoch {result.epoch}/{result.epochs}  {terms}{val}  lr {result.lr:.2g}  "
            f"{result.images / result.seconds:.1f} img/s",
            soft_wrap=not self.console.is_terminal,  # which would break it inside a number
        )

    def on_end(self) -> None:
        self.bar.stop()


class Forecast(Callback):
    """Says after a few steps how long the rest takes. The first is not timed: it starts workers and fills caches.

    `images` are left to train on, over all epochs.
    """

    TIMED = 2

    def __init__(self, console: Console, images: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.console = console
        self.left = images
        self.clock = clock
        self.steps = 0
        self.timed = 0
        self.began = 0.0

    def on_step(self, terms: Mapping[str, float], images: int) -> None:
        self.steps += 1
        if self.steps > 1 + self.TIMED:
            return
        everywhere = images * distributed.processes()
        self.left -= everywhere
        if self.steps == 1:
            self.began = self.clock()
            return
        self.timed += everywhere
        if self.steps == 1 + self.TIMED and self.left > 0:
            seconds = (self.clock() - self.began) / self.timed * self.left
            text = f"{format_duration(seconds)} for the {self.left:,} pictures that are left, validation not counted"
            self.console.print(text, soft_wrap=True)

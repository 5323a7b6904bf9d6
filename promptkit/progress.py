"""What is said about work under way: a bar on a terminal, and a line a minute elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from rich.console import Console
from rich.progress import Progress

INTERVAL = 60.0
"""Seconds between two lines."""


def shows_bars(console: Console) -> bool:
    """Is it a terminal, or a notebook that has the widgets that bars are drawn with there?"""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)


class ProgressLines:
    """Prints how far some work is, every so often; where a bar shows it, nothing."""

    def __init__(
        self, console: Console, what: str, total: int, done: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console
        self.what = what
        self.total = total
        self.before = self.done = done
        self.clock = clock
        self.started = self.said = clock()

    def advance(self, units: int) -> None:
        self.done += units
        now = self.clock()
        if not units or shows_bars(self.console) or now - self.said < INTERVAL:
            return
        self.said = now
        text = f"{self.what}: {self.done / self.total:.0%}"
        if self.done > self.before:
            left = (now - self.started) * (self.total - self.done) / (self.done - self.before)
            text += f", {format_duration(left)} left"
        self.console.print(text, soft_wrap=True, markup=False)


@contextmanager
def reported(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Within the block, the function that it gives is told of every bit of work that is done."""
    lines = ProgressLines(console, what, total)
    with Progress(console=console, transient=True, disable=not shows_bars(console)) as bar:
        task = bar.add_task(what, total=total)

        def advance(units: int) -> None:
            bar.advance(task, units)
            lines.advance(units)

        yield advance


def format_duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    hours, minutes = divmod(minutes, 60)
    return f"about {hours} h {minutes} min" if hours else f"about {minutes} min"

"""The runs of a bench side by side, in processes of this machine: each on a GPU of its own, or a share of the cores."""

import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import ClassVar

import torch
from rich.console import Console
from rich.progress import Progress, TaskID

from promptkit import interrupts
from promptkit.errors import CheckpointError, TrainingError
from promptkit.experiments.order import Order
from promptkit.experiments.plan import Training
from promptkit.experiments.runner import Outcome, Runner
from promptkit.progress import shows_bars
from promptkit.registry import installed
from promptkit.runs.folder import read_log
from promptkit.settings import split_names

log = logging.getLogger("promptkit")

INTERVAL = 0.5
"""Seconds between two looks at how far the runs are."""


@dataclass
class Done:
    """What became of one run in its process."""

    outcome: Outcome = field(default_factory=Outcome)
    seconds: float | None = None
    """That its training took; None where it was trained before, or failed."""
    warnings: list[str] = field(default_factory=list)


def run_jobs(
    order: Order,
    runner: Runner,
    jobs: int,
    console: Console,
    on_trained: Callable[[Training, float], None] = lambda training, seconds: None,
) -> Outcome:
    """`Runner.run`, with up to `jobs` processes, each of which trains and tests one run after another.

    Args:
        order: What `runner` was made from, to be made again in each process.
        runner: Says what there is to do.
        jobs: How many at once.
        console: Where a terminal shows a line for each of them.
        on_trained: Hears of every finished training and the seconds it took.

    Raises:
        KeyboardInterrupt: After the processes have been ended.
        TrainingError: Where one of them was killed; the same bench goes on.
        PromptkitError: What `Runner.run` raises.
    """
    waiting = runner.todo()
    running: dict[Future[Done], tuple[Training, TaskID]] = {}
    outcome, said = Outcome(), set[str]()
    runner.outcome = outcome
    with ExitStack() as stack:
        bars = stack.enter_context(Progress(console=console, transient=True, disable=not shows_bars(console)))
        pool = stack.enter_context(_pool(order, min(jobs, max(1, len(waiting)))))
        while waiting or running:
            while waiting and len(running) < jobs:
                training = waiting.pop(0)
                task = bars.add_task(str(training.folder), total=training.config.train.epochs)
                running[pool.submit(_carry_out, training.folder)] = training, task
            for future in wait(running, INTERVAL, FIRST_COMPLETED).done:
                training, task = running.pop(future)
                bars.remove_task(task)
                try:
                    done = future.result()
                except BrokenProcessPool:
                    raise TrainingError(
                        "a process of this bench was killed, by the system if memory ran out",
                        "the same command goes on; with fewer --jobs it needs less memory",
                    ) from None
                for text in done.warnings:
                    if text not in said:
                        log.warning(text)
                    said.add(text)
                outcome.failures += done.outcome.failures
                outcome.elsewhere += done.outcome.elsewhere
                if done.seconds is not None:
                    on_trained(training, done.seconds)
            for training, task in running.values():
                with suppress(CheckpointError):  # which its own process will say
                    bars.update(task, completed=len(read_log(runner.path(training))))
    return outcome


@contextmanager
def _pool(order: Order, jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with the block or with this process, however it ends, and whatever they are doing."""
    context = _context()
    places = context.SimpleQueue()
    for place in range(jobs):
        places.put((place, jobs))
    theirs, ours = context.Pipe(duplex=False)
    with ours, theirs:
        pool = ProcessPoolExecutor(jobs, context, _begin, (order, places, theirs, log.level, {**os.environ}))
        try:
            yield pool
        finally:
            ours.close()
            pool.shutdown(cancel_futures=True)


def _context() -> BaseContext:
    """How processes begin: without the threads of this one, which a fork would leave in the middle of something.

    On Linux they are forks of a server that imports what they need once for all of them.
    """
    if sys.platform != "linux":
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


class _Remembered(logging.Handler):
    """Warnings, to be said by the process that began the bench."""

    texts: ClassVar[list[str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


_order: Order | None = None
"""Of a process that carries a part of it out."""


def _begin(
    order: Order, places: "SimpleQueue[tuple[int, int]]", life: Connection, level: int, variables: dict[str, str]
) -> None:
    """Make this process one of several."""
    global _order
    os.environ.clear()
    os.environ.update(variables)  # the server has those of its own start
    _order = order
    threading.Thread(target=_end_with, args=(life,), daemon=True).start()
    interrupts.remember()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is answered by the process that began the bench
    log.handlers, log.propagate = [_Remembered(logging.WARNING)], False
    log.setLevel(level)
    take_share(*places.get())


def _end_with(life: Connection) -> None:
    """End this process when the other end of a pipe is closed."""
    with suppress(EOFError):
        life.recv()
    os._exit(1)


def take_share(place: int, jobs: int) -> None:
    """Leave to the other processes of this machine what is theirs, before torch has seen a GPU: one GPU for each job, in
    turn, or where there is none a part of the cores; `OMP_NUM_THREADS` may make it smaller."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = split_names(visible) if visible is not None else [str(k) for k in range(torch.cuda.device_count())]
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[place % len(devices)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(min(torch.get_num_threads(), max(1, cores // jobs)))


@cache
def _runner() -> Runner:
    assert _order is not None
    registry = installed()
    runner = _order.runner(_order.opened(registry), registry, Console(file=io.StringIO(), force_terminal=False))
    _Remembered.texts.clear()  # what there is to say of the plan has been said
    return runner


def _carry_out(folder: Path) -> Done:
    """Train and test one run, in a process of the pool."""
    done = Done()

    def on_trained(training: Training, seconds: float) -> None:
        done.seconds = seconds

    done.outcome = _runner().run(on_trained, {folder})
    done.warnings = [*_Remembered.texts]
    return done

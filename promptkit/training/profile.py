"""Where the time of a run goes."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from rich.console import Console

from promptkit.data.loading import Batches, Loaded
from promptkit.learner import Learner
from promptkit.training.callbacks import Callback, EpochResult

ADVICE = {
    "data": "data is the slowest part: more --workers, smaller pictures on the disk, or --cached-views to prepare views once",
    "image tower": "the image tower is the slowest part: --cached-views encodes views once; on a GPU, --backbone-dtype bf16",
    "text tower": "the text tower is the slowest part: fewer context tokens or classes; on a GPU, --precision bf16",
    "backward": "the backward pass is the slowest part: fewer context tokens or classes, and memory to spare for "
    "--memory-gb, so that nothing is computed twice",
    "other": "the loss, the optimiser and the projector are the slowest part: a larger --batch-size shares their cost",
}


PARTS = {"encode_image": "image tower", "encode_text": "text tower", "backward": "backward"}
"""By the learner's method."""


class Profile(Callback):
    """Prints where the time went. It stands between the loop and its batches, and times the learner's steps.

    Nothing of it exists in a run without --profile.
    """

    def __init__(self, learner: Learner, batches: Batches, console: Console) -> None:
        self.learner = learner
        self.batches = batches
        self.console = console
        self.device = learner.scene.backbone.device
        self.seconds = dict.fromkeys(("data", *PARTS.values()), 0.0)
        self.total = 0.0

    def on_start(self) -> None:
        for method, part in PARTS.items():
            setattr(self.learner, method, self._timed(part, getattr(self.learner, method)))

    def on_epoch(self, result: EpochResult) -> None:
        self.total += result.seconds
        if result.last:
            self.console.print(self._report(), soft_wrap=True)

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        self.batches.set_epoch(epoch, skip)

    def __iter__(self) -> Iterator[Loaded]:
        batches = iter(self.batches)
        while True:
            started = time.perf_counter()
            loaded = next(batches, None)
            self.seconds["data"] += time.perf_counter() - started
            if loaded is None:
                return
            yield loaded

    def _report(self) -> str:
        """The share of each part, and what to do about the largest."""
        other = max(0.0, self.total - sum(self.seconds.values()))
        parts = {**self.seconds, "other": other}
        shares = "  ".join(f"{part} {seconds / max(self.total, 1e-9):.0%}" for part, seconds in parts.items())
        return f"time  {shares}\n{ADVICE[max(parts, key=lambda part: parts[part])]}"

    def _timed(self, part: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            if not self.learner.training:  # validation is no part of it
                return step(*args)
            self._wait()
            started = time.perf_counter()
            result = step(*args)
            self._wait()
            self.seconds[part] += time.perf_counter() - started
            return result

        return timed

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

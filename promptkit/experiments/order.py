"""A bench as it was asked for: all that a process needs to carry it out, or a part of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from promptkit.experiments.plan import Request, make_plan
from promptkit.experiments.protocols import BenchData, check_protocol, open_data
from promptkit.experiments.runner import Runner
from promptkit.registry import Registry
from promptkit.settings import DataSettings


@dataclass(frozen=True)
class Order:
    """What is to be compared, on which data, and where runs and results go.

    `data` and `datasets` are as `promptkit.experiments.protocols.open_data` reads them; the rest is as `Runner` takes it.
    """

    request: Request
    data: Sequence[Path]
    datasets: Sequence[str]
    out: Path
    shard: tuple[int, int] = (0, 1)
    cache: bool = True
    keep: bool = True

    def opened(self, registry: Registry) -> list[BenchData]:
        """Raises what `check_protocol` and `open_data` raise."""
        asked = self.request
        check_protocol(asked.protocol)
        policy = str(asked.flags.get("data.split", DataSettings.split))
        return open_data(asked.protocol, self.data, self.datasets, registry, asked.source, policy)

    def runner(self, opened: Sequence[BenchData], registry: Registry, console: Console) -> Runner:
        """Raises what `make_plan` and `Runner` raise."""
        plan = make_plan(self.request, opened, registry)
        return Runner(plan, self.out, registry, console, self.shard, self.cache, self.keep)

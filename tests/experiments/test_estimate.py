"""How long a bench says that it takes: on a clock that only the learners' own steps move."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from rich.console import Console

from promptkit import hookimpl
from promptkit.experiments import estimate as estimates
from promptkit.experiments import runner as runners
from promptkit.experiments.estimate import Estimate
from promptkit.experiments.plan import Request, make_plan
from promptkit.experiments.protocols import open_data
from promptkit.experiments.runner import Runner
from promptkit.learner import Learner, Recipe
from promptkit.settings import DataSettings
from promptkit.testing import registered
from promptkit.training import trainer


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()


class Quick(Learner):
    cost: ClassVar[float] = 0.01
    """Seconds for an image."""

    def logits(self, view: Any) -> torch.Tensor:
        CLOCK.now += self.cost * len(view.image)
        return super().logits(view)


class Slow(Quick):
    cost = 1.0


class Slowest(Quick):
    cost = 20.0


class Plugin:
    @hookimpl
    def register_learners(self, register: Any) -> None:
        for kind in (Quick, Slow, Slowest):
            register(kind.__name__.lower(), kind)

    @hookimpl
    def register_recipes(self, register: Any) -> None:
        for name in ("quick", "slow", "slowest"):
            register(name, Recipe(summary="For a test", prompts="coop", learner=name))


def test_the_estimate_holds_for_learners_of_very_different_cost(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=CLOCK))
    monkeypatch.setattr(runners, "time", SimpleNamespace(monotonic=CLOCK))
    monkeypatch.setattr(estimates, "WORTH_MEASURING", 0)
    flags = {
        "backbone.name": "tiny",
        "backbone.weights": "none",
        "train.workers": 0,
        "train.device": "cpu",
        "train.batch_size": 8,
        "train.epochs": 2,
    }
    with registered(Plugin()) as registry:
        opened = open_data("few-shot", [images], [], registry, "", DataSettings.split)
        plan = make_plan(Request("few-shot", ("quick", "slow", "slowest"), (1, 2), (2,), flags=flags), opened, registry)
        runner = Runner(plan, tmp_path / "results", registry, Console(file=io.StringIO()))
        estimate = Estimate(runner, CLOCK)
        unmeasured = estimate.remaining()
        assert unmeasured.seconds == 0
        assert unmeasured.untimed == unmeasured.untested == ("quick", "slow", "slowest")

        before = torch.get_rng_state()
        estimate.measure()
        assert torch.equal(torch.get_rng_state(), before)
        assert not (tmp_path / "results").exists(), "measuring touches no run"
        said = [(CLOCK.now, estimate.remaining())]
        outcome = runner.run(lambda training, seconds: said.append((CLOCK.now, estimate.remaining())))
    assert not outcome.failures
    assert len(said) == 7
    assert said[-1][1].training == 0
    assert said[-1][1].testing > 0, "the tests come after the last training"
    for now, left in said:
        assert not left.untimed
        assert left.seconds == pytest.approx(CLOCK.now - now, rel=0.3)
    assert estimate.remaining().seconds == 0

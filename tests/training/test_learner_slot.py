"""What a learner may do beside the loss: stages, rates, figures, tensors for losses; and that a resumed run does the same."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from promptkit import PluginError, hookimpl
from promptkit.components import ContextPrompts, Loss, Projector, Scene
from promptkit.learner import Learner, Recipe
from promptkit.settings import TrainSettings
from promptkit.tensors import Batch, ImageFeatures, Outputs, View
from promptkit.testing import build_recipe, check_recipe, registered
from promptkit.training.optimizer import make_optimizer, parameter_groups

Command = Callable[..., "Finished"]
SEEN: list[tuple[list[int], list[int]]] = []
"""Labels of domain and places of every training batch."""


class Contexts(ContextPrompts):
    """Contexts, and a scale that is thawed later."""

    @dataclass(frozen=True)
    class Options:
        n_ctx: Annotated[int, "context tokens"] = 2
        ctx_init: Annotated[str, "words"] = ""

    def extra(self, features: ImageFeatures | None, text: Tensor) -> Mapping[str, Tensor]:
        return {"spread": text.var(1).sum()}


class Scaled(Projector):
    """A learned factor, in front of the logits."""

    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        self.weight = nn.Parameter(torch.ones(scene.backbone.joint_width, 1))

    def image(self, features: Tensor) -> Tensor:
        return features * self.weight[:, 0]

    def extra(self, views: Mapping[str, View]) -> Mapping[str, Tensor]:
        return {"size": self.weight.square().mean()}


class Spread(Loss):
    """Reads what both hand on, and the domains; asks for a file that is there in training alone."""

    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        assert Path("teacher.txt").read_text()
        assert scene.domains == ("cartoon", "photo")
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        SEEN.append((outputs.domain.tolist(), outputs.index.tolist()))
        return {
            "ce": F.cross_entropy(outputs.logits, outputs.label),
            "spread": 0.1 * self.weight.mean() * (outputs.extra["size"] - outputs.extra["spread"]),
        }


class Staged(Learner):
    """The contexts first; the factor joins them in epoch 2, by a step of another length."""

    needs: ClassVar[Mapping[str, type]] = {"prompts": Contexts}

    @dataclass(frozen=True)
    class Options:
        lr: Annotated[float, "learning rate of the factor"] = 0.5

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.register_buffer("average", torch.zeros_like(self.prompts.ctx))
        self.projector.weight.requires_grad_(False)

    def parameter_groups(self) -> list[dict[str, Any]]:
        own = [self.projector.weight]
        rest = [p for p in self.parameters() if p is not own[0]]
        return [{"params": rest}, {"params": own, "lr": self.options.lr}]

    def epoch_start(self, epoch: int, epochs: int) -> None:
        if epoch == 2:
            self.projector.weight.requires_grad_(True)

    @torch.no_grad()
    def step_end(self, step: int) -> None:
        self.average += (self.prompts.ctx - self.average) / step

    def metrics(self, outputs: Outputs) -> Mapping[str, Tensor | float]:
        return {"right": (outputs.logits.argmax(-1) == outputs.label).float().mean(), "ten": 10.0}


class Plugin:
    @hookimpl
    def register_prompts(self, register: Any) -> None:
        register("contexts", Contexts)

    @hookimpl
    def register_projectors(self, register: Any) -> None:
        register("scaled", Scaled)

    @hookimpl
    def register_losses(self, register: Any) -> None:
        register("spread", Spread)

    @hookimpl
    def register_learners(self, register: Any) -> None:
        register("staged", Staged)

    @hookimpl
    def register_recipes(self, register: Any) -> None:
        recipe = Recipe("For a test", "contexts", loss="spread", projector="scaled", learner="staged")
        register("staged", recipe)


def rows(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(run, "log.jsonl").read_text().splitlines()]


def same(first: str, second: str) -> bool:
    a, b = (load_file(f"{run}/learner.safetensors") for run in (first, second))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def plugin() -> Any:
    SEEN.clear()
    with registered(Plugin()) as registry:
        yield registry


def test_stages_rates_and_figures_survive_a_stop(
    plugin: Any, train: Command, promptkit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("teacher.txt").write_text("x")
    words = ("--epochs", 3, "--batch-size", 8, "--set", "train.save_minutes=0", "--set", "learner.lr=0.25")
    done = train("staged", *words, "--out", "whole")
    assert done.status == 0, done.err
    assert "right" in done.out
    state = load_file("whole/learner.safetensors")
    assert state["average"].abs().sum() > 0
    assert not torch.equal(state["projector.weight"], torch.ones(24, 1)), "what is thawed in epoch 2 is trained"
    assert [row["ten"] for row in rows("whole")] == [10.0] * 3
    assert all(0 <= row["right"] <= 1 and row["ce"] + row["spread"] < 9 for row in rows("whole"))

    # In the middle of epoch 1, while the factor is frozen, and of epoch 3, long after it was thawed.
    forward = Spread.forward
    for stop in (2, 10):
        calls: list[int] = []

        def fails(self: Spread, outputs: Outputs, calls: list[int] = calls, stop: int = stop) -> dict[str, Tensor]:
            calls.append(1)
            if len(calls) > stop:
                raise PluginError("stopped")
            return forward(self, outputs)

        monkeypatch.setattr(Spread, "forward", fails)
        assert train("staged", *words, "--out", "again", "--force").status == 2
        monkeypatch.setattr(Spread, "forward", forward)
        done = promptkit("train", "--out", "again", "--resume")
        assert done.status == 0, done.err
        assert same("whole", "again")
        kept = [{key: value for key, value in row.items() if key != "seconds"} for row in rows("again")]
        assert kept == [{key: value for key, value in row.items() if key != "seconds"} for row in rows("whole")]


def test_batches_know_their_domains_and_predicting_needs_no_loss(
    plugin: Any, train: Command, promptkit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training batches know their places too; what a loss asks for to train is not asked for to predict."""
    Path("teacher.txt").write_text("x")
    done = train("staged", "--epochs", 1, "--batch-size", 8, "--out", "run")
    assert done.status == 0, done.err
    assert sorted(place for _, places in SEEN for place in places) == list(range(32))
    pairs = [pair for domains, places in SEEN for pair in zip(domains, places, strict=True)]
    assert {(domain, place // 16) for domain, place in pairs} == {(0, 0), (1, 1)}
    Path("teacher.txt").unlink()
    asked: list[list[int]] = []
    predict = Staged.predict

    def hears(self: Staged, batch: Batch) -> Tensor:
        asked.append(batch.domain.unique().tolist())
        return predict(self, batch)

    monkeypatch.setattr(Staged, "predict", hears)
    done = promptkit("eval", "run", "--workers", 0)
    assert done.status == 0, done.err
    assert sorted(asked) == [[0], [1]]


def test_a_learner_is_a_component_like_any_other(plugin: Any, train: Command, promptkit: Command) -> None:
    Path("teacher.txt").write_text("x")
    assert "staged" in promptkit("list", "learner").out
    shown = promptkit("show", "staged").out
    assert "learner.lr" in shown
    assert "learning rate of the factor" in shown
    done = train("staged", "--set", "prompts=coop", "--out", "run")
    assert done.status == 2
    assert "learner 'staged' needs Contexts in the slot prompts, where 'coop' stands" in done.err
    assert "--set prompts=contexts, or --set learner=plain" in done.err
    done = train("coop", "--set", "learner=stagd", "--out", "run")
    assert "no learner named 'stagd'; did you mean 'staged'?" in done.err
    assert build_recipe("coop", sets=["learner=plain"]).options == build_recipe("coop").options


def test_every_parameter_is_in_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build_recipe("cocoop")
    first = next(learner.parameters())
    (plain, decayed) = parameter_groups(learner, 0.1)
    assert {p.ndim for p in plain["params"]} == {1}
    assert (plain["weight_decay"], decayed["weight_decay"]) == (0.0, 0.1)
    for params, problem in (
        ([first, first], "holds prompts.ctx twice"),
        ([first], "leaves prompts.meta_net.0.weight out"),
        ([*learner.parameters(), torch.zeros(1)], "what is no parameter of the learner"),
    ):
        monkeypatch.setattr(learner, "parameter_groups", lambda params=params: [{"params": params}])
        with pytest.raises(PluginError, match=problem):
            make_optimizer(learner, TrainSettings())


def test_a_tensor_or_metric_whose_name_is_taken_is_refused(
    plugin: Any, train: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("teacher.txt").write_text("x")
    with monkeypatch.context() as patch:
        patch.setattr(Scaled, "extra", lambda self, views: {"spread": self.weight})
        assert "prompts and projector both hand the loss a tensor 'spread'" in train("staged", "--out", "a").err
    for metrics, problem in (
        ({"ce": 1.0}, "the metric 'ce' has the name of a loss term"),
        ({"wide": torch.ones(2)}, "the metric 'wide' has the shape (2,)"),
        ({"odd": float("nan")}, "metric 'odd' is nan at step 1"),
    ):
        monkeypatch.setattr(Staged, "metrics", lambda self, outputs, metrics=metrics: metrics)
        done = train("staged", "--out", "a", "--force")
        assert done.status == 2
        assert problem in done.err


def test_check_looks_at_every_stage(plugin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgets(Staged):
        stage = 1

        def epoch_start(self, epoch: int, epochs: int) -> None:
            super().epoch_start(epoch, epochs)
            self.stage = epoch

        def logits(self, view: View) -> Tensor:
            return super().logits(view) if self.stage < 2 else super().logits(view).detach()

    monkeypatch.setattr(Spread, "__init__", Loss.__init__)
    monkeypatch.setattr(Spread, "forward", lambda self, outputs: {"ce": F.cross_entropy(outputs.logits, outputs.label)})
    assert check_recipe("staged") == []
    plugin.entries["learner"]["staged"] = type(plugin.entry("learner", "staged"))("learner", "staged", Forgets, "x", "")
    assert check_recipe("staged")[0].startswith("gradients: no gradient reaches any parameter")

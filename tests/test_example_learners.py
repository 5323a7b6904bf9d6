"""The example learners through the command line: trained, saved, opened again and evaluated."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from promptkit.testing import registered

Command = Callable[..., "Finished"]

EXAMPLES = Path(__file__).parents[1] / "examples" / "learners"


@pytest.mark.parametrize("name", sorted(path.parent.name for path in EXAMPLES.glob("*/pyproject.toml")))
def test_an_example_trains_and_is_evaluated(name: str, train: Command, promptkit: Command, images: Path) -> None:
    with registered(import_module(f"promptkit_{name.replace('-', '_')}"), f"promptkit-{name}"):
        trained = train(name, "--domains", "photo", "--batch-size", 4, "--out", "run")
        assert trained.status == 0, trained.err
        done = promptkit("eval", "run", "--data", images, "--workers", 0)
    assert done.status == 0, done.err
    assert "cartoon" in done.out


def test_tip_adapter_without_training_keeps_its_cache(train: Command, promptkit: Command, images: Path) -> None:
    from safetensors.torch import load_file

    with registered(import_module("promptkit_tip_adapter"), "promptkit-tip-adapter"):
        done = train("tip-adapter", "--domains", "photo", "--epochs", 0, "--out", "run")
        assert done.status == 0, done.err
    state = load_file("run/learner.safetensors")
    assert state["prompts.filled"].sum(1).tolist() == [4.0] * 4
    full = state["prompts.filled"].bool()
    assert (state["prompts.keys"][full].norm(dim=-1) - 1).abs().max() < 1e-5
    assert not state["prompts.keys"][~full].any()

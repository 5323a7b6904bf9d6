"""`promptkit demo`: learners learn on drawn pictures, and what is done stays."""

from collections.abc import Callable
from pathlib import Path
from statistics import mean

import pytest

from promptkit.bench.results import Result, read_results
from promptkit.registry import discover, using

Command = Callable[..., "Finished"]


def accuracy(results: list[Result], learner: str, classes: str, *domains: str) -> float:
    return mean(
        result.scores.accuracy
        for result in results
        if (result.learner, result.classes) == (learner, classes) and result.domain in domains
    )


def test_learners_beat_hand_made_prompts_and_nothing_is_done_twice(promptkit: Command, tmp_path: Path) -> None:
    first = promptkit("demo", "--seeds", "1")
    assert first.status == 0, first.err
    results = read_results([tmp_path / "runs/demo/runs"])
    for learner in ("coop", "cocoop", "gopro"):
        gain = accuracy(results, learner, "base", "photo") - accuracy(results, "zeroshot", "base", "photo")
        assert gain > MARGIN, learner
        assert f"{learner}, seed 1: trained in" in first.out
        assert f"{learner} " in first.out
    for row in ("photo, trained", "cartoon", "painting", "sketch", "mean of the others"):
        assert row in first.out
    assert "- Learned prompts pay where they were trained" in first.out

    again = promptkit("demo", "--seeds", "1")
    assert again.status == 0
    assert "trained in" not in again.out
    assert again.out.splitlines()[1:] == [line for line in first.out.splitlines()[1:] if "trained in" not in line]

    (run,) = (tmp_path / "runs/demo/runs").rglob("gopro/*/seed-1/learner.safetensors")
    assert promptkit("eval", run.parent, "--classes", "new").status == 0
    assert promptkit("table", "runs/demo/runs", "--format", "markdown").status == 0


@pytest.mark.parametrize(
    ("words", "message"), [(("--seeds", "1,x"), "whole numbers"), (("--seeds", ""), "whole numbers")]
)
def test_seeds_that_are_none(promptkit: Command, words: tuple[str, ...], message: str) -> None:
    done = promptkit("demo", *words)
    assert done.status == 2
    assert message in done.err


def test_a_missing_plugin_is_named(promptkit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTKIT_PLUGINS", "coop")
    with using(discover()):
        done = promptkit("demo")
    assert done.status == 2
    assert "gopro is not installed" in done.err

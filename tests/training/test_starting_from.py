"""What a run may be given beside pictures: descriptions of classes, and what another run learned."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from promptkit.backbones.tiny import tiny_backbone

Command = Callable[..., "Finished"]

SAID = {"Circle": ["a round thing.", "it has no corner."], "cross": "two strokes.", "square": ["four equal sides."] * 2}


def test_zero_shot_takes_descriptions_and_a_moved_run_keeps_them(
    train: Command, promptkit: Command, images: Path
) -> None:
    Path("said.json").write_text(json.dumps(SAID))
    done = train("zeroshot", "--descriptions", "said.json", "--out", "run")
    assert done.status == 2
    assert "there is no description of 'star'" in done.err
    Path("said.json").write_text(json.dumps({**SAID, "star": ["five points."], "moon": ["bright."]}))
    assert train("zeroshot", "--descriptions", "said.json", "--out", "run").status == 0
    assert train("zeroshot", "--out", "plain").status == 0
    Path("said.json").unlink()
    shutil.move("run", "moved")
    done = promptkit("eval", "moved", "plain", "--workers", 0, "--json", "figures.json")
    assert done.status == 0, done.err
    runs = json.loads(Path("figures.json").read_text())["runs"]
    assert runs["moved"] != runs["plain"]

    import promptkit as package

    learner = package.load("moved", device="cpu").learner
    text = learner.encode_text(None)[0, :, 0]
    clip = tiny_backbone()
    rounds = clip.encode_captions(list(SAID["Circle"]))
    torch.testing.assert_close(text[0], torch.nn.functional.normalize(rounds.mean(0), dim=0))
    torch.testing.assert_close(text[1], clip.encode_captions(["two strokes."])[0])

    Path("new.json").write_text(json.dumps({name: "x" for name in ("circle", "cross", "square", "star")}))
    done = promptkit("eval", "moved", "--set", "data.descriptions=new.json", "--json", "again.json")
    assert done.status == 0, done.err
    assert json.loads(Path("again.json").read_text())["runs"]["moved"] != runs["moved"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[1]", "holds no descriptions"),
        ('{"star": []}', "for 'star'"),
        ('{"star": 1}', "no sound star"),
        (None, "said"),
    ],
)
def test_a_file_of_descriptions_that_is_none(train: Command, content: Any, problem: str) -> None:
    if content is not None:
        Path("said.json").write_text(content)
    done = train("zeroshot", "--descriptions", "said.json", "--out", "run")
    assert done.status == 2
    assert problem in done.err


def test_training_starts_from_what_another_run_learned(train: Command) -> None:
    four = ("--set", "prompts.n_ctx=4")
    assert train("coop", *four, "--out", "first").status == 0
    assert train("cocoop", "--init", "first", "--epochs", 0, "--out", "second").status == 0
    first, second = (load_file(f"{run}/learner.safetensors") for run in ("first", "second"))
    done = train("coop", "--init", "first", "--out", "third")
    assert done.status == 2
    assert "prompts.ctx" in done.err
    done = train("coop", *four, "--init", "first", "--epochs", 0, "--out", "fourth")
    assert done.status == 0, done.err
    assert torch.equal(load_file("fourth/learner.safetensors")["prompts.ctx"], first["prompts.ctx"])
    assert torch.equal(second["prompts.ctx"], first["prompts.ctx"])
    done = train("zeroshot", "--init", "first", "--out", "fifth")
    assert "none of its tensors is one of this learner" in done.err
    done = train("coop", "--init", "nowhere", "--out", "sixth")
    assert "nowhere holds no run" in done.err

"""What a run may be given beside pictures: descriptions of classes, what another run learned, and a run that teaches."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from promptkit import PluginError, hookimpl
from promptkit.backbones.tiny import tiny_backbone
from promptkit.components import Loss
from promptkit.data.unlabelled import unlabelled_part
from promptkit.experiments.plan import Request, make_plan
from promptkit.experiments.plan import images as pictures_of
from promptkit.experiments.protocols import open_data
from promptkit.experiments.results import read_results
from promptkit.learner import Learner
from promptkit.registry import installed
from promptkit.tensors import Outputs
from promptkit.testing import check_loss, registered

Command = Callable[..., "Finished"]


class Taught(Loss):
    """The teacher's answers alone."""

    def forward(self, outputs: Outputs) -> dict[str, torch.Tensor]:
        assert self.scene.teacher
        said = self.scene.teacher.taught(outputs.index).softmax(-1)
        assert said.isfinite().all()
        return {"taught": F.cross_entropy(outputs.logits, said)}


class Follower(Learner):
    """Answers with the teacher's texts, whatever it is asked about."""

    def set_classes(self, names: Sequence[str]) -> None:
        super().set_classes(names)
        if self.scene.teacher:
            self.scene.teacher.learner.set_classes(names)

    def metrics(self, outputs: Outputs) -> dict[str, torch.Tensor]:
        assert self.scene.teacher
        said = self.scene.teacher.taught(outputs.index)
        return {"agree": (said.argmax(-1) == outputs.logits.argmax(-1)).float().mean()}


SEEN: list[list[int]] = []


class Unsure(Loss):
    """Cross-entropy, and the entropy of what is said about pictures without labels."""

    unlabelled = True

    def forward(self, outputs: Outputs) -> dict[str, torch.Tensor]:
        other = outputs.unlabelled
        assert other is not None
        assert (other.label == -1).all()
        assert (other.domain == -1).all()
        assert len(other.label) == len(outputs.label)
        SEEN.append(other.index.tolist())
        said = other.logits.log_softmax(-1)
        return {"ce": F.cross_entropy(outputs.logits, outputs.label), "unsure": -(said.exp() * said).sum(-1).mean()}


class Plugin:
    @hookimpl
    def register_losses(self, register: Any) -> None:
        register("taught", Taught)
        register("unsure", Unsure)

    @hookimpl
    def register_learners(self, register: Any) -> None:
        register("follower", Follower)


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


@pytest.mark.filterwarnings("ignore:random weights")
def test_a_run_on_another_backbone_teaches_and_is_not_needed_to_predict(
    train: Command, promptkit: Command, images: Path
) -> None:
    demo = ("--data", images, "--backbone", "demo", "--weights", "demo", "--workers", 0)
    done = promptkit("train", "zeroshot", *demo, "--out", "teacher")
    assert done.status == 0, done.err
    taught = ("--teacher", "teacher", "--set", "loss=taught", "--batch-size", 8, "--lr", 0.05)
    with registered(Plugin()):
        for cache in ((), ("--no-cache",)):
            done = train("coop", *taught, "--epochs", 3, "--out", f"run{len(cache)}", *cache)
            assert done.status == 0, done.err
        rows = [json.loads(line) for line in Path("run0/log.jsonl").read_text().splitlines()]
        assert rows[-1]["taught"] < rows[0]["taught"]
        other = [json.loads(line) for line in Path("run1/log.jsonl").read_text().splitlines()]
        assert [row["taught"] for row in rows] == pytest.approx([row["taught"] for row in other], abs=1e-4)
        shutil.move("teacher", "gone")
        done = promptkit("eval", "run0", "--workers", 0)
        assert done.status == 0, done.err
        done = train("coop", *taught, "--out", "again")
        assert done.status == 2
        assert "teacher holds no run" in done.err
        shutil.move("gone", "teacher")
        done = train("coop", *taught, "--set", "learner=follower", "--epochs", 1, "--out", "follows")
        assert done.status == 0, done.err
        assert "agree" in done.out


def test_a_bench_adapts_to_a_domain_whose_test_pictures_no_training_has_seen(promptkit: Command, images: Path) -> None:
    words = ("--learners", "coop,adapts=coop[loss=unsure]", "--seeds", "1", "--shots", "2", "--epochs", "3")
    tiny = ("--backbone", "tiny", "--weights", "none", "--workers", "0", "--batch-size", "8")
    SEEN.clear()
    with registered(Plugin()):
        done = promptkit("bench", "domain-adaptation", "--data", images, *words, *tiny)
        assert done.status == 0, done.err
        data = open_data("domain-adaptation", [images], [], installed())
        one_target = promptkit(
            "bench", "domain-adaptation", "--data", images, *words, *tiny, "--source", "photo", "--plan"
        )
        request = Request("domain-adaptation", ["coop", "adapts=coop[loss=unsure]"], shots=[2], seeds=[1])
        plan = make_plan(request, data, installed())
        wrong = promptkit("bench", "domain-adaptation", "--data", images, *words, *tiny, "--source", "photo,cartoon")
        assert "has no domain to adapt to beside cartoon, photo" in wrong.err
    assert "2 runs" in one_target.out, "to the domains that are no source"
    assert {(one.learner, one.domain) for one in read_results([Path("results")])} == {
        (learner, domain) for learner in ("adapts", "coop") for domain in ("cartoon", "photo")
    }
    for training in plan.trainings:
        ((target, config),) = training.targets
        (domain,) = target.domains
        tested = {item.path for item in pictures_of(target, config).items}
        adapts = training.learner.name == "adapts"
        assert config.data.unlabelled_domains == (domain if adapts else "")
        seen = {item.path for item in training.dataset.items if item.split == "train"}
        assert {path.parts[-3] for path in tested} == {domain}
        assert domain not in {path.parts[-3] for path in seen}
        if adapts:
            without = unlabelled_part(data[0].dataset, config.data)
            assert {item.label for item in without.items} == {-1}
            assert {item.path.parts[-3] for item in without.items} == {domain}
            assert len(without.items) == 16, "all that train, whatever the shots"
            seen |= {item.path for item in without.items}
        assert not seen & tested
    assert {place for batch in SEEN for place in batch} <= set(range(16))


def test_pictures_without_labels_come_with_each_batch_and_survive_a_stop(
    train: Command, promptkit: Command, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Path("few")
    few.mkdir()
    for number, picture in enumerate(sorted((images / "cartoon").rglob("*.png"))[:11]):
        shutil.copy(picture, few / f"{number}.png")
    words = ("--domains", "photo", "--set", "loss=unsure", "--batch-size", 4, "--set", "train.save_minutes=0")
    SEEN.clear()
    with registered(Plugin()):
        assert check_loss("unsure") == []
        SEEN.clear()
        done = train("cocoop", *words, "--unlabelled", few, "--out", "whole")
        assert done.status == 0, done.err
        whole = list(SEEN)
        assert [len(batch) for batch in whole] == [4] * 8
        epochs = [[place for batch in some for place in batch] for some in (whole[:4], whole[4:])]
        assert sorted(epochs[0][:11]) == list(range(11)), "each once before any comes again"
        assert epochs[0] != epochs[1]

        SEEN.clear()
        forward, stop = Unsure.forward, 6

        def fails(self: Unsure, outputs: Outputs) -> dict[str, torch.Tensor]:
            if len(SEEN) == stop:
                raise PluginError("stopped")
            return forward(self, outputs)

        monkeypatch.setattr(Unsure, "forward", fails)
        assert train("cocoop", *words, "--unlabelled", few, "--out", "again").status == 2
        monkeypatch.setattr(Unsure, "forward", forward)
        done = promptkit("train", "--out", "again", "--resume")
        assert done.status == 0, done.err
        assert whole == SEEN
        first, second = (load_file(f"{run}/learner.safetensors") for run in ("whole", "again"))
        assert all(torch.equal(first[name], second[name]) for name in first)

        assert "say where they are with --unlabelled" in train("coop", *words, "--out", "x").err
        assert "there are no pictures in nothing" in train("coop", *words, "--unlabelled", "nothing", "--out", "x").err
    done = train("coop", "--unlabelled", few, "--out", "x")
    assert "loss 'cross-entropy' looks at no pictures without labels" in done.err

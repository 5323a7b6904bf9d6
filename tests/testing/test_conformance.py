"""Each check finds the component that has exactly its defect, and passes a sound one."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptkit import hookimpl
from promptkit.errors import UnknownNameError
from promptkit.learner import Learner
from promptkit.registry import installed
from promptkit.testing import (
    check_backbone,
    check_loss,
    check_projector,
    check_prompts,
    check_recipe,
    check_views,
    registered,
)
from promptkit.testing.conformance import CHECKS, examine

spec = importlib.util.spec_from_file_location("defects", Path(__file__).with_name("defects.py"))
assert spec
assert spec.loader
defects: Any = importlib.util.module_from_spec(spec)
sys.modules["defects"] = defects  # views have to pickle
spec.loader.exec_module(defects)

BY_KIND = {"prompts": check_prompts, "projector": check_projector, "views": check_views, "loss": check_loss}


@pytest.mark.filterwarnings("ignore:random weights")
def test_all_recipes_and_builtins_pass() -> None:
    found = {
        (entry.kind, entry.name): [o for o in examine(entry.kind, entry.name) if o.problem]
        for entry in installed()
        if entry.kind in CHECKS
    }
    assert {"gopro", "gopro-reference", "coop", "cocoop", "zeroshot"} <= {name for _, name in found}
    assert not any(found.values()), found


def test_a_sound_plugin_passes_every_check() -> None:
    with registered(defects.Plugin()):
        assert check_recipe("subject") == []
        for check in BY_KIND.values():
            assert check("subject") == []
        assert [outcome.check for outcome in examine("recipe", "subject")] == list(CHECKS["recipe"])


@pytest.mark.parametrize(
    ("kind", "defect", "check", "advice"),
    [
        ("prompts", "MutableOptions", "options", "@dataclass(frozen=True)"),
        ("prompts", "PlainOptions", "options", "is no dataclass"),
        ("prompts", "NoHelp", "options", "prompts.n_ctx lacks help: write it as Annotated[int"),
        ("prompts", "ListOption", "options", "can't set prompts.depths"),
        ("prompts", "NoDefault", "options", "prompts.n_ctx has the default None"),
        ("prompts", "WrongShape", "shapes", "the context of prompts.text() is (4, 1, 1, 4, 32)"),
        ("prompts", "Unannounced", "shapes", "set `conditional = True`"),
        ("prompts", "NoNorm", "shapes", "divide them by their norm"),
        ("prompts", "ListOfPrompts", "shapes", "prompts.vision() is a list: return a tensor"),
        ("prompts", "BareTensor", "shapes", "prompts.text() returns Tensor: return a TextPrompts"),
        ("prompts", "Unreached", "gradients", "no gradient reaches prompts.forgotten"),
        ("prompts", "Detached", "gradients", "no gradient reaches"),
        ("prompts", "ChangesBackbone", "backbone untouched", "it is frozen"),
        ("prompts", "OpensBackbone", "backbone untouched", "don't call requires_grad_"),
        ("prompts", "OwnsBackbone", "backbone untouched", "reach the backbone through self.scene"),
        ("prompts", "LeavesHook", "backbone untouched", "remove hooks"),
        ("prompts", "LooksAround", "batch independence", "depends on the rest of the batch"),
        ("prompts", "Forgets", "save and load", "keep all that is learned"),
        ("prompts", "Grows", "save and load", "seen changes its name or shape in training"),
        ("prompts", "OwnClassesOnly", "new classes", "not for those of the scene, or declare `class_specific`"),
        ("prompts", "KnownNamesOnly", "new classes", "it fails (KeyError: 'striped tent')"),
        ("prompts", "RemembersNames", "new classes", "keep nothing of the classes asked before"),
        ("prompts", "GuessesAnew", "same seed", "predictions differ between two runs of the same seed"),
        ("prompts", "SteepInBf16", "bf16", "under bf16 the gradient of prompts.scale is not finite"),
        ("prompts", "Unseeded", "same seed", "differs between two runs of the same seed"),
        ("prompts", "Overflows", "bf16", "under bf16 the loss term 'ce' is not finite"),
        ("projector", "WrongProjector", "shapes", "projector.text() is (4, 4, 1, 5)"),
        ("views", "NoPickle", "views", "doesn't pickle"),
        ("views", "WrongNames", "views", "views returns image, nosy, but `names` says image, noisy"),
        ("views", "NoImage", "views", 'makes "noisy"'),
        ("views", "NotFinite", "views", "holds values that are not finite"),
        ("views", "ForgetsInPickle", "views", "a pickled copy of views gives other pictures"),
        ("views", "ChannelsLast", "views", "return (3, 32, 32), channels first"),
        ("views", "Doubles", "views", "return a numpy array of float32"),
        ("views", "OwnDice", "views", "ignores its generator"),
        ("loss", "Vector", "loss terms", "has shape (4,): reduce it to a scalar"),
        ("loss", "Float", "loss terms", "'weight' is a float"),
        ("loss", "Infinite", "loss terms", "is -inf on sound pictures"),
        ("loss", "Empty", "loss terms", "the loss returns no terms"),
        ("loss", "Undeclared", "loss terms", "reads the view 'noisy' without declaring it"),
        ("loss", "Unhanded", "loss terms", "asks for 'head', which is no view; `outputs.extra` holds nothing"),
        ("loss", "Raises", "loss terms", "loss (Raises.forward, line "),
        ("learner", "InOrder", "new classes", "treat every class alike"),
        ("learner", "ResetsBackbone", "backbone untouched", "don't call train()"),
        ("learner", "LeavesGradients", "backbone untouched", "a gradient was left"),
        ("learner", "Counts", "test time", "predict() changes asked"),
        ("learner", "LooksAhead", "batch independence", "depends on where batches end"),
        ("learner", "TwoWays", "reports", "evaluated batch by batch, the answers are not those that predict() gives"),
        ("learner", "FrozenForGood", "gradients", "prompts.shift.bias is frozen in every epoch: thaw it"),
        ("learner", "InOneOrder", "test time", "the order of a domain's pictures changes the predictions"),
        ("prompts", "Unbounded", "shapes", "text features of prompts.encode() are not finite"),
    ],
)
def test_a_defect_is_found_by_its_check_and_by_no_other(kind: str, defect: str, check: str, advice: str) -> None:
    with registered(defects.Plugin(**{kind: getattr(defects, defect)})):
        findings = check_recipe("subject")
        assert len(findings) == 1, findings
        assert findings[0].startswith(f"{check}: ")
        assert advice in findings[0]
        if kind in BY_KIND:
            assert BY_KIND[kind]("subject") == findings


@pytest.mark.parametrize(
    ("kind", "defect", "advice"),
    [
        ("prompts", "SteepAtZero", "the gradient of prompts.scale is not finite: guard roots"),
        ("loss", "Ungraded", "no gradient reaches any parameter"),
        ("loss", "Deaf", "the logits depend on prompts.ctx, and no term of the loss does"),
    ],
)
def test_a_defect_that_spoils_training_is_named_before_what_follows_from_it(
    kind: str, defect: str, advice: str
) -> None:
    with registered(defects.Plugin(**{kind: getattr(defects, defect)})):
        first, *_ = check_recipe("subject")
    assert first.startswith("gradients: ")
    assert advice in first


@pytest.mark.parametrize(
    ("kind", "defect", "said"),
    [
        ("prompts", "WrongShape", "prompts 'subject': the context of prompts.text() is (2, 1, 1, 4, 32): make it"),
        ("prompts", "Unannounced", "a context for each image: set `conditional = True` on the class"),
        ("prompts", "BareTensor", "prompts 'subject': prompts.text() returns Tensor: return a TextPrompts"),
        ("projector", "WrongProjector", "projector 'subject': projector.text() is (2, 4, 1, 5): make it"),
        ("loss", "Vector", "loss 'subject': the loss term 'ce' has shape (8,): reduce it to a scalar"),
        ("loss", "Float", "loss 'subject': the loss term 'weight' is a float: return a scalar tensor"),
        ("loss", "Ungraded", "recipe 'subject': no gradient reaches any parameter"),
        ("views", "WrongNames", "views 'subject': views returns image, nosy, but `names` says image, noisy"),
        ("views", "ChannelsLast", "views 'subject': the view 'image' is (32, 32, 3): return (3, 32, 32)"),
        ("views", "Doubles", "views 'subject': the view 'image' is float64: return a numpy array of float32"),
        ("prompts", "Grows", "prompts 'subject': prompts.seen changes its name or shape in training"),
        ("prompts", "ListOption", "prompts 'subject': the option depths is (1, 2), expected a text, number"),
        ("prompts", "NoDefault", "prompts 'subject': its options can't be made: "),
    ],
)
def test_train_names_the_component_at_its_first_step(
    kind: str, defect: str, said: str, train: Callable[..., Any], tmp_path: Path
) -> None:
    with registered(defects.Plugin(**{kind: getattr(defects, defect)})):
        done = train("subject", "--out", "run", "--batch-size", 8)
    assert done.status == 2, done.out
    assert said in done.err
    assert "promptkit check subject looks for what is wrong with it" in done.err
    assert "please report it" not in done.err
    assert not (tmp_path / "run/learner.safetensors").exists()


def test_train_names_what_no_gradient_reaches(train: Callable[..., Any]) -> None:
    with registered(defects.Plugin(prompts=defects.Unreached)):
        done = train("subject", "--out", "run", "--epochs", 1)
    assert done.status == 0, done.err
    assert done.err.count("warning: no gradient reaches prompts.forgotten: ") == 1


def test_views_without_an_image_to_predict_from() -> None:
    with registered(defects.Plugin(views=defects.NoImage, loss=defects.NoisyAlone)):
        (finding,) = check_recipe("subject")
    assert finding == 'views: views makes noisy and no "image": name one of them "image"'


def test_contexts_of_each_class_are_asked_about_their_own() -> None:
    with registered(defects.Plugin(prompts=defects.OwnContexts)):
        assert check_recipe("subject") == []
    with registered(defects.Plugin(prompts=defects.OwnContexts, learner=defects.InOrder)):
        (finding,) = check_recipe("subject")
    assert finding.startswith("new classes: asked about some of its classes, the logits are not theirs")


def test_views_that_a_recipe_lacks_for_its_loss_are_named() -> None:
    with registered(defects.Plugin(loss=defects.NeedsMore)):
        (finding,) = check_recipe("subject")
    assert """needs the views "cropped"; views 'subject' makes "image" and "noisy\"""" in finding


def backbone_plugin(load: Callable[[str], object]) -> object:
    class Plugin:
        @hookimpl
        def register_backbones(self, register: Callable[..., None]) -> None:
            register("subject", load)

    return Plugin()


@pytest.mark.parametrize(
    ("defect", "check", "advice"),
    [
        ("deaf", "prompts matter", "other contexts change no text feature"),
        ("blind", "prompts matter", "vision prompts change no image feature"),
        ("misread", "prompt encoding", "prompt encoding differs from plain encoding"),
        ("thawed", "frozen", "call requires_grad_(False)"),
        ("awake", "frozen", "can be put in training mode"),
        ("nameless", "frozen", "fingerprint is empty or changes"),
        ("narrow", "features", "caption features are (2, 23): make them (2, 24)"),
        ("misjudged", "features", "but `intermediate_widths` says (7, 7)"),
        ("flat", "prompt encoding", "make it (#B C K D)"),
        ("severed", "prompts matter", "no gradient reaches contexts through the backbone"),
        ("long", "features", "caption features have no unit norm"),
    ],
)
def test_a_backbone_with_a_defect(defect: str, check: str, advice: str) -> None:
    with registered(backbone_plugin(getattr(defects, defect))):
        findings = {finding.partition(": ")[0]: finding for finding in check_backbone("subject")}
    assert advice in findings[check]


def test_a_sound_backbone() -> None:
    with registered(backbone_plugin(lambda weights: defects.tiny_backbone())):
        assert check_backbone("subject") == []


def test_a_component_without_a_recipe_is_checked_beside_plain_contexts() -> None:
    class Alone:
        @hookimpl
        def register_losses(self, register: Callable[..., None]) -> None:
            register("alone", defects.SoundLoss)

        @hookimpl
        def register_views(self, register: Callable[..., None]) -> None:
            register("alone", defects.SoundViews)

        @hookimpl
        def register_projectors(self, register: Callable[..., None]) -> None:
            register("alone", defects.SoundProjector)

        @hookimpl
        def register_prompts(self, register: Callable[..., None]) -> None:
            register("alone", defects.Sound)

    with registered(Alone()):
        for check in BY_KIND.values():
            assert check("alone") == []


def test_a_gradient_of_zero_is_a_gradient() -> None:
    """A bias before a normalisation is inert by construction; the published learners have some."""

    class Inert(defects.SoundProjector):  # type: ignore[misc, name-defined]
        def image(self, features: Any) -> Any:
            return super().image(features) + 0 * self.map.bias.sum()

    with registered(defects.Plugin(projector=Inert)):
        assert check_recipe("subject") == []


def test_a_parameter_may_be_trained_in_a_later_stage() -> None:
    class Staged(Learner):
        def epoch_start(self, epoch: int, epochs: int) -> None:
            self.prompts.shift.requires_grad_(epoch > 5)  # type: ignore[operator, union-attr]

    with registered(defects.Plugin(learner=Staged)):
        assert check_recipe("subject") == []


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'coop'"):
        check_recipe("cooop")


@pytest.mark.parametrize(
    ("defect", "finding"),
    [
        ("BanksDiffer", "batch independence: a prediction from features differs from that of the pixels"),
        ("NeverForgets", "test time: after reset() predictions are others"),
        ("ForgetsHalf", "test time: the stream before reset() changes predictions after it"),
    ],
)
def test_a_defect_at_test_time_is_named(defect: str, finding: str) -> None:
    with registered(defects.Plugin(learner=getattr(defects, defect))):
        assert any(found.startswith(finding) for found in check_recipe("subject"))

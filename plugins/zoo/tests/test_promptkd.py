"""PromptKD against its formula, and what it needs: a teacher, of any width."""

import pytest
import torch
from promptkit_zoo import promptkd, vpt
from torch.nn.functional import kl_div, normalize

from promptkit import ConfigError
from promptkit.build import build_learner
from promptkit.components import Scene, TeacherRun
from promptkit.config import resolve
from promptkit.learner import Learner
from promptkit.registry import installed
from promptkit.tensors import Batch
from promptkit.testing import build_recipe, check_recipe, registered, tiny_backbone

NAMES = ("cat", "yellow school bus", "moon")
PLUGINS = (promptkd, vpt)
TINY = {"backbone.name": "tiny", "backbone.weights": "none"}


def build(teacher: str = "zeroshot") -> Learner:
    config = resolve(installed(), teacher, flags=TINY)
    scene = Scene(tiny_backbone(embed_dim=20), NAMES)
    run = TeacherRun(lambda: build_learner(config, installed(), scene, to_train=False).eval())
    student = resolve(installed(), "promptkd", sets=["prompts.depth=2"], flags=TINY)
    return build_learner(student, installed(), Scene(tiny_backbone(), NAMES, teacher=run))


def test_it_keeps_the_contract_and_asks_for_a_teacher_whose_texts_are_the_same_for_all() -> None:
    with registered(PLUGINS, "clip-promptkit-zoo"):
        assert check_recipe("promptkd") == []
        with pytest.raises(ConfigError, match="projector 'promptkd' needs a run to learn from") as caught:
            build_recipe("promptkd")
        assert "--teacher RUN" in str(caught.value.hint)
        with pytest.raises(ConfigError, match="texts depend on the picture"):
            build("cocoop")


def test_the_student_answers_with_the_teachers_texts_and_learns_its_answers() -> None:
    with registered(PLUGINS, "clip-promptkit-zoo"):
        learner = build()
    run, backbone = learner.scene.teacher, learner.scene.backbone
    pixels = torch.randn(4, 3, 32, 32)
    run.logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([8, 0, 3, 3])
    outputs = learner(Batch({"image": pixels}, torch.full((4,), -1), index=places))
    projector = learner.projector
    hidden = projector.into(backbone.encode_image(pixels, learner.prompts.tokens).pooled)
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
    text = run.learner.scene.backbone.encode_captions([f"a photo of a {name}." for name in NAMES])
    logits = backbone.logit_scale * normalize(projector.out(hidden.relu()), dim=-1) @ text.T
    torch.testing.assert_close(outputs.logits, logits, rtol=1e-4, atol=1e-4)
    expected = 1000 * kl_div(logits.log_softmax(1), run.logits[places].softmax(1), reduction="sum") / logits.numel()
    torch.testing.assert_close(learner.loss(outputs)["distilled"], expected, rtol=1e-4, atol=1e-4)
    alone = learner(Batch({"image": pixels[:1]}, torch.tensor([-1]), index=places[:1]))
    assert torch.isfinite(alone.logits).all(), "batch normalisation of one picture"
    learner.eval().set_classes(["tent", "moon"])
    assert learner.predict(Batch.of(pixels)).shape == (4, 2)
    assert run.learner.classnames == NAMES

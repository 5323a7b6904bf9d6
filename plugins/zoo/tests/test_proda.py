"""ProDA's bound written out; where the names stand, and which prompts are drawn."""

import pytest
import torch
from promptkit_zoo import proda

from promptkit import ConfigError
from promptkit.learner import Learner
from promptkit.tensors import Batch, TextPrompts
from promptkit.testing import build_recipe, check_recipe, registered

NAMES = ("cat", "yellow school bus", "moon")


def build(*sets: str) -> Learner:
    with registered(proda, "clip-promptkit-zoo"):
        return build_recipe("proda", NAMES, ["prompts.n_prompts=8", "prompts.n_ctx=4", *sets])


def test_it_keeps_the_contract() -> None:
    with registered(proda, "clip-promptkit-zoo"):
        assert check_recipe("proda") == []


def test_the_bound_and_the_similarity_are_those_of_the_code() -> None:
    learner = build()
    scale = learner.scene.backbone.logit_scale
    label = torch.tensor([0, 2])
    outputs = learner(Batch({"image": torch.randn(2, 3, 32, 32)}, label))
    view = outputs.views["image"]
    weights = view.text[0]  # (C K D), the classifiers
    assert weights.shape[:2] == (3, 4)
    mean = weights.mean(1)
    apart = weights - mean[:, None]
    covariance = torch.einsum("ckd,ikd->cid", apart, apart) / 5  # of every pair of classes, channel by channel
    losses = []
    for z, y in zip(view.image, label.tolist(), strict=True):
        exponents = []
        for c in range(3):
            variance = covariance[c, c] + covariance[y, y] - 2 * covariance[c, y]
            exponents.append(scale * z @ mean[c] + scale**2 * z.square() @ variance / 2)
        losses.append(torch.stack(exponents).logsumexp(0) - scale * z @ mean[y])
    terms = learner.loss(outputs)
    torch.testing.assert_close(terms["bound"], torch.stack(losses).mean(), rtol=1e-4, atol=1e-4)
    nameless = learner.scene.backbone.class_tokens(("",), 4)
    said = learner.scene.backbone.encode_text(TextPrompts(learner.prompts.ctx[None]), nameless)[0, 0]
    pairs = [(said[i] @ said[j]).abs() for i in range(8) for j in range(8) if i != j]
    torch.testing.assert_close(terms["similarity"], 0.1 * torch.stack(pairs).mean(), rtol=1e-4, atol=1e-5)


def test_names_stand_in_three_places_and_all_prompts_answer() -> None:
    learner = build().eval()
    backbone, ctx = learner.scene.backbone, learner.prompts.ctx
    text = learner.encode_text(None)
    assert text.shape == (1, 3, 8, 24)
    for prompt, position in ((0, "front"), (2, "middle"), (7, "end")):
        alone = backbone.encode_text(
            TextPrompts(ctx[None, :, prompt : prompt + 1]), backbone.class_tokens(NAMES, 4, position)
        )
        torch.testing.assert_close(text[:, :, prompt], alone[:, :, 0], rtol=1e-5, atol=1e-5)


def test_every_prompt_is_taken_once_before_any_comes_again() -> None:
    learner = build("prompts.n_batch=2").train()
    drawn = [learner.prompts.draw() for _ in range(6)]
    state = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    drawn += [learner.prompts.draw() for _ in range(2)]
    for turn in (drawn[:4], drawn[4:]):
        assert sorted(place for places in turn for place in places) == list(range(8))
    assert drawn[:4] != drawn[4:]
    resumed = build("prompts.n_batch=2")
    resumed.load_state_dict(state)
    assert [resumed.prompts.draw() for _ in range(2)] == drawn[6:]
    with pytest.raises(ConfigError, match="n_batch=3 does not divide"):
        build("prompts.n_batch=3")

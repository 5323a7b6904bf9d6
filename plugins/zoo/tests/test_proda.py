"""ProDA's bound against the paper's formula, written out; where the names stand, and which prompts are drawn."""

import torch
from promptkit_zoo import proda

from promptkit.learner import Learner
from promptkit.tensors import Batch
from promptkit.testing import build_recipe, check_recipe, registered

NAMES = ("cat", "yellow school bus", "moon")


def build() -> Learner:
    with registered(proda, "clip-promptkit-zoo"):
        return build_recipe("proda", NAMES, ["prompts.n_prompts=8", "prompts.n_ctx=4"])


def test_it_keeps_the_contract() -> None:
    with registered(proda, "clip-promptkit-zoo"):
        assert check_recipe("proda") == []


def test_the_bound_and_the_similarity_are_the_papers() -> None:
    learner = build()
    scale = learner.scene.backbone.logit_scale
    label = torch.tensor([0, 2])
    outputs = learner(Batch({"image": torch.randn(2, 3, 32, 32)}, label))
    view = outputs.views["image"]
    weights = view.text[0]  # (C K D), the classifiers
    assert weights.shape[:2] == (3, 4)
    mean = weights.mean(1)
    apart = weights - mean[:, None]
    covariance = torch.einsum("ckd,ike->cide", apart, apart) / 4  # of every pair of classes
    losses = []
    for z, y in zip(view.image, label.tolist(), strict=True):
        exponents = []
        for c in range(3):
            a = covariance[c, c] + covariance[y, y] - covariance[c, y] - covariance[y, c]
            exponents.append(scale * z @ mean[c] + scale**2 * z @ a @ z / 2)
        losses.append(-(scale * z @ mean[y]) + torch.stack(exponents).logsumexp(0))
    terms = learner.loss(outputs)
    torch.testing.assert_close(terms["bound"], torch.stack(losses).mean(), rtol=1e-4, atol=1e-4)
    said = outputs.extra["nameless"]
    pairs = [(said[i] @ said[j]).abs() for i in range(4) for j in range(4) if i != j]
    torch.testing.assert_close(terms["similarity"], 0.1 * torch.stack(pairs).mean(), rtol=1e-4, atol=1e-5)


def test_names_stand_in_three_places_and_all_prompts_answer() -> None:
    learner = build().eval()
    backbone, ctx = learner.scene.backbone, learner.prompts.ctx
    text = learner.encode_text(None)
    assert text.shape == (1, 3, 8, 24)
    for prompt, position in ((0, "front"), (2, "middle"), (7, "end")):
        from promptkit.tensors import TextPrompts

        alone = backbone.encode_text(
            TextPrompts(ctx[None, :, prompt : prompt + 1]), backbone.class_tokens(NAMES, 4, position)
        )
        torch.testing.assert_close(text[:, :, prompt], alone[:, :, 0], rtol=1e-5, atol=1e-5)
    learner.train()
    drawn = []
    for _ in range(8):
        learner.encode_text(None)
        drawn.append(tuple(learner.prompts.drawn))
    assert len(set(drawn)) > 1
    assert all(len(one) == 4 for one in drawn)

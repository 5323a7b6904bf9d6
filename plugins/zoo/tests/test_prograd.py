"""ProGrad keeps the contract, and its defining term is the paper's."""

import open_clip
import pytest
import torch
from promptkit_zoo import prograd

from promptkit import ConfigError
from promptkit.learner import Learner
from promptkit.tensors import Batch
from promptkit.testing import build_recipe, check_recipe, registered

NAMES = ("cat", "yellow school bus", "aeroplane at night")


def build(recipe: str, *sets: str) -> Learner:
    with registered(prograd, "clip-promptkit-zoo"):
        return build_recipe(recipe, NAMES, sets)


def batch(seed: int = 0) -> Batch:
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return Batch({"image": pixels}, torch.tensor([0, 2]))


def test_it_keeps_the_contract() -> None:
    with registered(prograd, "clip-promptkit-zoo"):
        assert check_recipe("prograd") == []


def test_a_conflict_is_projected_out_and_agreement_left_alone() -> None:
    align = prograd.align
    torch.testing.assert_close(align(torch.tensor([1.0, -2.0]), torch.tensor([0.0, 3.0])), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(align(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 3.0])), torch.tensor([1.0, 2.0]))
    halfway = align(torch.tensor([1.0, -2.0]), torch.tensor([0.0, 3.0]), strength=0.5)
    torch.testing.assert_close(halfway, torch.tensor([1.0, -1.0]))


def test_backward_leaves_the_aligned_gradient() -> None:
    learner = build("prograd")
    terms = learner.loss(learner(batch()))
    ce, kl = (torch.autograd.grad(terms[name], learner.prompts.ctx, retain_graph=True)[0] for name in ("ce", "kl"))
    learner.backward(terms)
    torch.testing.assert_close(learner.prompts.ctx.grad, prograd.align(ce, kl))


def test_a_parameter_that_no_term_reaches_stays() -> None:
    learner, plain = build("prograd"), build("prograd")
    learner.projector.unused = torch.nn.Parameter(torch.ones(2))
    for one in (learner, plain):
        one.backward(one.loss(one(batch())))
    assert not learner.projector.unused.grad.any()
    torch.testing.assert_close(learner.prompts.ctx.grad, plain.prompts.ctx.grad)


def first_tokens(learner: Learner, text: str, n: int) -> torch.Tensor:
    clip = learner.scene.backbone.model
    return clip.token_embedding(open_clip.tokenize([text])[0, 1 : 1 + n]).data


def test_zeros_stand_in_front_of_the_words() -> None:
    learner = build("prograd")
    ctx = learner.prompts.ctx[0, 0].data
    assert ctx.shape == (16, 32)
    assert not ctx[:12].any()
    torch.testing.assert_close(ctx[12:], first_tokens(learner, "a photo of a", 4))
    assert build("prograd", "prompts.ctx_init=").prompts.ctx.data.all()
    with pytest.raises(ConfigError, match="has 4 words"):
        build("prograd", "prompts.n_ctx=3")


def test_a_data_set_has_the_authors_template_and_contexts_start_from_its_words() -> None:
    learner = build("prograd", "data.dataset=oxford_pets")
    assert learner.loss.templates() == ("a type of pet, a photo of a {}.",)
    # The published code takes as many tokens as there are words, 8; the comma is a ninth.
    ctx = learner.prompts.ctx[0, 0].data
    assert not ctx[:8].any()
    torch.testing.assert_close(ctx[8:], first_tokens(learner, "a type of pet, a photo of a", 8))
    ids, published = (
        learner.classes.ids,
        open_clip.tokenize([f"{'X ' * 8}a type of pet, a photo of a {n}." for n in NAMES]),
    )
    torch.testing.assert_close(ids[:, 17:], published[:, 17:])
    assert build("prograd", "data.dataset=caltech101").loss.templates() == ("a photo of a {}.",)

"""MaPLe keeps the contract, and computes what the published code does, written out here."""

import open_clip
import pytest
import torch
from promptkit_zoo import maple
from torch import Tensor
from torch.nn import functional as F

from promptkit import ConfigError
from promptkit.learner import Learner
from promptkit.tensors import Batch
from promptkit.testing import build_recipe, check_recipe, registered

NAMES = ("cat", "yellow school bus", "aeroplane at night")


def build(recipe: str, *sets: str) -> Learner:
    with registered(maple, "clip-promptkit-zoo"):
        return build_recipe(recipe, NAMES, sets)


def batch(seed: int = 0) -> Batch:
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return Batch({"image": pixels}, torch.tensor([0, 2]))


def test_it_keeps_the_contract() -> None:
    with registered(maple, "clip-promptkit-zoo"):
        assert check_recipe("maple") == []


def test_every_vision_prompt_is_a_map_of_its_text_prompt() -> None:
    prompts = build("maple").prompts
    vision = prompts.vision()
    assert vision.shape == (3, 1, 2, 48)
    assert prompts.text(None).deep.shape == (2, 1, 2, 32)
    for block, source in enumerate([prompts.ctx[0, 0], *prompts.deep]):
        couple = prompts.couple[block]
        for token in range(2):
            torch.testing.assert_close(vision[block, 0, token], couple.weight @ source[token] + couple.bias)


def text_feature(clip: torch.nn.Module, ctx: Tensor, deep: Tensor, name: str) -> Tensor:
    """`TextEncoder.forward` of `trainers/maple.py` for "a photo of a <name>.", whose first two tokens are `ctx`."""
    ids = open_clip.tokenize([f"a photo of a {name}."])[0]
    embedded = clip.token_embedding(ids)
    x = torch.cat([embedded[:1], ctx, embedded[3:]]) + clip.positional_embedding
    for index, block in enumerate(clip.transformer.resblocks):
        if index:
            x = torch.cat([x[:1], deep[index - 1], x[3:]])
        x = block(x[None], attn_mask=clip.attn_mask)[0]
    return F.normalize(clip.ln_final(x)[ids.argmax()] @ clip.text_projection, dim=0)


def image_feature(visual: torch.nn.Module, pixels: Tensor, prompts: Tensor) -> Tensor:
    """`VisionTransformer_MaPLe.forward` of `clip/model.py`; prompts (J M V)."""
    patches = visual.conv1(pixels[None]).flatten(2).transpose(1, 2)[0]
    x = torch.cat([visual.class_embedding[None], patches]) + visual.positional_embedding
    x = visual.ln_pre(torch.cat([x, prompts[0]]))
    for index, block in enumerate(visual.transformer.resblocks):
        if index:
            x = torch.cat([x[:-2], prompts[index]])
        x = block(x[None])[0]
    return F.normalize(visual.ln_post(x[0]) @ visual.proj, dim=0)


def test_logits_and_gradients_are_those_of_the_published_code() -> None:
    learner = build("maple")
    prompts, clip = learner.prompts, learner.scene.backbone.model
    with torch.no_grad():
        clip.visual.ln_pre.weight.normal_()
        clip.visual.ln_pre.bias.normal_()
    outputs = learner(batch())
    deep = prompts.deep
    vision = torch.stack(
        [
            F.linear(source, couple.weight, couple.bias)
            for couple, source in zip(prompts.couple, [prompts.ctx[0, 0], *deep], strict=True)
        ]
    )
    text = torch.stack([text_feature(clip, prompts.ctx[0, 0], deep, name) for name in NAMES])
    image = torch.stack([image_feature(clip.visual, pixels, vision) for pixels in batch().views["image"]])
    expected = clip.logit_scale.exp() * image @ text.T
    torch.testing.assert_close(outputs.logits, expected, rtol=1e-5, atol=1e-5)
    parameters = dict(prompts.named_parameters())
    ours, theirs = (
        torch.autograd.grad(F.cross_entropy(logits, outputs.label), list(parameters.values()))
        for logits in (outputs.logits, expected)
    )
    for name, one, other in zip(parameters, ours, theirs, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm(), name


def test_contexts_start_from_the_first_words_and_deeper_maps_as_copies_of_one() -> None:
    prompts = build("maple").prompts
    clip = prompts.scene.backbone.model
    torch.testing.assert_close(prompts.ctx[0, 0].data, clip.token_embedding(open_clip.tokenize(["a photo"])[0, 1:3]))
    first, *deeper = prompts.couple
    assert all(torch.equal(couple.weight, deeper[0].weight) for couple in deeper)
    assert all(couple.weight is not deeper[0].weight for couple in deeper[1:])
    assert not torch.equal(first.weight, deeper[0].weight)


@pytest.mark.parametrize(
    "settings", [("prompts.n_ctx=5",), ("prompts.n_ctx=1", "prompts.ctx_init=photorealistic of a")]
)
def test_tokens_that_end_with_no_word_are_an_error(settings: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="end after tokens"):
        build("maple", *settings)


def test_without_words_all_tokens_are_noise_and_learned() -> None:
    prompts = build("maple", "prompts.ctx_init=", "prompts.n_ctx=5").prompts
    assert prompts.ctx.shape == (1, 1, 5, 32)
    assert prompts.words == ""

"""CLIP-LoRA against a CLIP whose weights are changed, and the contract."""

import math

import pytest
import torch
from promptkit_zoo import clip_lora
from torch.func import functional_call
from torch.nn.functional import cross_entropy, normalize

from promptkit import ConfigError
from promptkit.learner import Learner
from promptkit.tensors import Batch
from promptkit.testing import build_recipe, check_recipe, registered

NAMES = ("cat", "yellow school bus", "aeroplane at night")


def build(*sets: str, names: tuple[str, ...] = NAMES) -> Learner:
    with registered(clip_lora, "clip-promptkit-zoo"):
        return build_recipe("clip-lora", names, sets)


def test_it_keeps_the_contract() -> None:
    with registered(clip_lora, "clip-promptkit-zoo"):
        assert check_recipe("clip-lora") == []


def test_logits_are_those_of_changed_weights() -> None:
    learner = build("prompts.alpha=3", "prompts.dropout=0")
    clip, pixels, label = learner.scene.backbone.model, torch.randn(2, 3, 32, 32), torch.tensor([0, 2])
    for parameter in learner.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    changed = {}
    for tower, prefix in (("text", "transformer"), ("image", "visual.transformer")):
        low_rank = getattr(learner.prompts, f"low_rank_{tower}")
        for block in range(3):
            name = f"{prefix}.resblocks.{block}.attn.in_proj_weight"
            changes = [low_rank.up[3 * block + i] @ low_rank.down[3 * block + i] for i in range(3)]
            changed[name] = clip.state_dict()[name] + 3 / math.sqrt(2) * torch.cat(changes)
    ids = learner.scene.backbone.prompt_tokenizer.tokenizer([f"a photo of a {name}." for name in NAMES])
    image, text, scale = functional_call(clip, changed, (pixels, ids))
    expected = scale * normalize(image, dim=-1) @ normalize(text, dim=-1).T
    outputs = learner(Batch({"image": pixels}, label))
    torch.testing.assert_close(outputs.logits, expected, rtol=1e-5, atol=1e-5)
    learned = list(learner.parameters())
    for one, other in zip(
        torch.autograd.grad(cross_entropy(outputs.logits, label), learned),
        torch.autograd.grad(cross_entropy(expected, label), learned),
        strict=True,
    ):
        assert (one - other).norm() < 1e-4 * other.norm()


def test_what_is_changed_is_chosen_and_nothing_changes_at_first() -> None:
    learner = build("prompts.towers=text", "prompts.position=up", "prompts.weights=v out")
    assert [tuple(p.shape) for p in learner.parameters()] == [(2, 2, 32), (2, 32, 2)]
    assert learner.required_features() is not None, "the bank serves it: the image tower is as it was"
    plain = learner.scene.backbone.encode_captions([f"a photo of a {name}." for name in NAMES])
    torch.testing.assert_close(learner.eval().encode_text(None)[0, :, 0], plain)
    assert build().required_features() is None
    torch.nn.init.ones_(learner.prompts.low_rank_text.up)
    first, again = (learner.train().encode_text(None) for _ in range(2))
    assert not torch.equal(first, again), "dropout"
    assert build("data.dataset=dtd").prompts.template == "{} texture."
    for wrong in ("prompts.weights=q x", "prompts.template=a {}"):
        with pytest.raises(ConfigError, match="not"):
            build(wrong)

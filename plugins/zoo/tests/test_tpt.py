"""TPT against a picture at a time, with the text tower as open_clip runs it; and its views."""

import math

import numpy as np
import open_clip
import pytest
import torch
from promptkit_zoo import tpt
from torch import Tensor
from torch.nn.functional import normalize

from promptkit import ConfigError
from promptkit.learner import Learner
from promptkit.tensors import Batch
from promptkit.testing import build_recipe, check_recipe, registered

NAMES = ("cat", "yellow school bus", "aeroplane at night")


def build(*sets: str) -> Learner:
    with registered(tpt, "clip-promptkit-zoo"):
        return build_recipe("tpt", NAMES, ["test_views.crops=19", *sets]).eval()


def batch(learner: Learner) -> Batch:
    generator = torch.Generator().manual_seed(0)
    views = {name: torch.randn(3, 3, 32, 32, generator=generator) for name in learner.test_views.names}
    return Batch(views, torch.full((3,), -1))


def plain_text(clip: torch.nn.Module, ctx: Tensor) -> Tensor:
    """Features of the classes (C D), 77 tokens each, under one context (M W)."""
    ids = open_clip.tokenize([f"{' '.join(['X'] * len(ctx))} {name}." for name in NAMES])
    x = clip.token_embedding(ids)
    x = torch.cat([x[:, :1], ctx.expand(len(ids), -1, -1), x[:, 1 + len(ctx) :]], 1) + clip.positional_embedding
    x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask))
    return normalize(x[torch.arange(len(ids)), ids.argmax(-1)] @ clip.text_projection, dim=-1)


@pytest.mark.parametrize("steps", [1, 3])
def test_it_tunes_each_picture_by_itself(steps: int) -> None:
    learner = build(f"learner.steps={steps}")
    asked = batch(learner)
    said = learner.predict(asked)
    clip, scale = learner.scene.backbone.model, learner.scene.backbone.logit_scale
    for row in range(3):
        seen = normalize(clip.encode_image(torch.stack([view[row] for view in asked.views.values()])), dim=-1).detach()
        ctx = learner.prompts.ctx[0, 0].detach().clone().requires_grad_()
        optimizer, chosen = torch.optim.AdamW([ctx], 0.005), None
        for _ in range(steps):
            logits = scale * seen @ plain_text(clip, ctx).T
            if chosen is None:
                entropies = -(logits.softmax(1) * logits.log_softmax(1)).sum(1)
                chosen = entropies.argsort()[:2]
            averaged = logits[chosen].log_softmax(1).logsumexp(0) - math.log(2)
            optimizer.zero_grad()
            (-(averaged * averaged.exp()).sum()).backward()
            optimizer.step()
        torch.testing.assert_close(said[row], (scale * seen[0] @ plain_text(clip, ctx).T).detach(), rtol=0, atol=2e-4)
    assert not any(parameter.grad is not None for parameter in learner.parameters())


def test_it_keeps_the_contract() -> None:
    with registered(tpt, "clip-promptkit-zoo"):
        assert check_recipe("tpt") == []
        with pytest.raises(ConfigError, match="depend on the picture"):
            build_recipe("cocoop", NAMES, ["learner=tpt"])


def test_views_are_the_whole_picture_and_crops_that_keep_their_share() -> None:
    views = build().test_views
    picture = np.random.default_rng(0).integers(0, 255, (50, 90, 3), dtype=np.uint8)
    made = views(picture, np.random.default_rng(1))
    assert tuple(made) == views.names
    assert {view.shape for view in made.values()} == {(3, 32, 32)}
    rng = np.random.default_rng(2)
    boxes = np.array([tpt.crop_box(90, 50, 0.3, rng) for _ in range(300)])
    assert boxes.min() >= 0
    assert (boxes[:, 2] <= 90).all()
    assert (boxes[:, 3] <= 50).all()
    shares = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (90 * 50)
    assert shares.min() > 0.28
    assert shares.std() > 0.1

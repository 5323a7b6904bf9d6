"""DAPL's prompts as tokens, and its terms against their formulas."""

import open_clip
import torch
from promptkit_zoo import dapl
from torch.nn.functional import cross_entropy, normalize

from promptkit.build import build_learner
from promptkit.components import Scene
from promptkit.config import resolve
from promptkit.registry import installed
from promptkit.tensors import Batch
from promptkit.testing import check_recipe, registered, tiny_backbone

NAMES = ("cat", "yellow school bus", "moon")


def test_it_keeps_the_contract() -> None:
    with registered(dapl, "clip-promptkit-zoo"):
        assert check_recipe("dapl") == []


def test_domains_have_tokens_of_their_own_and_the_target_learns_from_what_clip_is_sure_of() -> None:
    with registered(dapl, "clip-promptkit-zoo"):
        sets = ["prompts.n_ctx=3", "prompts.n_domain=2", "prompts.target=real_world", "loss.sure=0.5"]
        config = resolve(installed(), "dapl", sets=sets, flags={"backbone.name": "tiny", "backbone.weights": "none"})
        learner = build_learner(config, installed(), Scene(tiny_backbone(), NAMES, ("art", "sketch")))
    prompts, backbone = learner.prompts, learner.scene.backbone
    clip = backbone.model
    said = [f"X X X X X {name} , a {domain} image.." for domain in ("art", "sketch", "real_world") for name in NAMES]
    ids = open_clip.tokenize(said)
    torch.testing.assert_close(learner.classes.ids[:, 6:], ids[:, 6:])
    context = torch.cat([prompts.ctx.expand(9, -1, -1), prompts.domain.repeat_interleave(3, 0)], 1)
    x = clip.token_embedding(ids)
    x = torch.cat([x[:, :1], context, x[:, 6:]], 1) + clip.positional_embedding
    x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask))[torch.arange(9), ids.argmax(-1)]
    text = normalize(x @ clip.text_projection, dim=-1).unflatten(0, (3, 3))

    pixels, others = torch.randn(2, 3, 32, 32), torch.randn(6, 3, 32, 32)
    label, domain = torch.tensor([0, 2]), torch.tensor([1, 0])
    unlabelled = Batch({"image": others}, torch.full((6,), -1))
    outputs = learner(Batch({"image": pixels}, label, domain=domain, unlabelled=unlabelled))
    image, unknown = (backbone.encode_image(views).pooled for views in (pixels, others))
    scale = backbone.logit_scale
    source = torch.stack([scale * image[row] @ text[domain[row]].T for row in range(2)])
    target = scale * unknown @ text[2].T
    zero_shot = backbone.encode_captions([f"a photo of a {name}." for name in NAMES])
    probability, guess = (scale * unknown @ zero_shot.T).softmax(1).max(1)
    sure = probability >= 0.5
    assert sure.sum() > 0
    expected = {"ce": cross_entropy(source, label), "target": cross_entropy(target[sure], guess[sure])}
    torch.testing.assert_close(learner.loss(outputs), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(learner.eval().predict(Batch.of(others)), target, rtol=1e-4, atol=1e-4)

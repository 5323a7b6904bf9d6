"""RPO against masks in CLIP's own blocks, as the released code makes them, and the contract."""

import torch
from promptkit_zoo import rpo
from torch.nn.functional import cross_entropy, normalize

from promptkit.tensors import Batch
from promptkit.testing import build_recipe, check_recipe, registered

NAMES = ("cat", "yellow school bus", "aeroplane at night")


def test_it_keeps_the_contract() -> None:
    with registered(rpo, "clip-promptkit-zoo"):
        assert check_recipe("rpo") == []


def test_pairs_are_compared_that_read_and_are_not_seen() -> None:
    with registered(rpo, "clip-promptkit-zoo"):
        learner = build_recipe("rpo", NAMES, ["prompts.n_pairs=3"])
    backbone = learner.scene.backbone
    clip, visual, pixels, label = backbone.model, backbone.model.visual, torch.randn(2, 3, 32, 32), torch.tensor([0, 2])
    texts, images = learner.prompts.text_tokens, learner.prompts.image_tokens
    end = clip.token_embedding.weight[49407]
    torch.testing.assert_close((texts - end).norm(dim=-1), torch.full((3,), 0.1))
    torch.testing.assert_close((images - visual.class_embedding).norm(dim=-1), torch.full((3,), 0.1))

    ids = backbone.prompt_tokenizer.tokenizer([f"a photo of a {name}." for name in NAMES])
    x, masks = clip.token_embedding(ids) + clip.positional_embedding, []
    for row, length in enumerate((ids.argmax(1) + 1).tolist()):
        x = x.index_put((torch.tensor([row] * 3), torch.arange(length, length + 3)), texts)
        mask = torch.full((77, 77), -torch.inf).triu(1)
        mask[:, length:] = -torch.inf
        masks.append(mask.expand(4, -1, -1))
    x = clip.ln_final(clip.transformer(x, attn_mask=torch.cat(masks)))
    text = torch.stack([x[i, n : n + 3] for i, n in enumerate((ids.argmax(1) + 1).tolist())]) @ clip.text_projection

    patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
    y = torch.cat([visual.class_embedding.expand(2, 1, -1), patches], dim=1) + visual.positional_embedding
    mask = torch.zeros(20, 20)
    mask[:, -3:] = -torch.inf
    y = visual.transformer(visual.ln_pre(torch.cat([y, images.expand(2, -1, -1)], dim=1)), attn_mask=mask)
    image = visual.ln_post(y[:, -3:]) @ visual.proj
    pairs = [normalize(image[:, i], dim=-1) @ normalize(text[:, i], dim=-1).T for i in range(3)]
    expected = clip.logit_scale.exp() * sum(pairs) / 3

    outputs = learner(Batch({"image": pixels}, label))
    torch.testing.assert_close(outputs.logits, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(
        torch.autograd.grad(learner.loss(outputs)["ce"], [texts, images]),
        torch.autograd.grad(cross_entropy(expected, label), [texts, images]),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

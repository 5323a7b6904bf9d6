"""TCP against CLIP's own blocks with tokens replaced, as the released code does it, and the contract."""

import torch
from promptkit_zoo import tcp
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from promptkit.learner import Learner
from promptkit.tensors import Batch
from promptkit.testing import build_recipe, check_recipe, registered

NAMES = ("cat", "yellow school bus", "aeroplane at night")


def build(*sets: str) -> Learner:
    with registered(tcp, "clip-promptkit-zoo"):
        return build_recipe("tcp", NAMES, sets)


def test_it_keeps_the_contract() -> None:
    with registered(tcp, "clip-promptkit-zoo"):
        assert check_recipe("tcp") == []


def test_a_classs_own_tokens_stand_in_a_later_block() -> None:
    learner = build("data.dataset=oxford_pets")
    backbone, prompts, pixels, label = (
        learner.scene.backbone,
        learner.prompts,
        torch.randn(2, 3, 32, 32),
        torch.tensor([0, 2]),
    )
    clip, tokenizer = backbone.model, backbone.prompt_tokenizer.tokenizer
    fixed = clip.encode_text(tokenizer([f"a photo of a {name}, a type of pet." for name in NAMES]), normalize=True)
    hidden = prompts.meta_net[0](fixed)
    own = prompts.meta_net[2](hidden * (1.702 * hidden).sigmoid()).reshape(3, 4, 32)
    ids = tokenizer([f"X X X X {name}, a type of pet." for name in NAMES])
    x = clip.token_embedding(ids)
    x = torch.cat([x[:, :1], prompts.ctx[0].expand(3, -1, -1), x[:, 5:]], dim=1) + clip.positional_embedding
    for index, block in enumerate(clip.transformer.resblocks):
        x = torch.cat([x[:, :1], own, x[:, 5:]], dim=1) if index == 2 else x
        x = block(x, attn_mask=clip.attn_mask)
    text = normalize(clip.ln_final(x[torch.arange(3), ids.argmax(1)]) @ clip.text_projection, dim=-1)
    logits = clip.logit_scale.exp() * clip.encode_image(pixels, normalize=True) @ text.T
    expected = cross_entropy(logits, label) + 8 * (1 - cosine_similarity(text, fixed, dim=1, eps=1e-7).mean())

    outputs = learner(Batch({"image": pixels}, label))
    terms = learner.loss(outputs)
    torch.testing.assert_close(outputs.logits, logits, rtol=1e-5, atol=1e-5)
    learned = list(learner.parameters())
    for one, other in zip(
        torch.autograd.grad(sum(terms.values()), learned), torch.autograd.grad(expected, learned), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_other_classes_have_tokens_too_and_phrases_follow_the_data_set() -> None:
    learner = build("data.dataset=ucf101").eval()
    assert learner.prompts.phrase == "person doing {}"
    learner.set_classes(["Archery", "Playing Guitar"])
    assert learner.predict(Batch.of(torch.randn(2, 3, 32, 32))).shape == (2, 2)
    assert learner.required_features() is not None

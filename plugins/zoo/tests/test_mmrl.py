"""MMRL against CLIP's own blocks with tokens inserted, as the released code does it, and the contract."""

import torch
from promptkit_zoo import mmrl
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from promptkit.learner import Learner
from promptkit.tensors import Batch
from promptkit.testing import build_recipe, check_recipe, registered

NAMES = ("cat", "yellow school bus", "aeroplane at night")


def build(*sets: str) -> Learner:
    with registered(mmrl, "clip-promptkit-zoo"):
        return build_recipe("mmrl", NAMES, sets)


def test_it_keeps_the_contract() -> None:
    with registered(mmrl, "clip-promptkit-zoo"):
        assert check_recipe("mmrl") == []


def test_tokens_enter_behind_the_first_of_both_towers() -> None:
    learner = build("prompts.first=2", "loss.weight=3")
    backbone, prompts, pixels, label = (
        learner.scene.backbone,
        learner.prompts,
        torch.randn(2, 3, 32, 32),
        torch.tensor([0, 2]),
    )
    for linear in (*prompts.to_image, *prompts.to_text):
        torch.nn.init.normal_(linear.weight, std=0.5)
    clip, visual = backbone.model, backbone.model.visual

    def put(x: torch.Tensor, tokens: torch.Tensor, first: bool) -> torch.Tensor:
        return torch.cat([x[:, :1], tokens.expand(len(x), -1, -1), x[:, 1 if first else 6 :]], dim=1)

    ids = backbone.prompt_tokenizer.tokenizer([f"a photo of a {name}." for name in NAMES])
    x, y = clip.token_embedding(ids) + clip.positional_embedding, visual._embeds(pixels)
    for index, (block, other) in enumerate(zip(clip.transformer.resblocks, visual.transformer.resblocks, strict=True)):
        if index:
            x = put(x, prompts.to_text[index - 1](prompts.tokens), index == 1)
            y = put(y, prompts.to_image[index - 1](prompts.tokens), index == 1)
        x = block(x, attn_mask=torch.full((x.shape[1],) * 2, -torch.inf).triu(1))
        y = other(y)
    text = normalize(clip.ln_final(x[torch.arange(3), ids.argmax(1) + 5]) @ clip.text_projection, dim=-1)
    image = normalize(visual.ln_post(y[:, 0]) @ visual.proj, dim=-1)
    tokens = normalize(visual.ln_post(y[:, 1:6]).mean(1) @ prompts.projection, dim=-1)
    scale = clip.logit_scale.exp()
    fixed = clip.encode_text(ids, normalize=True), clip.encode_image(pixels, normalize=True)
    expected = 0.7 * cross_entropy(scale * image @ text.T, label) + 0.3 * cross_entropy(scale * tokens @ text.T, label)
    expected += 3 * (1 - cosine_similarity(image, fixed[1], dim=1).mean())
    expected += 3 * (1 - cosine_similarity(text, fixed[0], dim=1).mean())

    outputs = learner(Batch({"image": pixels}, label))
    torch.testing.assert_close(outputs.logits, scale * (0.7 * image + 0.3 * tokens) @ text.T, rtol=1e-5, atol=1e-5)
    learned = list(learner.parameters())
    for one, other in zip(
        torch.autograd.grad(sum(learner.loss(outputs).values()), learned),
        torch.autograd.grad(expected, learned),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    learner.eval().set_classes(["lion", "cat"])  # not all of them were trained on
    asked = learner.predict(Batch.of(pixels))
    view = learner.view(learner.encode_image(pixels), learner.encode_text(None))
    torch.testing.assert_close(asked, scale * view.image @ view.text[0, :, 0].T)


def test_settings_follow_the_data_set() -> None:
    learner = build("data.dataset=eurosat")
    assert learner.prompts.tokens.shape == (5, 2048)
    assert learner.loss.options.weight == 0.01
    assert learner.prompts.template == "a centered satellite photo of {}."

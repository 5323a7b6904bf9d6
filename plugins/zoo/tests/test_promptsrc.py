"""PromptSRC keeps the contract, and its defining term is the paper's."""

import math

import open_clip
import torch
from promptkit_zoo import promptsrc
from torch.nn import functional as F

from promptkit.learner import Learner
from promptkit.tensors import Batch
from promptkit.testing import build_recipe, check_recipe, registered

NAMES = ("cat", "yellow school bus", "aeroplane at night")


def build(recipe: str, *sets: str) -> Learner:
    with registered(promptsrc, "clip-promptkit-zoo"):
        return build_recipe(recipe, NAMES, sets)


def batch(seed: int = 0) -> Batch:
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return Batch({"image": pixels}, torch.tensor([0, 2]))


def test_it_keeps_the_contract() -> None:
    with registered(promptsrc, "clip-promptkit-zoo"):
        assert check_recipe("promptsrc") == []


def test_what_is_left_is_the_gaussian_average_over_epochs() -> None:
    learner = build("promptsrc", "learner.centre=3", "learner.spread=0.5")
    weights = [math.exp(-0.5 * ((epoch - 3) / 0.5) ** 2) for epoch in (1, 2, 3, 4)]
    for epoch in (1, 2, 3, 4):
        with torch.no_grad():
            learner.prompts.ctx.fill_(10.0**epoch)
        learner.epoch_end(epoch, 4)
    expected = sum(w * 10.0**epoch for epoch, w in enumerate(weights, 1)) / sum(weights)
    torch.testing.assert_close(learner.prompts.ctx, torch.full_like(learner.prompts.ctx, expected))


def test_the_teacher_sees_the_image_without_prompts() -> None:
    learner = build("promptsrc")
    pixels = batch().views["image"]
    outputs = learner(batch())
    torch.testing.assert_close(outputs.teacher.image, learner.scene.backbone.encode_image(pixels).pooled)
    by_hand = (outputs.views["image"].image - outputs.teacher.image).abs().mean()
    torch.testing.assert_close(learner.loss(outputs)["image"], 10 * by_hand)


def test_terms_and_logits_are_those_of_the_published_code() -> None:
    """`CustomCLIP.forward` of `trainers/promptsrc.py`, block by block, with the IVLP blocks of `clip/model.py`."""
    learner = build("promptsrc")
    prompts, clip = learner.prompts, learner.scene.backbone.model
    with torch.no_grad():
        clip.visual.ln_pre.weight.normal_()
        clip.visual.ln_pre.bias.normal_()
    outputs, visual, images, texts = learner(batch()), clip.visual, [], []
    for pixels in batch().views["image"]:
        patches = visual.conv1(pixels[None]).flatten(2).transpose(1, 2)[0]
        x = torch.cat([visual.class_embedding[None], patches]) + visual.positional_embedding
        x = visual.ln_pre(torch.cat([x, prompts.tokens[0, 0]]))
        for index, block in enumerate(visual.transformer.resblocks):
            x = block((torch.cat([x[:-4], prompts.tokens[index, 0]]) if index else x)[None])[0]
        images.append(F.normalize(visual.ln_post(x[0]) @ visual.proj, dim=0))
    for name in NAMES:
        ids = open_clip.tokenize([f"a photo of a {name}."])[0]
        embedded = clip.token_embedding(ids)
        x = torch.cat([embedded[:1], prompts.ctx[0, 0], embedded[5:]]) + clip.positional_embedding
        for index, block in enumerate(clip.transformer.resblocks):
            x = torch.cat([x[:1], prompts.deep[index - 1], x[5:]]) if index else x
            x = block(x[None], attn_mask=clip.attn_mask)[0]
        texts.append(F.normalize(clip.ln_final(x)[ids.argmax()] @ clip.text_projection, dim=0))
    image, text = torch.stack(images), torch.stack(texts)
    logits = clip.logit_scale.exp() * image @ text.T
    torch.testing.assert_close(outputs.logits, logits, rtol=1e-5, atol=1e-5)
    frozen = outputs.teacher
    zero_shot = clip.logit_scale.exp() * F.normalize(clip.encode_image(batch().views["image"]), dim=1) @ frozen.text.T
    ours, expected = (
        learner.loss(outputs),
        {
            "ce": F.cross_entropy(logits, outputs.label),
            "text": 25 * (text - frozen.text).abs().mean(),
            "image": 10 * (image - F.normalize(clip.encode_image(batch().views["image"]), dim=1)).abs().mean(),
            "logits": (zero_shot.softmax(1) * (zero_shot.log_softmax(1) - logits.log_softmax(1))).sum()
            / logits.numel(),
        },
    )
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)

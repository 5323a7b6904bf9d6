"""PromptSRC keeps the contract, and its defining term is the paper's."""

import math

import promptkit_promptsrc
import torch

from promptkit.learner import Learner
from promptkit.tensors import Batch
from promptkit.testing import build_recipe, check_recipe, registered

NAMES = ("cat", "yellow school bus", "aeroplane at night")


def build(recipe: str, *sets: str) -> Learner:
    with registered(promptkit_promptsrc, "promptkit-promptsrc"):
        return build_recipe(recipe, NAMES, sets)


def batch(seed: int = 0) -> Batch:
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return Batch({"image": pixels}, torch.tensor([0, 2]))


def test_it_keeps_the_contract() -> None:
    with registered(promptkit_promptsrc, "promptkit-promptsrc"):
        assert check_recipe("promptsrc") == []


def test_what_is_left_is_the_gaussian_average_over_epochs() -> None:
    learner = build("promptsrc", "prompts.centre=3", "prompts.spread=0.5")
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

"""VPT keeps the contract, and its defining term is the paper's."""

import torch
from promptkit_zoo import vpt

from promptkit.learner import Learner
from promptkit.tensors import Batch
from promptkit.testing import build_recipe, check_recipe, registered

NAMES = ("cat", "yellow school bus", "aeroplane at night")


def build(recipe: str, *sets: str) -> Learner:
    with registered(vpt, "clip-promptkit-zoo"):
        return build_recipe(recipe, NAMES, sets)


def batch(seed: int = 0) -> Batch:
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return Batch({"image": pixels}, torch.tensor([0, 2]))


def test_it_keeps_the_contract() -> None:
    with registered(vpt, "clip-promptkit-zoo"):
        assert check_recipe("vpt") == []


def test_logits_are_of_prompted_images_and_plain_texts() -> None:
    learner = build("vpt")
    backbone, pixels = learner.scene.backbone, batch().views["image"]
    image = backbone.encode_image(pixels, learner.prompts.tokens).pooled
    text = backbone.encode_captions([f"a photo of a {name}." for name in NAMES])
    torch.testing.assert_close(learner.eval().predict(Batch.of(pixels)), backbone.logit_scale * image @ text.T)


def test_the_text_is_one_template_on_every_data_set() -> None:
    assert build("vpt", "data.dataset=dtd").prompts.templates == ("a photo of a {}.",)

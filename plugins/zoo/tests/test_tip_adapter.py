"""Tip-Adapter keeps the contract, and its defining term is the paper's."""

import open_clip
import pytest
import torch
from promptkit_zoo import tip_adapter

from promptkit import ConfigError
from promptkit.learner import Learner, Recipe
from promptkit.tensors import Batch
from promptkit.testing import build_recipe, check_recipe, registered

NAMES = ("cat", "yellow school bus", "aeroplane at night")


def build(recipe: str, *sets: str) -> Learner:
    with registered(tip_adapter, "clip-promptkit-zoo"):
        return build_recipe(recipe, NAMES, sets)


def batch(seed: int = 0) -> Batch:
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return Batch({"image": pixels}, torch.tensor([0, 2]))


def test_it_keeps_the_contract() -> None:
    with registered(tip_adapter, "clip-promptkit-zoo"):
        assert check_recipe("tip-adapter") == []


def test_logits_are_zero_shot_and_the_votes_of_the_cache() -> None:
    learner = build("tip-adapter")
    images, asked = batch(seed=1), batch(seed=2).views["image"]
    learner.start([images])
    backbone = learner.scene.backbone
    keys, image = (backbone.encode_image(pixels).pooled for pixels in (images.views["image"], asked))
    text = backbone.encode_captions([f"a photo of a {name}." for name in NAMES])
    one_hot = torch.eye(len(NAMES))[images.label]
    expected = backbone.logit_scale * image @ text.T + (-5.5 * (1 - image @ keys.T)).exp() @ one_hot
    torch.testing.assert_close(learner.eval().predict(Batch.of(asked)), expected)


def test_a_class_with_too_many_images_says_so() -> None:
    learner = build("tip-adapter", "prompts.places=1")
    with pytest.raises(ConfigError, match="more than prompts"):
        learner.start([batch(), batch()])


def test_crops_and_templates_are_those_of_the_published_code() -> None:
    recipes: dict[str, Recipe] = {}
    tip_adapter.register_recipes(recipes.__setitem__)
    assert recipes["tip-adapter"].settings["views.min_scale"] == 0.5
    assert build("tip-adapter", "data.dataset=dtd").prompts.templates == ("{} texture.",)
    learner = build("tip-adapter", "data.dataset=imagenet")
    text = learner.encode_text(None)[0, :, 0]
    # `imagenet_templates` of `datasets/imagenet.py`
    templates = [template("{}") for template in open_clip.SIMPLE_IMAGENET_TEMPLATES]
    assert templates[0] == "itap of a {}."
    by_hand = [learner.scene.backbone.encode_captions([t.format(name) for t in templates]) for name in NAMES]
    mean = torch.stack([features.mean(0) / features.mean(0).norm() for features in by_hand])
    torch.testing.assert_close(text, mean)

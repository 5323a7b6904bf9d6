"""KgCoOp keeps the contract, and its defining term is the paper's."""

import pytest
import torch
from promptkit_zoo import kgcoop

from promptkit import ConfigError
from promptkit.learner import Learner
from promptkit.tensors import Batch
from promptkit.testing import build_recipe, check_recipe, registered

NAMES = ("cat", "yellow school bus", "aeroplane at night")


def build(recipe: str, *sets: str) -> Learner:
    with registered(kgcoop, "clip-promptkit-zoo"):
        return build_recipe(recipe, NAMES, sets)


def batch(seed: int = 0) -> Batch:
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return Batch({"image": pixels}, torch.tensor([0, 2]))


def test_it_keeps_the_contract() -> None:
    with registered(kgcoop, "clip-promptkit-zoo"):
        assert check_recipe("kgcoop") == []


def test_the_distance_is_half_the_squared_distance_of_unit_vectors() -> None:
    learner = build("kgcoop", "prompts.ctx_init=a sketch of")
    outputs = learner(batch())
    text, teacher = outputs.views["image"].text[0, :, 0].detach(), outputs.teacher.text
    by_hand = sum(float((a - b) @ (a - b)) for a, b in zip(text, teacher, strict=True)) / len(text) / 2
    assert learner.loss(outputs)["knowledge"].item() == pytest.approx(8 * by_hand, rel=1e-4)


def test_the_teachers_template_follows_the_data_set() -> None:
    assert build("kgcoop", "data.dataset=oxford_pets").loss.templates() == ("a photo of a {}, a type of pet.",)
    assert build("kgcoop", "data.dataset=dtd").loss.templates() == ("a photo of a {}, a type of texture.",)
    chosen = build("kgcoop", "data.dataset=dtd", "loss.template=a sketch of a {}.")
    assert chosen.loss.templates() == ("a sketch of a {}.",)
    with pytest.raises(ConfigError, match=r"loss\.template='a sketch'"):
        build("kgcoop", "loss.template=a sketch")

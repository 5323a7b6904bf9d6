"""MaPLe keeps the contract, and its defining term is the paper's."""

import promptkit_maple
import torch

from promptkit.learner import Learner
from promptkit.tensors import Batch
from promptkit.testing import build_recipe, check_recipe, registered

NAMES = ("cat", "yellow school bus", "aeroplane at night")


def build(recipe: str, *sets: str) -> Learner:
    with registered(promptkit_maple, "promptkit-maple"):
        return build_recipe(recipe, NAMES, sets)


def batch(seed: int = 0) -> Batch:
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return Batch({"image": pixels}, torch.tensor([0, 2]))


def test_it_keeps_the_contract() -> None:
    with registered(promptkit_maple, "promptkit-maple"):
        assert check_recipe("maple") == []


def test_every_vision_prompt_is_a_map_of_its_text_prompt() -> None:
    prompts = build("maple").prompts
    vision = prompts.vision()
    assert vision.shape == (3, 1, 2, 48)
    assert prompts.text(None).deep.shape == (2, 2, 32)
    for block, source in enumerate([prompts.ctx[0, 0], *prompts.deep]):
        couple = prompts.couple[block]
        for token in range(2):
            torch.testing.assert_close(vision[block, 0, token], couple.weight @ source[token] + couple.bias)

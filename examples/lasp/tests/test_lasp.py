"""LASP keeps the contract, and its defining term is the paper's."""

import promptkit_lasp
import pytest
import torch

from promptkit import ConfigError
from promptkit.learner import Learner
from promptkit.tensors import Batch
from promptkit.testing import build_recipe, check_recipe, registered

NAMES = ("cat", "yellow school bus", "aeroplane at night")


def build(*sets: str) -> Learner:
    with registered(promptkit_lasp, "promptkit-lasp"):
        return build_recipe("lasp", NAMES, sets)


def test_it_keeps_the_contract() -> None:
    with registered(promptkit_lasp, "promptkit-lasp"):
        assert check_recipe("lasp") == []


def test_learned_texts_are_classified_by_every_hand_made_prompt() -> None:
    learner = build("loss.template=a {}.\na sketch of a {}.", "prompts.ctx_init=my own")
    outputs = learner(Batch({"image": torch.randn(2, 3, 32, 32)}, torch.tensor([0, 2])))
    text, backbone = outputs.views["image"].text[0, :, 0], learner.scene.backbone
    losses = []
    for template in ("a {}.", "a sketch of a {}."):
        said = backbone.encode_captions([template.format(name) for name in NAMES])
        probability = (backbone.logit_scale * text @ said.T).softmax(1)
        losses += [-probability[row, row].log() for row in range(len(NAMES))]
    torch.testing.assert_close(learner.loss(outputs)["texts"], 5 * torch.stack(losses).mean())


def test_a_template_has_a_place_for_the_name() -> None:
    with pytest.raises(ConfigError, match=r"loss\.template='a sketch'"):
        build("loss.template=a sketch")

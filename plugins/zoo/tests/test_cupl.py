"""CuPL against the mean of a class's sentences, and its error without any."""

import pytest
import torch
from promptkit_zoo import cupl
from torch.nn.functional import normalize

from promptkit import ConfigError
from promptkit.components import Scene
from promptkit.testing import build_recipe, check_recipe, registered, tiny_backbone

SAID = {"cat": ["it has whiskers.", "a small animal."], "Yellow_school_bus": ["a long vehicle."], "moon": ["round."]}


def test_classes_are_what_is_said_of_them() -> None:
    scene = Scene(tiny_backbone(), ("cat", "yellow school bus"), descriptions=SAID)
    prompts = cupl.CuPLPrompts(cupl.CuPLPrompts.Options(), scene)
    text = prompts.encode(None, prompts.class_tokens(scene.classnames))[0, :, 0]
    features = scene.backbone.encode_captions(["it has whiskers.", "a small animal."])
    torch.testing.assert_close(text[0], normalize(features.mean(0), dim=0))
    torch.testing.assert_close(text[1], scene.backbone.encode_captions(["a long vehicle."])[0])
    assert prompts.encode(None, prompts.class_tokens(["moon"])).shape[:2] == (1, 1)
    with pytest.raises(ConfigError, match="no description of 'cats'; did you mean 'cat'"):
        prompts.class_tokens(["cats"])


def test_it_keeps_the_contract_and_asks_for_descriptions() -> None:
    with registered(cupl, "clip-promptkit-zoo"):
        assert check_recipe("cupl") == []
        with pytest.raises(ConfigError, match="need sentences about the classes"):
            build_recipe("cupl")

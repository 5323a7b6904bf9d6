"""StyLIP against its formula, picture by picture, and the contract."""

import pytest
import torch
from promptkit_zoo import stylip
from torch.nn.functional import normalize

from promptkit import ConfigError
from promptkit.backbones.tiny import tiny_backbone
from promptkit.components import Scene
from promptkit.tensors import Batch, TextPrompts
from promptkit.testing import build_recipe, check_recipe, registered

NAMES = ("cat", "yellow school bus", "aeroplane at night")


def test_it_keeps_the_contract() -> None:
    with registered(stylip, "clip-promptkit-zoo"):
        assert check_recipe("stylip") == []


def test_styles_make_the_context_and_content_is_mixed_into_the_texts() -> None:
    with registered(stylip, "clip-promptkit-zoo"):
        learner = build_recipe("stylip", NAMES).eval()
    backbone, prompts, pixels = learner.scene.backbone, learner.prompts, torch.randn(2, 3, 32, 32)
    expected = []
    for picture in pixels:
        tower = backbone.image_blocks
        tokens, styles, contents = tower.embed(picture[None]), [], []
        for index in range(tower.depth):
            tokens = tower.block(index, tokens)
            mean, deviation = tokens[0].mean(0), tokens[0].std(0, correction=0)
            styles.append(prompts.style[index](torch.cat([mean, deviation, mean])))
            contents.append(prompts.content(mean))
        context = torch.stack(styles).mean(0).expand(1, 1, 1, 4, -1)
        text = backbone.encode_text(TextPrompts(context), backbone.class_tokens(NAMES, 4))[0, :, 0]
        content = prompts.contents(torch.cat(contents)).expand_as(text)
        text = normalize(prompts.fusion(torch.cat([content, text], 1)), dim=-1)
        expected.append(backbone.logit_scale * tower.read(tokens[0, 0]) @ text.T)
    found = learner.predict(Batch.of(pixels))
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_a_tower_whose_blocks_differ_in_width_is_refused() -> None:
    backbone = tiny_backbone()
    backbone.intermediate_widths = (32, 64)
    with pytest.raises(ConfigError, match="are 32, 64 wide"):
        stylip.StyLIPPrompts(stylip.StyLIPPrompts.Options(), Scene(backbone, NAMES))

"""The demo's CLIP: it loads as any other, and it knows what it was trained on."""

import numpy as np
import pytest
import torch
from torch import Tensor

from promptkit.backbones.openclip import OpenClipBackbone
from promptkit.build import load_backbone
from promptkit.demo.images import CLASSES, HELD_OUT_CLASSES, draw, generator
from promptkit.registry import installed
from promptkit.settings import BackboneSettings

SEEN = [name for name in CLASSES if name not in HELD_OUT_CLASSES]


@pytest.fixture(scope="module")
def backbone() -> OpenClipBackbone:
    loaded = load_backbone(BackboneSettings(name="demo"), installed())
    assert isinstance(loaded, OpenClipBackbone)
    return loaded


def features(backbone: OpenClipBackbone, domain: str, per_class: int = 4) -> Tensor:
    """Of pictures of the seen classes that are in no training set, (classes * per_class D)."""
    drawn = [draw(name, domain, 64, generator(77, name, domain, n))[0] for name in SEEN for n in range(per_class)]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in drawn])).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (backbone.image.mean, backbone.image.std))
    return backbone.encode_image((pixels - mean) / std).pooled


def test_it_is_an_open_clip_model_of_the_promised_size(backbone: OpenClipBackbone):
    parameters = sum(parameter.numel() for parameter in backbone.model.parameters())
    assert parameters - backbone.model.token_embedding.weight.numel() < 4_000_000
    assert backbone.name == backbone.weights == "demo"
    assert backbone.fingerprint == load_backbone(BackboneSettings(name="demo"), installed()).fingerprint


def test_words_that_it_never_saw_have_embeddings_too(backbone: OpenClipBackbone):
    table = backbone.model.token_embedding.weight
    assert table.shape[0] == 49408
    assert table.norm(dim=1).min() > 0


@pytest.mark.parametrize("domain", ["photo", "painting", "cartoon"])
def test_zero_shot_is_far_better_than_chance(backbone: OpenClipBackbone, domain: str):
    text = backbone.encode_captions([f"a photo of a {name}." for name in SEEN])
    guess = (features(backbone, domain) @ text.T).argmax(1)
    right = guess == torch.arange(len(SEEN)).repeat_interleave(4)
    assert right.float().mean() > 8 / len(SEEN)

"""The tiny CLIP is always the same, and tells texts and images apart."""

import logging
import time

import pytest
import torch

from promptkit.backbones.tiny import drawn, load_tiny, tiny_backbone


def test_always_the_same_whatever_the_seed() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    drawn.cache_clear()
    first = tiny_backbone()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    drawn.cache_clear()
    assert tiny_backbone().fingerprint == first.fingerprint


def test_what_is_done_to_one_is_not_done_to_the_next() -> None:
    first, before = tiny_backbone(), tiny_backbone().fingerprint
    with torch.no_grad():
        for parameter in first.model.parameters():
            parameter.zero_()
    assert tiny_backbone().fingerprint == before


def test_quick_to_build() -> None:
    drawn.cache_clear()
    start = time.perf_counter()
    tiny_backbone()
    assert time.perf_counter() - start < 3


def test_features_differ_clearly() -> None:
    backbone = tiny_backbone()
    texts = backbone.encode_captions(["a cat", "a dog", "an aeroplane", "a red house"])
    images = backbone.encode_image(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))).pooled
    for features in (texts, images):
        similarity = features @ features.T
        assert similarity[~torch.eye(4, dtype=torch.bool)].max() < 0.98


def test_says_that_its_weights_are_random(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "promptkit"):
        backbone = load_tiny("none")
    assert backbone.name == "tiny"
    assert caplog.messages == ["random weights: 'tiny' is for trying things out; it has learned nothing"]

"""CLIP-Adapter against its formula, and the contract."""

import torch
from promptkit_zoo import clip_adapter
from torch.nn.functional import normalize, relu

from promptkit.tensors import Batch
from promptkit.testing import build_recipe, check_recipe, registered

NAMES = ("cat", "yellow school bus", "aeroplane at night")


def test_it_keeps_the_contract() -> None:
    with registered(clip_adapter, "clip-promptkit-zoo"):
        assert check_recipe("clip-adapter") == []


def test_logits_are_those_of_mixed_features() -> None:
    with registered(clip_adapter, "clip-promptkit-zoo"):
        learner = build_recipe("clip-adapter", NAMES, ["projector.ratio=0.6"])
    clip, pixels = learner.scene.backbone.model, torch.randn(2, 3, 32, 32)
    outputs = learner(Batch({"image": pixels}, torch.tensor([0, 2])))
    # The released code mixes features of any norm: the adapter has no bias, so that the norm falls out.
    image = clip.encode_image(pixels)
    down, up = learner.projector.adapter[0].weight, learner.projector.adapter[2].weight
    mixed = 0.6 * relu(relu(image @ down.T) @ up.T) + 0.4 * image
    text = learner.scene.backbone.encode_captions([f"a photo of a {name}." for name in NAMES])
    expected = learner.scene.backbone.logit_scale * normalize(mixed, dim=-1) @ text.T
    torch.testing.assert_close(outputs.logits, expected, rtol=1e-5, atol=1e-4)
    assert [name for name, _ in learner.named_parameters()] == [
        "projector.adapter.0.weight",
        "projector.adapter.2.weight",
    ]
    gradients = torch.autograd.grad(torch.nn.functional.cross_entropy(expected, outputs.label), [down, up])
    learner.backward(learner.loss(outputs))
    for parameter, gradient in zip((down, up), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)

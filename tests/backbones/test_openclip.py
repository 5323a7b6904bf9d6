"""The backbone as a whole: frozen, described, identified."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from promptkit.backbones.base import ImageSpec
from promptkit.backbones.openclip import OpenClipBackbone, load_openclip
from promptkit.backbones.tiny import tiny_backbone
from promptkit.errors import BackboneError
from promptkit.tensors import TextPrompts

Folder = Callable[..., str]


def test_frozen_and_always_in_eval_mode() -> None:
    backbone = tiny_backbone()
    nn.ModuleList([backbone]).train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_description() -> None:
    backbone = tiny_backbone()
    assert (backbone.name, backbone.weights) == ("tiny", "none")
    assert (backbone.context_length, backbone.text_width, backbone.text_depth) == (77, 32, 3)
    assert (backbone.joint_width, backbone.intermediate_widths) == (24, (48, 48, 48))
    assert backbone.image.size == (32, 32)
    assert backbone.logit_scale.shape == ()
    torch.testing.assert_close(backbone.logit_scale, torch.tensor(1 / 0.07))


def test_image_spec_of_a_folder(folder: Folder) -> None:
    backbone = load_openclip(folder(), "none")
    assert backbone.image == ImageSpec((32, 32), (0.4, 0.5, 0.6), (0.1, 0.2, 0.3), "bilinear")


@pytest.mark.parametrize("text", [{"proj_bias": True}, {"proj_type": "none"}, {}])
def test_joint_width(text: dict[str, object]) -> None:
    backbone = tiny_backbone(text=text)
    assert backbone.joint_width == backbone.encode_captions(["a cat"]).shape[1]


def test_captions() -> None:
    backbone = tiny_backbone()
    captions = ["a photo of a cat.", "", "dog", "many words " * 30]
    expected = backbone.model.encode_text(backbone.prompt_tokenizer.tokenizer(captions), normalize=True)
    torch.testing.assert_close(backbone.encode_captions(captions), expected)
    torch.testing.assert_close(backbone.encode_captions([]), expected[:0])


def test_no_classes() -> None:
    backbone = tiny_backbone()
    features = backbone.encode_text(TextPrompts(torch.randn(2, 1, 3, 4, 32)), backbone.class_tokens([], 4))
    assert features.shape == (2, 0, 3, 24)


def test_fingerprint_is_that_of_the_weights(folder: Folder, tmp_path: Path) -> None:
    first, again = tiny_backbone(), tiny_backbone()
    assert first.fingerprint == again.fingerprint
    assert len(first.fingerprint) == 64
    reloaded = tiny_backbone()
    torch.save(first.model.state_dict(), tmp_path / "weights.pt")
    reloaded.model.load_state_dict(torch.load(tmp_path / "weights.pt"))
    assert reloaded.fingerprint == first.fingerprint

    changed = tiny_backbone()
    changed.model.visual.proj[0, 0] += 1e-3
    others = [changed, tiny_backbone(quick_gelu=True), tiny_backbone(text={"heads": 2}), tiny_backbone().half()]
    fingerprints = {backbone.fingerprint for backbone in [first, *others]}
    assert len(fingerprints) == 5


def test_fingerprint_sees_running_statistics(folder: Folder) -> None:
    place = folder({"layers": [1, 1, 1, 1], "width": 8, "head_width": 32})
    first, second = load_openclip(place, "none"), load_openclip(place, "none")
    second.model.visual.bn1.running_mean += 1
    assert first.fingerprint != second.fingerprint


def test_a_text_encoder_without_embeddings() -> None:
    model = tiny_backbone().model
    model.text = nn.Linear(1, 1)
    with pytest.raises(BackboneError, match="prompts can't be spliced into the text encoder Linear"):
        OpenClipBackbone(model, lambda texts, context_length: None, "x", "none")

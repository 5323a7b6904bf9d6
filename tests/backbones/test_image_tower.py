"""Intermediates, prompts and patches of open_clip's image towers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from promptkit.backbones.base import Intermediates
from promptkit.backbones.openclip import OpenClipBackbone, load_openclip
from promptkit.backbones.tiny import tiny_backbone
from promptkit.errors import BackboneError

Folder = Callable[..., str]

PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
OTHERS: dict[str, dict[str, Any]] = {
    "modified resnet": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
    "timm vit": {"timm_model_name": "test_vit", "image_size": 160},
    "timm resnet": {"timm_model_name": "test_resnet"},
    "timm convnext": {"timm_model_name": "test_convnext"},
}


def everything() -> Intermediates:
    return Intermediates(lambda tokens: tokens)


def test_vit_intermediates_are_the_blocks_outputs() -> None:
    backbone = tiny_backbone()
    features = backbone.encode_image(PIXELS, intermediates=everything())
    outputs = backbone.model.visual.forward_intermediates(PIXELS, output_fmt="NLC", output_extra_tokens=True)
    prefixes, patches = outputs["image_intermediates_prefix"], outputs["image_intermediates"]
    expected = [torch.cat(pair, dim=1) for pair in zip(prefixes, patches, strict=True)]
    torch.testing.assert_close(list(features.intermediates), expected)
    torch.testing.assert_close(features.pooled, normalize(outputs["image_features"], dim=-1))
    assert [intermediate.shape[-1] for intermediate in features.intermediates] == list(backbone.intermediate_widths)
    assert features.patches is None
    assert not features.pooled.requires_grad


def test_intermediates_are_chosen_and_reduced() -> None:
    backbone = tiny_backbone()
    whole = backbone.encode_image(PIXELS, intermediates=everything()).intermediates
    some = backbone.encode_image(
        PIXELS, intermediates=Intermediates(lambda tokens: tokens.mean(1), blocks=[-1, 0])
    ).intermediates
    torch.testing.assert_close(some, (whole[0].mean(1), whole[2].mean(1)))
    with pytest.raises(BackboneError, match="block 3 asked for; the image tower has 3 blocks"):
        backbone.encode_image(PIXELS, intermediates=Intermediates(torch.Tensor.sum, blocks=[3]))


@pytest.mark.parametrize("kind", OTHERS)
def test_other_towers(folder: Folder, kind: str) -> None:
    backbone = load_openclip(folder(OTHERS[kind]), "none")
    pixels = torch.randn(2, 3, *backbone.image.size)
    features = backbone.encode_image(pixels, intermediates=everything())
    torch.testing.assert_close(features.pooled, normalize(backbone.model.encode_image(pixels), dim=-1))
    stages = backbone.model.visual.forward_intermediates(pixels, output_fmt="NCHW")["image_intermediates"]
    stages = [stage.flatten(2).transpose(1, 2) for stage in stages][-len(features.intermediates) :]
    intermediates = [
        intermediate[:, -stage.shape[1] :] for intermediate, stage in zip(features.intermediates, stages, strict=True)
    ]  # less class tokens
    torch.testing.assert_close(intermediates, stages)
    assert [intermediate.shape[-1] for intermediate in features.intermediates] == list(backbone.intermediate_widths)
    assert len(intermediates) >= 4
    named = dict(backbone.model.visual.named_modules()) | dict(
        getattr(backbone.model.visual, "trunk", backbone.model.visual).named_modules()
    )
    assert [named[name] for name in backbone.intermediate_names] == backbone.image_tower.blocks
    with pytest.raises(BackboneError, match="takes no prompts"):
        backbone.encode_image(pixels, prompts=torch.randn(1, 1, 2, 48))
    with pytest.raises(BackboneError, match="no patch features"):
        backbone.encode_image(pixels, patches=True)


def test_channels_last() -> None:
    """Swin's blocks put out (B H W C)."""
    backbone = tiny_backbone()
    backbone.model.visual.trunk = torch.nn.Identity()
    backbone.model.visual.trunk.output_fmt = "NHWC"
    assert backbone.image_tower._tokens(torch.randn(2, 3, 4, 5)).shape == (2, 12, 5)


def test_coca(make_backbone: Callable[..., OpenClipBackbone]) -> None:
    backbone = make_backbone("plain", "coca")
    features = backbone.encode_image(PIXELS)
    torch.testing.assert_close(features.pooled, backbone.model.encode_image(PIXELS, normalize=True))
    with pytest.raises(BackboneError, match="no patch features"):
        backbone.encode_image(PIXELS, patches=True)


def test_patches_are_in_the_joint_space() -> None:
    backbone = tiny_backbone()
    visual = backbone.model.visual
    features = backbone.encode_image(PIXELS, patches=True)
    tokens = visual.transformer(visual._embeds(PIXELS))
    torch.testing.assert_close(features.patches, normalize(visual.ln_post(tokens[:, 1:]) @ visual.proj, dim=-1))
    assert features.patches.shape == (2, 16, 24)
    prompted = backbone.encode_image(PIXELS, torch.randn(1, 1, 2, 48), patches=True)
    assert prompted.patches.shape == (2, 16, 24)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("batch_first", [True, False])
def test_prompts_are_appended_replaced_and_dropped(images: int, depth: int, batch_first: bool) -> None:
    backbone = tiny_backbone()
    visual = backbone.model.visual
    prompts = torch.randn(depth, images, 2, 48, requires_grad=True)
    with torch.no_grad():  # ln_pre starts as a plain norm, which a norm of what is normed already would not change
        visual.ln_pre.weight.normal_()
        visual.ln_pre.bias.normal_()
    # `VisionTransformer_MaPLe.forward`: class token, patches, positions, prompts, and then the norm over all of them.
    patches = visual.conv1(PIXELS).flatten(2).transpose(1, 2)
    tokens = torch.cat([visual.class_embedding.expand(2, 1, -1), patches], dim=1) + visual.positional_embedding
    tokens, expected = visual.ln_pre(torch.cat([tokens, prompts[0].expand(2, -1, -1)], dim=1)), []
    for index, block in enumerate(visual.transformer.resblocks):
        if 0 < index < depth:
            tokens = torch.cat([tokens[:, :17], prompts[index].expand(2, -1, -1)], dim=1)
        tokens = block(tokens)
        expected.append(tokens[:, :17])
    pooled = normalize(visual._pool(tokens[:, :17])[0] @ visual.proj, dim=-1)
    if not batch_first:
        visual.transformer.batch_first = False
        for block in visual.transformer.resblocks:
            block.attn.batch_first = False
    features = backbone.encode_image(PIXELS, prompts, intermediates=everything())
    torch.testing.assert_close(features.pooled, pooled)
    torch.testing.assert_close(list(features.intermediates), expected)
    features.pooled.sum().backward()
    assert all(prompts.grad[index].abs().sum() > 0 for index in range(depth))


def test_prompts_that_do_not_fit() -> None:
    backbone = tiny_backbone()
    message = "vision prompts for {}; this image tower has 3 blocks, 48 wide"
    for shape, what in (((4, 1, 2, 48), "4 blocks, 48 wide"), ((1, 1, 2, 40), "1 blocks, 40 wide")):
        with pytest.raises(BackboneError, match=message.format(what)):
            backbone.encode_image(PIXELS, torch.randn(shape))


def test_no_hook_stays_behind() -> None:
    backbone = tiny_backbone()
    before = backbone.encode_image(PIXELS).pooled
    backbone.encode_image(PIXELS, torch.randn(2, 1, 2, 48), everything(), patches=True)
    with pytest.raises(ZeroDivisionError):
        backbone.encode_image(PIXELS, torch.randn(2, 1, 2, 48), Intermediates(lambda tokens: tokens / (1 // 0)))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.modules())
    torch.testing.assert_close(backbone.encode_image(PIXELS).pooled, before, rtol=0, atol=0)

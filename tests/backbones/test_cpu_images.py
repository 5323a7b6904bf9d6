"""On a CPU images are encoded a few at a time, in memory that the process keeps, with features as of the whole batch."""

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from promptkit.backbones import cpu_images, openclip
from promptkit.backbones.base import Intermediates
from promptkit.backbones.cpu_images import keep_freed_memory, largest_output
from promptkit.backbones.openclip import OpenClipBackbone, load_openclip
from promptkit.backbones.tiny import tiny_backbone
from promptkit.settings import BackboneSettings
from promptkit.tensors import ImageFeatures, ImagePrompts

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(autouse=True)
def first_use() -> Iterator[None]:
    keep_freed_memory.cache_clear()
    yield
    keep_freed_memory.cache_clear()


@pytest.fixture(params=["vit", "cnn"])
def backbone(request: pytest.FixtureRequest, folder: Callable[..., str]) -> OpenClipBackbone:
    if request.param == "vit":
        return tiny_backbone()
    return load_openclip(folder({"timm_model_name": "test_resnet", "image_size": 160}), "none")


def sizes_of_passes(backbone: OpenClipBackbone) -> list[int]:
    """Filled with the number of images of every pass of the tower from now on."""
    sizes: list[int] = []
    visual = backbone.model.visual
    first = getattr(visual, "conv1", visual)  # a ViT runs block by block
    first.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    return sizes


def limit(monkeypatch: pytest.MonkeyPatch, backbone: OpenClipBackbone, images: int) -> None:
    """Let so many images fit in one pass."""
    one = largest_output(backbone.model.visual, torch.zeros(1, 3, *backbone.image.size))
    monkeypatch.setattr(openclip, "BLOCK_BYTES", images * one)


def same(one: ImageFeatures, other: ImageFeatures) -> None:
    torch.testing.assert_close(one.pooled, other.pooled, **TOLERANCE)
    torch.testing.assert_close(one.intermediates, other.intermediates, **TOLERANCE)
    torch.testing.assert_close(one.patches, other.patches, **TOLERANCE)


def mean(tokens: Tensor) -> Tensor:
    return tokens.mean(1)


def test_chunks_give_the_features_of_the_whole_batch(
    monkeypatch: pytest.MonkeyPatch, backbone: OpenClipBackbone
) -> None:
    limit(monkeypatch, backbone, 3)
    pixels = torch.randn(7, 3, *backbone.image.size)
    whole = backbone.image_tower.encode(pixels, None, Intermediates(mean), False)
    sizes = sizes_of_passes(backbone)
    same(backbone.encode_image(pixels, intermediates=Intermediates(mean)), whole)
    assert sizes == [1, 3, 3, 1]  # the first finds out how large the layers are
    same(backbone.encode_image(pixels, intermediates=Intermediates(mean)), whole)
    assert sizes[4:] == [3, 3, 1]


@pytest.mark.parametrize("images", [1, 5])
def test_patches_and_prompts_come_in_chunks_too(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    backbone = tiny_backbone()
    limit(monkeypatch, backbone, 2)
    pixels, prompts = torch.randn(5, 3, 32, 32), torch.randn(2, images, 3, 48)
    with torch.no_grad():
        whole = backbone.image_tower.encode(pixels, ImagePrompts(prompts), Intermediates(mean), True)
        sizes = sizes_of_passes(backbone)
        same(backbone.encode_image(pixels, prompts, Intermediates(mean), True), whole)
    assert sizes == [1, 2, 2, 1]


def test_what_is_trained_and_what_is_compiled_take_the_batch_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone()
    limit(monkeypatch, backbone, 2)
    sizes = sizes_of_passes(backbone)
    backbone.encode_image(torch.randn(5, 3, 32, 32), torch.randn(1, 1, 2, 48, requires_grad=True))
    backbone.settings = BackboneSettings(compile=True)
    backbone.encode_image(torch.randn(5, 3, 32, 32))
    assert sizes == [5, 5]


def test_no_layer_puts_out_more_than_a_block_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the tiny ViT, 16 patches and a class token, 192 wide in the MLP, are largest."""
    backbone = tiny_backbone()
    assert largest_output(backbone.model.visual, torch.zeros(1, 3, 32, 32)) == 4 * 17 * 192
    monkeypatch.setattr(openclip, "BLOCK_BYTES", 1)  # one image is more
    sizes = sizes_of_passes(backbone)
    backbone.encode_image(torch.randn(2, 3, 32, 32))
    assert sizes == [1, 1, 1]


def no_library(name: Any) -> Any:
    raise TypeError("Windows loads no library without a name")


@pytest.mark.parametrize("library", [lambda name: object(), no_library], ids=["no mallopt", "no library"])
def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch, library: Callable[[Any], Any]) -> None:
    for name in cpu_images._CHOSEN_BY_USER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", library)
    assert not keep_freed_memory()
    assert len(tiny_backbone().encode_image(torch.randn(3, 3, 32, 32)).pooled) == 3


def test_an_allocator_that_the_user_set_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("the allocator was set"))
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert not keep_freed_memory()


FAULTS = """
import ctypes, resource, torch
from promptkit.backbones.tiny import tiny_backbone
backbone = tiny_backbone()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        held = [torch.ones(30 << 18) for _ in range(4)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

ctypes.CDLL(None).mallopt(-3, 1 << 17)  # map every block: what glibc begins with
print(faults())
backbone.encode_image(torch.randn(2, 3, 32, 32))
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="sets glibc's allocator")
def test_memory_is_kept_from_the_first_image_on_and_not_before() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in cpu_images._CHOSEN_BY_USER}
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    # Four blocks of 30 MB touched anew four times are far more pages, of whatever size, than none.
    assert before > 1000
    assert after < before / 20

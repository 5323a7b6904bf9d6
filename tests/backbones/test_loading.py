"""What `--backbone` and `--weights` take, and what is said about what they don't."""

import builtins
import json
import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub
import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file
from torch import nn

from promptkit.backbones import loading
from promptkit.backbones.openclip import load_openclip
from promptkit.backbones.tiny import tiny_backbone
from promptkit.errors import BackboneError, PromptkitError, UnknownNameError

Folder = Callable[..., str]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_hub_reachable", lambda: False)


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_hub_reachable", lambda: pytest.fail("the hub was asked"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A built-in architecture 'ViT-B-16' that is as small as the tiny CLIP, and its QuickGELU sister."""
    vision = {"image_size": 32, "patch_size": 8, "layers": 3, "width": 48, "head_width": 12}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 3}
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    registry = open_clip.factory._MODEL_CONFIGS
    monkeypatch.setitem(registry, "ViT-B-16", config)
    monkeypatch.setitem(registry, "ViT-B-16-quickgelu", {**config, "quick_gelu": True})


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file(tiny_backbone().model.state_dict(), path)
    return path


def error_of(name: str, weights: str) -> PromptkitError:
    start = time.perf_counter()
    with pytest.raises(PromptkitError) as caught:
        load_openclip(name, weights)
    assert time.perf_counter() - start < 20
    assert caught.value.__cause__ is None  # nothing for a reader but the message
    return caught.value


def activations(module: nn.Module) -> set[type]:
    return {type(block.mlp.gelu) for block in module.modules() if hasattr(block, "mlp")}


@pytest.mark.usefixtures("small", "unasked")
def test_random_weights_are_always_the_same(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = load_openclip("ViT-B/16", "none")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert load_openclip("ViT-B-16", "none").fingerprint == first.fingerprint
    assert caplog.messages == ["random weights: ViT-B-16 has learned nothing"] * 2
    assert {record.name for record in caplog.records} == {"promptkit"}


@pytest.mark.usefixtures("small", "unasked")
def test_a_file(weights_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        backbone = load_openclip("ViT-B-16", str(weights_file))
    assert backbone.fingerprint == tiny_backbone().fingerprint
    assert not caplog.messages


def openai_file(path: Path, kind: str) -> nn.Module:
    """A small CLIP with QuickGELU, written as OpenAI's files are: their state, three numbers more, TorchScript or not."""
    model = tiny_backbone(quick_gelu=True).model
    state = dict(model.state_dict())
    numbers = {
        name: torch.tensor(n) for name, n in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408))
    }
    if kind == "state dict":
        torch.save({**state, **numbers}, path)
        return model
    whole = nn.Module()
    for name, tensor in {**state, **numbers}.items():
        *parents, leaf = name.split(".")
        module = whole
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, nn.Module())
            module = getattr(module, parent)
        module.register_buffer(leaf, tensor)
    whole.forward = lambda x: x
    with warnings.catch_warnings(action="ignore"):  # deprecated, and what OpenAI's files are
        torch.jit.trace(whole, torch.zeros(1)).save(str(path))
    return model


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", ["archive", "state dict"])
@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-B-16-quickgelu"])
def test_openais_own_file_is_loaded_with_its_activation(
    tmp_path: Path, kind: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ViT-B-16.pt"
    model = openai_file(path, kind)
    with caplog.at_level(logging.INFO):
        backbone = load_openclip(name, str(path))
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = nn.functional.normalize(model.encode_image(pixels), dim=-1)
    torch.testing.assert_close(backbone.encode_image(pixels).pooled, expected)
    assert f"the activation is QuickGELU: {path} is OpenAI's own file" in caplog.messages


@pytest.mark.usefixtures("small")
def test_a_file_beside_its_configuration_is_loaded_with_its_activation(tmp_path: Path) -> None:
    save_file(tiny_backbone().model.state_dict(), tmp_path / "open_clip_model.safetensors")
    config = tmp_path / "open_clip_config.json"
    config.write_text(json.dumps({"model_cfg": {"embed_dim": 24, "quick_gelu": True}}))
    backbone = load_openclip("ViT-B-16", str(tmp_path / "open_clip_model.safetensors"))
    assert activations(backbone.model) == {QuickGELU}


def test_a_folder(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_backbone().model
    backbone = load_openclip(folder(model=model), "openai")  # a schema brings its own weights
    torch.testing.assert_close(backbone.model.visual.proj, model.visual.proj)
    assert backbone.weights == "own weights"
    assert not caplog.messages


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("name", "tag", "expected"),
    [
        ("ViT-B-16", "openai", QuickGELU),
        ("ViT-B-16", "dfn2b", QuickGELU),
        ("ViT-B-16", "laion2b_s34b_b88k", nn.GELU),
        ("ViT-B-16-quickgelu", "openai", QuickGELU),
    ],
)
def test_the_tag_decides_on_the_activation(
    monkeypatch: pytest.MonkeyPatch, weights_file: Path, name: str, tag: str, expected: type
) -> None:
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: str(weights_file))
    backbone = load_openclip(name, tag)
    assert activations(backbone.model) == {expected}


def test_no_tag_disagrees_the_other_way() -> None:
    """QuickGELU can be forced on but not off: no architecture may say QuickGELU where its tag says GELU."""
    for name, tag in open_clip.list_pretrained():
        config = open_clip.get_model_config(name)
        if "hf_model_name" not in config["text_cfg"] and config.get("quick_gelu"):
            assert open_clip.get_pretrained_cfg(name, tag).get("quick_gelu"), (name, tag)


def test_unknown_architecture() -> None:
    error = error_of("ViT-B-61", "none")
    assert isinstance(error, UnknownNameError)
    assert error.message == "no open_clip architecture named 'ViT-B-61'; did you mean 'ViT-B-16'?"
    assert "open_clip.list_models()" in error.hint


def test_unknown_tag() -> None:
    error = error_of("ViT-B-16", "opneai")
    assert isinstance(error, UnknownNameError)
    assert error.message == "no weights for ViT-B-16 named 'opneai'; did you mean 'openai'?"
    assert "laion2b_s34b_b88k" in error.hint
    assert "none" in error.hint


@pytest.mark.parametrize("path", ["weights.pt", "some/where"])
def test_missing_file(path: str) -> None:
    error = error_of("ViT-B-16", path)
    assert error.message == f"no weights file {path}"
    assert error.hint.startswith("or a tag of ViT-B-16: openai, ")


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    error = error_of("ViT-B-16", "openai")
    assert error.message == (
        "the weights openai for ViT-B-16: not on this machine, and https://huggingface.co can't be reached"
    )
    for part in (
        "timm/vit_base_patch16_clip_224.openai",
        "open_clip_config.json",
        "--weights PATH",
        "local-dir:PATH",
        "HF_HUB_CACHE",
    ):
        assert part in error.hint
    assert not hub.HF_HUB_OFFLINE  # only while loading


def test_a_repository_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    error = error_of("hf-hub:nobody/nothing", "none")
    assert error.message.startswith("the model hf-hub:nobody/nothing: not on this machine")
    assert "https://huggingface.co/nobody/nothing" in error.hint


def test_whether_the_hub_can_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    loading._hub_reachable.cache_clear()
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    assert not loading._hub_reachable()
    loading._hub_reachable.cache_clear()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("content", [b"", b"rubbish" * 100])
def test_damaged_file(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    error = error_of("ViT-B-16", str(path))
    assert isinstance(error, BackboneError)
    assert error.message.startswith(f"the weights {path} for ViT-B-16 can't be read: ")
    assert "\n" not in error.message
    assert error.hint == "fetch the file again"


@pytest.mark.usefixtures("small")
def test_weights_of_another_architecture(tmp_path: Path) -> None:
    torch.save(tiny_backbone(vision={"width": 36}).model.state_dict(), tmp_path / "weights.pt")
    error = error_of("ViT-B-16", str(tmp_path / "weights.pt"))
    assert "were made for another architecture: size mismatch for visual." in error.message
    torch.save(tiny_backbone(text={"width": 40}).model.state_dict(), tmp_path / "weights.pt")
    error = error_of("ViT-B-16", str(tmp_path / "weights.pt"))
    assert "were made for another architecture: " in error.message
    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.pt")
    error = error_of("ViT-B-16", str(tmp_path / "weights.pt"))
    assert "were made for another architecture: " in error.message


def test_folders_that_are_none(tmp_path: Path, folder: Folder) -> None:
    config = tmp_path / "open_clip_config.json"
    error = error_of(f"local-dir:{tmp_path}", "openai")
    assert error.message == f"no file {config}"
    assert error.hint == "a local-dir holds open_clip_config.json and a weights file"
    for content in ("{", "[]", "{}"):
        config.write_text(content)
        assert error_of(f"local-dir:{tmp_path}", "openai").message.startswith(f"{config} is no open_clip configuration")
    config.write_text('{"model_cfg": {}}')
    assert "describes no text tower" in error_of(f"local-dir:{tmp_path}", "openai").message
    name = folder()
    assert error_of(name, "openai").message == f"no weights file in {tmp_path}"
    assert "random" in error_of(name, "openai").hint
    config.write_text(json.dumps({"model_cfg": {"embed_dim": 8, "vision_cfg": {"wdith": 3}, "text_cfg": {}}}))
    assert "unexpected keyword argument 'wdith'" in error_of(name, "none").message


def test_a_hugging_face_text_encoder_that_is_not_here_is_named_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: pytest.fail("built"))
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda *_, **__: pytest.fail("tokenizer"))
    error = error_of("roberta-ViT-B-32", "laion2b_s12b_b32k")
    if open_clip.hf_model.transformers is None:
        assert error.message == "the text tower of roberta-ViT-B-32 needs transformers, which is not installed"
    else:
        assert error.message.startswith("the text tower of roberta-ViT-B-32: not on this machine, and ")
        assert "/roberta-base elsewhere" in error.hint


def test_a_tokenizer_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    plain_import = builtins.__import__

    def without_transformers(name: str, *rest: Any, **kwargs: Any) -> Any:
        if name == "transformers":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return plain_import(name, *rest, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_transformers)
    error = error_of("ViT-B-16-SigLIP", "none")
    assert error.message == "the tokenizer of ViT-B-16-SigLIP needs transformers, which is not installed"
    assert error.hint == "pip install transformers"

    def missing(name: str) -> None:
        raise OSError("no such repository")

    monkeypatch.setattr(open_clip, "get_tokenizer", missing)
    assert error_of("ViT-B-16-SigLIP", "none").message.startswith(
        "the tokenizer of ViT-B-16-SigLIP: not on this machine"
    )

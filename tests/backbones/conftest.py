"""Tiny open_clip models of every kind, and folders that hold them."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CustomTextCLIP, set_model_preprocess_cfg

from promptkit.backbones.openclip import OpenClipBackbone
from promptkit.backbones.tiny import JOINT_WIDTH, TEXT, VISION, spread, tiny_backbone

TEXT_TOWERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "linear projection": {"proj_bias": True},
    "no projection": {"proj_type": "none"},
    "eos pooling": {"pool_type": "eos", "eos_id": 49407},
    "layer scale": {"ls_init_value": 0.5},
    "custom block": {"block_type": "custom"},
    "every custom feature": {
        "qk_norm": True,
        "scale_heads": True,
        "scale_attn_inner": True,
        "scale_attn": True,
        "scale_fc": True,
    },
    "one block": {"layers": 1},
    "not causal": {"no_causal_mask": True},
    "read at the first token": {"pool_type": "first"},
    "read at the last token": {"pool_type": "last"},
}
PACKED = tuple(TEXT_TOWERS)[:-3]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and lose much where other work waits for the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def backbone_with(text_tower: str, kind: str = "clip") -> OpenClipBackbone:
    """One of `TEXT_TOWERS`, as a CLIP, a CustomTextCLIP, a CustomTextCLIP that masks padding, or a CoCa."""
    text = TEXT_TOWERS[text_tower]
    if kind == "clip":
        return tiny_backbone(text=text)
    parts: dict[str, Any] = {"embed_dim": JOINT_WIDTH, "vision_cfg": VISION, "text_cfg": TEXT | text}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if kind == "coca":
            parts["vision_cfg"] = VISION | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
            parts["text_cfg"] = parts["text_cfg"] | {"context_length": 76, "embed_cls": True, "output_tokens": True}
            decoder = {"context_length": 76, "width": 32, "heads": 2, "layers": 1}
            model = CoCa(multimodal_cfg=decoder, **parts)
        else:
            model = CustomTextCLIP(**parts)
        spread(model)
    if kind == "pad mask":
        model.text.use_pad_mask = True
    set_model_preprocess_cfg(model, {"size": 32, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
    tokenizer = open_clip.get_tokenizer("ViT-B-16", context_length=model.context_length)
    return OpenClipBackbone(model, tokenizer, kind, "none")


@pytest.fixture(scope="session")
def make_backbone() -> Callable[..., OpenClipBackbone]:
    return backbone_with


@pytest.fixture(scope="session")
def text_towers() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names for `make_backbone`: all, and those that can be packed."""
    return tuple(TEXT_TOWERS), PACKED


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., str]:
    """Write a local-dir, with the weights of a model if there is one, and return its name."""

    def write(vision: dict[str, Any] | None = None, model: torch.nn.Module | None = None, **config: Any) -> str:
        model_cfg = {"embed_dim": JOINT_WIDTH, "vision_cfg": VISION | (vision or {}), "text_cfg": TEXT, **config}
        preprocess = {"mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3], "interpolation": "bilinear"}
        text = json.dumps({"model_cfg": model_cfg, "preprocess_cfg": preprocess})
        (tmp_path / "open_clip_config.json").write_text(text)
        if model is not None:
            torch.save(model.state_dict(), tmp_path / "open_clip_model.pth")
        return f"local-dir:{tmp_path}"

    return write

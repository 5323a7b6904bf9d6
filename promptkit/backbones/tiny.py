"""A tiny CLIP with random weights, always the same ones: for tests, demos and `--backbone tiny`."""

import json
import logging
from copy import deepcopy
from functools import cache
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP, set_model_preprocess_cfg
from torch import nn

from promptkit.backbones.openclip import OpenClipBackbone
from promptkit.backbones.prompt_tokenizer import ClipTokenizer

log = logging.getLogger("promptkit")

# All widths differ, so that a mix-up fails.
VISION = {"image_size": 32, "patch_size": 8, "layers": 3, "width": 48, "head_width": 12}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 3}
JOINT_WIDTH = 24


def load_tiny(weights: str = "none") -> OpenClipBackbone:
    """The tiny CLIP as `--backbone tiny` gives it. It has no weights to load, so `weights` is ignored."""
    log.warning("random weights: 'tiny' is for trying things out; it has learned nothing")
    return tiny_backbone()


def tiny_backbone(
    vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **config: Any
) -> OpenClipBackbone:
    """A tiny open_clip `CLIP`. `vision` and `text` override entries of the towers' configurations, `config` those of
    the whole (`embed_dim`, `quick_gelu`). The same arguments give the same weights."""
    whole = {"embed_dim": JOINT_WIDTH, **config}
    whole |= {"vision_cfg": {**VISION, **(vision or {})}, "text_cfg": {**TEXT, **(text or {})}}
    model = deepcopy(drawn(json.dumps(whole)))
    return OpenClipBackbone(model, ClipTokenizer(model.context_length), "tiny", "none", whole)


@cache
def drawn(config: str) -> CLIP:
    """The model of a configuration in JSON, to be copied."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = CLIP(**json.loads(config))
        spread(model)
    set_model_preprocess_cfg(
        model,
        {
            "size": model.visual.image_size,
            "mean": open_clip.OPENAI_DATASET_MEAN,
            "std": open_clip.OPENAI_DATASET_STD,
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    )
    return model


@torch.no_grad()
def spread(model: nn.Module) -> None:
    """Draw larger weights than open_clip does, so that different texts and images end up far apart."""
    for name, parameter in model.named_parameters():
        if "embedding" in name:
            parameter.normal_(std=0.5)
        elif parameter.ndim >= 2:
            parameter.normal_(std=parameter[0].numel() ** -0.5)

"""The demo's CLIP: a small open_clip model that was trained on the demo's pictures by examples/tiny_clip/train.py."""

from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
from open_clip.model import CLIP, set_model_preprocess_cfg
from safetensors.torch import load_file
from torch import Tensor

from promptkit.backbones.openclip import OpenClipBackbone
from promptkit.backbones.prompt_tokenizer import ClipTokenizer
from promptkit.files import plain_json, text_of

CONFIG, COMPACT = "open_clip_config.json", "demo_clip.safetensors"
ROWS, TABLE = "token_rows", "token_embedding.weight"


def load_demo_clip(weights: str = "demo") -> OpenClipBackbone:
    """The demo's CLIP as `--backbone demo` gives it. It has only one set of weights, so `weights` is ignored."""
    with as_file(files("promptkit.demo") / "clip") as packed:
        return load_packed(packed)


def load_packed(packed: Path) -> OpenClipBackbone:
    """The model of a folder that holds its configuration and its compact weights.

    Those are in half precision, with the rows of the token embedding that training changed alone.
    """
    config = plain_json(text_of(packed / CONFIG))
    whole = config["model_cfg"]
    tensors = {name: tensor if name == ROWS else tensor.float() for name, tensor in load_file(packed / COMPACT).items()}
    rows = tensors.pop(ROWS)
    table = untrained_embedding(whole["text_cfg"]["vocab_size"], whole["text_cfg"]["width"])
    table[rows] = tensors[TABLE]
    with torch.random.fork_rng(devices=[]):
        model = CLIP(**whole)
    model.load_state_dict({**tensors, TABLE: table})
    set_model_preprocess_cfg(model, {**config["preprocess_cfg"], "size": model.visual.image_size})
    return OpenClipBackbone(model, ClipTokenizer(model.context_length), "demo", "demo", whole)


def untrained_embedding(vocabulary: int, width: int) -> Tensor:
    """What the token embedding (vocabulary, width) was before training, and words it never saw still are."""
    values = np.random.default_rng(0).standard_normal((vocabulary, width), dtype=np.float32)
    return torch.from_numpy(0.02 * values)

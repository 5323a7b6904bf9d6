"""The demo's CLIP: a small open_clip model that was trained on the demo's pictures by examples/tiny_clip/train.py."""

import shutil
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from promptkit.backbones.openclip import OpenClipBackbone, load_openclip

CONFIG, COMPACT, FULL = "open_clip_config.json", "demo_clip.safetensors", "open_clip_model.safetensors"
ROWS, TABLE = "token_rows", "token_embedding.weight"


def load_demo_clip(weights: str = "demo") -> OpenClipBackbone:
    """The demo's CLIP as `--backbone demo` gives it. It has only one set of weights, so `weights` is ignored.

    The package holds them in half precision, with the rows of the token embedding that training changed alone. They are
    unpacked into an open_clip `local-dir` for a moment, and loaded like any other.
    """
    with as_file(files("promptkit.demo") / "clip") as packed:
        return load_packed(packed)


def load_packed(packed: Path) -> OpenClipBackbone:
    """The model of a folder that holds its configuration and its compact weights."""
    with TemporaryDirectory() as folder:
        unpack(packed, Path(folder))
        backbone = load_openclip(f"local-dir:{folder}", "demo")
    backbone.name, backbone.weights = "demo", "demo"
    return backbone


def unpack(packed: Path, folder: Path) -> None:
    """Write the whole model, as open_clip reads it, from the package's compact one."""
    shutil.copy(packed / CONFIG, folder / CONFIG)
    tensors = {name: tensor if name == ROWS else tensor.float() for name, tensor in load_file(packed / COMPACT).items()}
    rows = tensors.pop(ROWS)
    table = untrained_embedding(49408, tensors[TABLE].shape[1])
    table[rows] = tensors[TABLE]
    save_file({**tensors, TABLE: table}, folder / FULL)


def untrained_embedding(vocabulary: int, width: int) -> Tensor:
    """What the token embedding (vocabulary, width) was before training, and words it never saw still are."""
    values = np.random.default_rng(0).standard_normal((vocabulary, width), dtype=np.float32)
    return torch.from_numpy(0.02 * values)

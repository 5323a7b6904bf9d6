"""promptkit: a modular plugin framework for CLIP prompt learners.

`hookimpl` marks a plugin's hooks; `load` opens a finished run; `train`, `evaluate`, `bench` and `tune` are the commands;
`results`, `statistics`, `compare` and `samples` are data frames. Nothing here imports torch before it is used.
"""

import os
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from promptkit.errors import (
    BackboneError,
    CheckpointError,
    ConfigError,
    DataError,
    OutputError,
    PluginError,
    PromptkitError,
    TrainingError,
    UnknownNameError,
)
from promptkit.hooks import hookimpl
from promptkit.offered import DISTRIBUTION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from promptkit.api import bench, evaluate, train, tune
    from promptkit.frames import compare, figure, results, samples, statistics
    from promptkit.prediction.classifier import Classifier

__all__ = [
    "PUBLIC_MODULES",
    "BackboneError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "OutputError",
    "PluginError",
    "PromptkitError",
    "TrainingError",
    "UnknownNameError",
    "__version__",
    "bench",
    "compare",
    "evaluate",
    "figure",
    "hookimpl",
    "load",
    "results",
    "samples",
    "statistics",
    "train",
    "tune",
]

PUBLIC_MODULES = (
    "promptkit",
    "promptkit.api",
    "promptkit.backbones.base",
    "promptkit.backbones.openclip",
    "promptkit.backbones.prompt_tokenizer",
    "promptkit.components",
    "promptkit.data.catalog",
    "promptkit.data.layouts",
    "promptkit.data.selection",
    "promptkit.distributed",
    "promptkit.edits",
    "promptkit.errors",
    "promptkit.frames",
    "promptkit.hooks",
    "promptkit.learner",
    "promptkit.metrics",
    "promptkit.prediction.classifier",
    "promptkit.tensors",
    "promptkit.testing",
)
"""What plugins may import. Everything else may change in any version."""

__version__ = version(DISTRIBUTION)

_LATER = {
    "promptkit.api": ("bench", "evaluate", "train", "tune"),
    "promptkit.frames": ("compare", "figure", "results", "samples", "statistics"),
}

# Importing albumentations would otherwise ask the network for a newer version of itself.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def load(run: "str | Path", classnames: "Sequence[str] | None" = None, device: str = "auto") -> "Classifier":
    """Open a finished run, or a recipe that trains nothing, as a classifier of pictures.

    Example:
        ```python
        classifier = promptkit.load("runs/coop")
        classifier(np.zeros((48, 64, 3), np.uint8))[0]  # {"label": "circle", "score": 0.93}, the likeliest class
        ```

    Args:
        run: Its folder, or "hf-hub:ORG/NAME"; or "zeroshot", which asks CLIP itself, with OpenAI's ViT-B/16.
        classnames: To ask about, in the place of the classes that it was trained on.
        device: Such as "cpu"; "auto" takes a GPU where there is one.

    Raises:
        CheckpointError: For a folder that holds no run or a damaged one.
        ConfigError: For a recipe that has to be trained first, and for one without `classnames`.
        PromptkitError: Whatever its backbone and plugins raise.
    """
    from promptkit.prediction.classifier import open_classifier

    return open_classifier(run, classnames, device)


def __getattr__(name: str) -> Any:
    """What stands in `promptkit.api` and `promptkit.frames`, imported when it is asked for."""
    from importlib import import_module

    for module, names in _LATER.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'promptkit' has no attribute {name!r}")

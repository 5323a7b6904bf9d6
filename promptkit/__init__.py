"""promptkit: a modular plugin framework for CLIP prompt learners.

`hookimpl` marks a plugin's hooks; `load` opens a finished run; `train`, `evaluate` and `compare` are the commands. Nothing
here imports torch before it is used.
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

    from promptkit.api import compare, evaluate, figure, results, samples, train, tune
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
    "compare",
    "evaluate",
    "figure",
    "hookimpl",
    "load",
    "results",
    "samples",
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
    "promptkit.hooks",
    "promptkit.learner",
    "promptkit.metrics",
    "promptkit.prediction.classifier",
    "promptkit.tensors",
    "promptkit.testing",
)
"""What plugins may import. Everything else may change in any version."""

__version__ = version(DISTRIBUTION)

# Importing albumentations would otherwise ask the network for a newer version of itself.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def load(run: "str | Path", classnames: "Sequence[str] | None" = None, device: str = "auto") -> "Classifier":
    """Open a finished run, a folder or "hf-hub:ORG/NAME", as a classifier of pictures.

    `classnames` asks about other classes than the ones it was trained on. Raises CheckpointError for a folder that holds
    no run or a damaged one, and whatever its backbone and plugins raise.
    """
    from promptkit.prediction.classifier import open_classifier

    return open_classifier(run, classnames, device)


def __getattr__(name: str) -> Any:
    """What stands in `promptkit.api`, imported when it is asked for."""
    if name in ("compare", "evaluate", "figure", "results", "samples", "train", "tune"):
        from promptkit import api

        return getattr(api, name)
    raise AttributeError(f"module 'promptkit' has no attribute {name!r}")

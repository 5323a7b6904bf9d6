"""promptkit: a modular plugin framework for CLIP prompt learners.

`hookimpl` marks a plugin's hooks; `load` opens a finished run. Nothing here imports torch.
"""

import os
from importlib.metadata import version
from typing import TYPE_CHECKING

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
    "hookimpl",
    "load",
]

PUBLIC_MODULES = (
    "promptkit",
    "promptkit.backbones.base",
    "promptkit.components",
    "promptkit.data.catalog",
    "promptkit.data.layouts",
    "promptkit.distributed",
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

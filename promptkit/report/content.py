"""What a report says of runs: gathered from their folders, their records, and the learners themselves."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import promptkit
from promptkit.build import build_views, load_backbone, pick_device
from promptkit.config import resolve
from promptkit.data.layouts import Item
from promptkit.files import plain_json
from promptkit.learner import Learner
from promptkit.registry import installed
from promptkit.report import plots
from promptkit.report.answers import Answers
from promptkit.report.gallery import views_of
from promptkit.report.insight import feature_map, nearest_words, read_features
from promptkit.runs.checkpoint import Metadata, read_metadata
from promptkit.runs.folder import read_log
from promptkit.runs.opening import restore, run_config
from promptkit.settings import LoaderSettings, Scalar, flatten

ON_MAP = 1000
"""Pictures."""
IN_VIEWS = 3
"""Pictures that are shown in the views of the training."""
LIBRARIES = ("torch", "open_clip_torch", "timm", "numpy", "albumentations")


@dataclass(frozen=True)
class RunPart:
    """What is said of one run."""

    name: str
    folder: Path
    metadata: Metadata
    seed: int
    log: Sequence[dict[str, Any]]
    changed: Sequence[tuple[str, object, object]]
    """Setting, what the recipe says, what the run has."""
    words: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    maps: Sequence[str] = ()
    mapped_by: str = ""
    views: Sequence[tuple[str, dict[str, str]]] = ()


def gather(runs: dict[str, Path], several: Sequence[Answers], flags: dict[str, Scalar], device: str) -> list[RunPart]:
    """One part for each run, by name. `flags` say where backbones are; those of a kind are loaded once.

    Raises what opening runs does.
    """
    backbones: dict[object, Any] = {}
    by_run = {answers.run: answers for answers in several}
    parts = []
    for number, (name, folder) in enumerate(runs.items()):
        registry, config, metadata = installed(), run_config(folder, flags), read_metadata(folder)
        if config.backbone not in backbones:
            backbones[config.backbone] = load_backbone(config.backbone, registry).to(pick_device(device))
        learner = restore(folder, config, backbones[config.backbone])
        maps, mapped_by = list[str](), ""
        views: list[tuple[str, dict[str, str]]] = []
        if answers := by_run.get(name):
            learner.set_classes(answers.about.classnames)
            maps, mapped_by = _maps(learner, answers, config.loading, f"map{number}")
            paths = [answers.picture(row) for row in np.linspace(0, len(answers.paths) - 1, IN_VIEWS).astype(int)]
            if config.train.epochs:
                views = views_of(build_views(config, registry, backbones[config.backbone]), paths, config.train.seed)
        before, now = flatten(resolve(registry, config.recipe).to_tables()), flatten(config.to_tables())
        changed = [(key, before.get(key, ""), value) for key, value in now.items() if before.get(key, "") != value]
        log = [row for row in map(plain_json, read_log(folder)) if isinstance(row, dict)]
        parts.append(
            RunPart(
                name,
                folder,
                metadata,
                config.train.seed,
                log,
                changed,
                nearest_words(learner),
                maps,
                mapped_by,
                views,
            )
        )
    return parts


def _maps(learner: Learner, answers: Answers, loading: LoaderSettings, name: str) -> tuple[list[str], str]:
    """The map of features by domain, where there are several, and by class; and what made it."""
    rows = np.linspace(0, len(answers.paths) - 1, min(ON_MAP, len(answers.paths))).astype(int)
    items = [Item(answers.picture(row), 0, "", None) for row in rows]
    seen = read_features(learner, items, Path(answers.about.data), loading)
    if len(seen.rows) < 3:
        return [], ""
    found, kept = feature_map(learner, seen), rows[seen.rows]
    labels = np.array([answers.names[place] if place >= 0 else "unknown" for place in answers.label[kept]], object)
    kinds = {"domain": answers.domain[kept]} if len(answers.domains) > 1 else {}
    maps = [
        plots.feature_map(found.images, found.texts, learner.classnames, kind, what, f"{name}{what}")
        for what, kind in {**kinds, "class": labels}.items()
    ]
    return maps, found.method


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    return {"promptkit": promptkit.__version__, "Python": platform.python_version()} | {
        name: version(name) for name in LIBRARIES
    }

"""Open finished runs on one data set, to be evaluated side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from promptkit import distributed
from promptkit.backbones.base import Backbone
from promptkit.build import load_backbone, pick_device
from promptkit.data.layouts import Dataset
from promptkit.data.opening import open_dataset
from promptkit.data.splits import class_subset, subset
from promptkit.data.splits import split as draw_split
from promptkit.errors import ConfigError
from promptkit.learner import Learner
from promptkit.registry import installed
from promptkit.runs.opening import restore, run_config
from promptkit.settings import BackboneSettings, EvalSettings, Scalar, split_names


@dataclass(frozen=True)
class OpenedRuns:
    """Learners by the name of their run, set to the classes of the data, and the pictures to evaluate on."""

    learners: dict[str, Learner]
    dataset: Dataset
    path: str


def open_runs(runs: Sequence[Path], settings: EvalSettings, flags: Mapping[str, Scalar] | None = None) -> OpenedRuns:
    """What is not given is taken from the first run: its data, by path and name, and how and with which seed it is split.

    `settings.split` "draw" is the test part of splits that are drawn even where the data gives some.

    Runs of the same backbone share one. Raises ConfigError when the runs can't be compared on one set of pictures, and
    what reading data, backbones and checkpoints raises.
    """
    configs = {run: run_config(run, flags) for run in runs}

    seeds = {config.data.split_seed for config in configs.values()}
    if len(seeds) > 1:
        raise ConfigError(
            f"the runs drew their test pictures with different data.split_seed: {', '.join(map(str, sorted(seeds)))}",
            "evaluate runs of one split_seed at a time",
        )
    first, registry = configs[runs[0]].data, installed()
    path = settings.data or first.path
    name = settings.dataset or ("" if settings.data else first.dataset)
    split = settings.split
    draw = split == "draw" or first.split == "draw"
    dataset = open_dataset(Path(path), registry, name, split_names(settings.domains), draw)
    if split != "all":
        dataset = subset(draw_split(dataset, seeds.pop()), "test" if split == "draw" else split)
    dataset = class_subset(dataset, settings.classes)

    where = distributed.join(settings.device) or pick_device(settings.device)
    backbones: dict[BackboneSettings, Backbone] = {}
    learners: dict[str, Learner] = {}
    for run, config in configs.items():
        if config.backbone not in backbones:
            backbones[config.backbone] = load_backbone(config.backbone, registry).to(where)
        learners[_name(run, runs)] = restore(run, config, backbones[config.backbone], dataset.classnames)
    if len({learner.scene.backbone.image for learner in learners.values()}) > 1:
        raise ConfigError("the runs' backbones want their pictures prepared differently", "evaluate them one at a time")
    return OpenedRuns(learners, dataset, path)


def _name(run: Path, runs: Sequence[Path]) -> str:
    """The folder's name where that is unambiguous."""
    return run.name if [other.name for other in runs].count(run.name) == 1 and run.name else str(run)

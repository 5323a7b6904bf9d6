"""Open finished runs on one data set, to be evaluated side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from promptkit import distributed
from promptkit.backbones.base import Backbone
from promptkit.build import load_backbone, pick_device
from promptkit.data.inspection import warn_indistinct
from promptkit.data.layouts import Dataset
from promptkit.data.selection import SPLIT_POLICIES, open_dataset, select_evaluation
from promptkit.errors import ConfigError
from promptkit.evaluation.classes import choose_classes, warn_untrained
from promptkit.evaluation.evaluate import Evaluation
from promptkit.learner import Learner
from promptkit.registry import installed
from promptkit.runs.checkpoint import read_metadata
from promptkit.runs.hub import local_run
from promptkit.runs.opening import restore, run_config
from promptkit.runs.records import write_records
from promptkit.settings import BackboneSettings, EvalSettings, Scalar, split_names


@dataclass(frozen=True)
class OpenedRuns:
    """Learners by the name of their run, set to the classes to ask about, and the pictures to evaluate on."""

    learners: dict[str, Learner]
    dataset: Dataset
    path: str
    name: str
    """Of the data: in the catalogue, or its folder's or manifest's."""
    folders: dict[str, Path]
    """Of the runs, by their names."""


def open_runs(
    runs: Sequence[Path],
    settings: EvalSettings,
    flags: Mapping[str, Scalar] | None = None,
    sets: Sequence[str] = (),
) -> OpenedRuns:
    """Open runs on one data set. What is not given is taken from the first run: path, name, split policy and its seed.

    `sets` are texts of --set, for what happens at test time. A policy as `settings.split` means its test images. Runs of
    the same backbone share one. Raises ConfigError when the runs can't be compared on one set of images, and what reading
    data, backbones and checkpoints raises.
    """
    runs = [local_run(run) for run in runs]
    configs = {run: run_config(run, flags, sets) for run in runs}

    seeds = {config.data.split_seed for config in configs.values()}
    if len(seeds) > 1:
        raise ConfigError(
            f"the runs drew their test pictures with different data.split_seed: {', '.join(map(str, sorted(seeds)))}",
            "evaluate runs of one split_seed at a time",
        )
    first, registry = configs[runs[0]].data, installed()
    path = settings.data or first.path
    name = settings.dataset or ("" if settings.data else first.dataset)
    named = registry.dataset(name) if name else None
    split, policy = ("test", settings.split) if settings.split in SPLIT_POLICIES else (settings.split, first.split)
    dataset = open_dataset(Path(path), named, split_names(settings.domains), policy)
    dataset = select_evaluation(dataset, split, policy, seeds.pop())
    names = names_of(runs)
    read, trained = dataset, {names[run]: read_metadata(run).classnames for run in runs}
    dataset, asked = choose_classes(settings.classes, read, trained)

    where = distributed.join(settings.device) or pick_device(settings.device)
    backbones: dict[BackboneSettings, Backbone] = {}
    learners: dict[str, Learner] = {}
    for run, config in configs.items():
        if config.backbone not in backbones:
            backbones[config.backbone] = load_backbone(config.backbone, registry).to(where)
        learners[names[run]] = restore(run, config, backbones[config.backbone], asked[names[run]])
    if len({learner.scene.backbone.image for learner in learners.values()}) > 1:
        raise ConfigError("the runs' backbones want their pictures prepared differently", "evaluate them one at a time")
    for backbone in backbones.values():
        for names_asked in {asked[name] for name, learner in learners.items() if learner.scene.backbone is backbone}:
            warn_indistinct(backbone, names_asked)
    if settings.classes in ("auto", "trained"):
        warn_untrained(read, {name: trained[name] for name, learner in learners.items() if learner.state_dict()})
    return OpenedRuns(learners, dataset, path, name or Path(path).absolute().stem, {names[run]: run for run in runs})


def keep_answers(opened: OpenedRuns, found: Evaluation, settings: EvalSettings, sets: Sequence[str] = ()) -> list[Path]:
    """Write what each run answered, under the texts of --set, into its folder; returns where.

    Raises OutputError when it can't be written.
    """
    asked = (opened.name, settings.split, " ".join([settings.classes, *sets]))
    return [
        write_records(opened.folders[name], opened.dataset, asked, opened.learners[name].classnames, answers)
        for name, answers in found.predictions.items()
    ]


def names_of(runs: Sequence[Path]) -> dict[Path, str]:
    """The shortest end of each path that tells it from the others."""
    names = {}
    for run in runs:
        others = [other.parts for other in runs if other != run]
        kept = next(n for n in count(1) if n > len(run.parts) or run.parts[-n:] not in [parts[-n:] for parts in others])
        names[run] = str(Path(*run.parts[-kept:]))
    return names

"""From a run's folder back to its learner."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from promptkit.backbones.base import Backbone
from promptkit.build import build_learner, load_backbone, pick_device
from promptkit.components import Scene, TeacherRun
from promptkit.config import RunConfig, resolve
from promptkit.data.descriptions import read_descriptions
from promptkit.errors import CheckpointError, ConfigError
from promptkit.learner import Learner
from promptkit.registry import installed
from promptkit.runs import tensorfile
from promptkit.runs.checkpoint import SETTINGS, WEIGHTS, read_metadata, read_tensors
from promptkit.runs.status import read_saved

log = logging.getLogger("promptkit")

TEST_TIME = ("learner", "test_views", "train.seed", "data.descriptions")
"""Slots and settings that may be others than a run was trained with."""


def run_config(run: Path, flags: Mapping[str, Any] | None = None, sets: Sequence[str] = ()) -> RunConfig:
    """The settings of a run, with `flags` and the texts of --set on top.

    Raises CheckpointError where there is no run, ConfigError for a setting that belongs to what was trained.
    """
    for text in sets:
        key = text.partition("=")[0].strip()
        if not {key, key.partition(".")[0]} & {*TEST_TIME}:
            raise ConfigError(
                f"--set {text}: {key} belongs to what was trained",
                "at test time --set takes learner, learner.*, test_views, test_views.*, train.seed and data.descriptions",
            )
    read_metadata(run)
    tables, _ = read_saved(run)
    return resolve(installed(), tables["recipe"], tables, sets, flags)


def restore(run: Path, config: RunConfig, backbone: Backbone, classnames: Sequence[str] | None = None) -> Learner:
    """Build a run's learner on a backbone and fill in what was learned.

    Raises CheckpointError when the backbone is not the one it was trained on, or the tensors are not the learner's.
    """
    metadata = read_metadata(run)
    # The loss is not built to predict, so what it learned stays where it is.
    tensors = {name: tensor for name, tensor in read_tensors(run).items() if not name.startswith("loss.")}
    if metadata.fingerprint != backbone.fingerprint:
        raise CheckpointError(
            f"{run} was trained on {metadata.backbone} (weights {metadata.fingerprint[:12]}), "
            f"not on {backbone.name} {backbone.weights} (weights {backbone.fingerprint[:12]})",
            "a learner works with the very weights it was trained on; point --backbone and --weights to them",
        )
    if not metadata.finished:
        log.warning(
            "%s is not finished: this is what it had learned by epoch %d of %d; promptkit train --out %s --resume goes on",
            *(run, metadata.epoch, metadata.epochs, run),
        )
    descriptions: Mapping[str, Sequence[str]] = metadata.descriptions
    if config.data.descriptions != metadata.settings["data"].get("descriptions"):
        descriptions = read_descriptions(Path(config.data.descriptions)) if config.data.descriptions else {}
    teacher = teacher_run(config, backbone, metadata.classnames)
    scene = Scene(backbone, tuple(metadata.classnames), tuple(metadata.domains), descriptions, teacher)
    learner = build_learner(config, installed(), scene, to_train=False)
    if misfits := tensorfile.misfits(tensors, learner.state_dict()):
        raise CheckpointError(f"{run / WEIGHTS} does not fit the settings in {SETTINGS}: {'; '.join(misfits)}")
    learner.load_state_dict(tensors)
    learner.eval()
    if classnames is not None:
        learner.set_classes(classnames)
    return learner


def teacher_run(config: RunConfig, backbone: Backbone, classnames: Sequence[str]) -> TeacherRun | None:
    """What `train.teacher` names, opened when it is first asked for; it may share the learner's own backbone."""
    if not config.train.teacher:
        return None
    run = Path(config.train.teacher)

    def open_run() -> Learner:
        taught = run_config(run)
        same = taught.backbone == config.backbone
        own = backbone if same else load_backbone(taught.backbone, installed()).to(backbone.device)
        return restore(run, taught, own, classnames)

    return TeacherRun(open_run)


def load_run(run: str | Path, classnames: Sequence[str] | None = None, device: str = "auto") -> Learner:
    """See `promptkit.load`."""
    run = Path(run)
    config = run_config(run)
    backbone = load_backbone(config.backbone, installed()).to(pick_device(device))
    return restore(run, config, backbone, classnames)


def start_from(run: Path, learner: Learner) -> None:
    """Give a learner the tensors that a run learned under the same names.

    Raises CheckpointError when the run is of another backbone, or has no tensor of the learner, or one of another shape.
    """
    metadata, tensors = read_metadata(run), read_tensors(run)
    if metadata.fingerprint != learner.scene.backbone.fingerprint:
        raise CheckpointError(
            f"{run} was trained on {metadata.backbone} (weights {metadata.fingerprint[:12]}), "
            f"not on {learner.scene.backbone.name}",
            "--init takes a run of the same backbone and weights",
        )
    own = learner.state_dict()
    common = {name: tensor for name, tensor in tensors.items() if name in own}
    wrong = tensorfile.misfits(common, {name: own[name] for name in common})
    if wrong or not common:
        raise CheckpointError(
            f"training can't start from {run}: {'; '.join(wrong) or 'none of its tensors is one of this learner'}",
            "--init takes a run of the same prompts, as in: --init runs/coop",
        )
    learner.load_state_dict({**own, **common})
    if left := sorted(tensors.keys() - own.keys()):
        log.info("--init %s: %s is not of this learner, and left alone", run, ", ".join(left))

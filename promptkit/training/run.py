"""One run from its configuration to its folder: read the data, build the learner, train, save after every epoch."""

import contextlib
import hashlib
import json
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from torch import device as Device

from promptkit import contract, distributed
from promptkit.backbones.base import Backbone
from promptkit.build import build_learner, build_views, load_backbone, pick_device, training_scene
from promptkit.config import RunConfig
from promptkit.data.layouts import Dataset
from promptkit.data.loading import Batches, trained_on, worker_death_explained
from promptkit.data.selection import open_dataset, select_training, subset
from promptkit.data.unlabelled import read_unlabelled, unlabelled_part
from promptkit.errors import ConfigError, PluginError
from promptkit.registry import Registry, installed
from promptkit.runs import state
from promptkit.runs.checkpoint import Metadata
from promptkit.runs.folder import RunFolder, read_log
from promptkit.runs.listing import best_epoch
from promptkit.runs.lock import FolderLock
from promptkit.runs.opening import start_from, teacher_run
from promptkit.runs.packages import packages_of
from promptkit.runs.status import inspect_run
from promptkit.settings import DataSettings, flatten, split_names
from promptkit.training.batches import PairedBatches, cached_batches, image_batches
from promptkit.training.best import BestEpoch
from promptkit.training.callbacks import Callback
from promptkit.training.profile import Profile
from promptkit.training.progress import Forecast, TrainingProgress
from promptkit.training.saving import EpochLog, SameState, Saving
from promptkit.training.teaching import ask_teacher
from promptkit.training.trackers import Trackers
from promptkit.training.trainer import Trainer, show_images
from promptkit.training.validation import Validation

log = logging.getLogger("promptkit")


def training_data(settings: DataSettings, seed: int, registry: Registry) -> Dataset:
    """Read the data set of a run and select what it trains on.

    Raises DataError and UnknownNameError for data that can't be trained on.
    """
    if not settings.path:
        raise ConfigError("there is no data to train on", "say where it is with --data PATH")
    read = whole_data(settings, registry, split_names(settings.domains))
    log.info("%s: %s", settings.path, read.layout)
    return select_training(read, settings, seed)


def whole_data(settings: DataSettings, registry: Registry, domains: Sequence[str] = ()) -> Dataset:
    """The data set of a run before anything is selected from it but domains. Raises DataError and UnknownNameError."""
    named = registry.dataset(settings.dataset) if settings.dataset else None
    return open_dataset(Path(settings.path), named, domains, settings.split)


def command_line() -> str:
    """Of this process, which may be a script of one's own: the program without its folder, and its arguments."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return shlex.join([name, *sys.argv[1:]]).encode(errors="backslashreplace").decode()


class Run:
    """A run that is ready to train. Building it checks everything that can be checked before the first step.

    `backbone` and `dataset` are those of the configuration, where many runs share one: `load_backbone` and
    `training_data` make them. `lock` is that of the folder `out`, where the caller holds it already.
    """

    def __init__(
        self,
        config: RunConfig,
        out: Path,
        force: bool = False,
        resume: bool = False,
        registry: Registry | None = None,
        cache: bool = True,
        backbone: Backbone | None = None,
        dataset: Dataset | None = None,
        lock: FolderLock | None = None,
    ) -> None:
        registry = registry or installed()
        train = config.train
        if train.cached_views and not cache:
            raise ConfigError(
                "--cached-views keeps features in the cache, and --no-cache wants none", "leave one of the two out"
            )
        self.config = config
        self.registry = registry
        self.resume = resume
        self.cache = cache
        self.dataset = dataset or training_data(config.data, train.seed, registry)
        self.pictures = subset(self.dataset, "train")
        self.unlabelled = self._unlabelled()
        device = distributed.join(train.device) or pick_device(train.device)
        self.trackers = Trackers(train.log, out, flatten(config.to_tables()))
        self.folder = RunFolder(out, force, resume, lock)
        if resume:
            state.check_settings(out, config)
        backbone = (backbone or load_backbone(config.backbone, registry)).to(device)
        teacher = teacher_run(config, backbone, self.dataset.classnames)
        self.learner = build_learner(config, registry, training_scene(config, backbone, self.dataset, teacher))
        self.built = {name: tensor.to("meta") for name, tensor in self.learner.state_dict().items()}
        if train.init and not resume:
            start_from(Path(train.init), self.learner)
        self.views = build_views(config, registry, backbone)

    def _unlabelled(self) -> Dataset | None:
        """The pictures without labels. Raises ConfigError where a loss asks for them and gets none, or the other way."""
        data, name = self.config.data, self.config.components["loss"].name
        named = {"--unlabelled": data.unlabelled, "--unlabelled-domains": data.unlabelled_domains}
        given = [f"{flag} {value}" for flag, value in named.items() if value]
        if not self.registry.component("loss", name).unlabelled:
            if given:
                raise ConfigError(f"{given[0]}: loss {name!r} looks at no pictures without labels", "leave it out")
            return None
        if not given:
            raise ConfigError(
                f"loss {name!r} looks at pictures without labels too",
                "say where they are with --unlabelled PATH, or which domains they are with --unlabelled-domains NAMES",
            )
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} can't be combined", "leave one of the two out")
        if self.config.train.cached_views:
            raise ConfigError(f"{given[0]} and --cached-views can't be combined", "leave one of the two out")
        if data.unlabelled:
            return read_unlabelled(Path(data.unlabelled))
        return unlabelled_part(whole_data(data, self.registry), data)

    @property
    def backbone(self) -> Backbone:
        return self.learner.scene.backbone

    @property
    def device(self) -> Device:
        return self.backbone.device

    @property
    def trained_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.learner.parameters())

    @worker_death_explained()
    def train(
        self, console: Console, profile: bool = False, lines: bool = True, judges: Sequence[Callback] = ()
    ) -> None:
        """Train to the end, from the beginning or from where the run was stopped.

        What each epoch learned is saved before the next begins. With `profile`, where the time went is printed at the
        end; without `lines`, no epoch leaves one on the console. `judges` hear of every epoch once it is validated, and
        before it is saved, so that they may have training `stop`.
        """
        with self.folder.held():
            saved = inspect_run(self.folder.path, held=True)
            if self.resume and saved.cause and not self.folder.state.exists():
                raise saved.cause
            if self.resume and saved.metadata and saved.metadata.finished:
                self.folder.finish()
                trained, epochs = len(read_log(self.folder.path)), saved.metadata.epochs
                early = f"{trained} of {epochs}" if saved.metadata.epoch <= trained < epochs else epochs
                console.print(f"{self.folder.path} is finished already, after {early} epochs", soft_wrap=True)
            else:
                before = saved.metadata.commands if self.resume and saved.metadata else []
                with self._defects_named():
                    self._train(console, profile, lines, judges, self._metadata([*before, command_line()]))

    def _train(
        self, console: Console, profile: bool, lines: bool, judges: Sequence[Callback], metadata: Metadata
    ) -> None:
        config, folder, learner = self.config, self.folder, self.learner
        train, cuda = config.train, self.device.type == "cuda"
        resuming = self.resume and folder.state.exists()
        height, width = self.views.image.size
        contract.check_views(self.views, np.zeros((2 * height, 2 * width, 3), np.uint8))
        if teacher := learner.scene.teacher:
            teacher.logits = ask_teacher(teacher.learner, self.pictures, config, self.cache, console)
        if not resuming:
            show_images(learner, image_batches(config, self.pictures, self.views, cuda, shuffle=False))
        if not train.epochs or not self.trained_parameters:
            if train.epochs:
                log.warning("%s has nothing to train: train.epochs=%d changes nothing", config.recipe, train.epochs)
            folder.begin(config)
            learner.eval()
            contract.check_state(learner.state_dict(), self.built)
            folder.save(learner, metadata)
            return
        contract.try_out(learner)

        if train.cached_views:
            batches: Batches = cached_batches(config, learner, self.pictures, self.views, console)
        else:
            batches = image_batches(config, self.pictures, self.views, cuda)
            if self.unlabelled:
                batches = PairedBatches(config, self.pictures, self.unlabelled, self.views, cuda)
        validation = subset(self.dataset, "val")
        if (train.keep == "best" or train.patience) and not validation.items:
            which = "--keep best" if train.keep == "best" else "--patience"
            raise ConfigError(
                f"{which} looks at the validation accuracy, and the data has no val split",
                "--split draw draws one; or leave it out",
            )
        watch = Profile(learner, batches, console) if profile else None
        trainer = Trainer(learner, watch or batches, train)
        if resuming:
            state.resume(trainer, folder.state, config, self._learned_from())
            at = trainer.loop
            folder.resume(at.epoch)
            console.print(f"{folder.path}: going on in epoch {at.epoch} after {at.batch} batches", soft_wrap=True)
        else:
            folder.begin(config)
        images = trained_on(len(self.pictures.items), train.batch_size)
        seen = (trainer.loop.epoch - 1) * images + trainer.loop.images * distributed.processes()
        best = best_epoch(folder.path) if resuming else (None, 0)
        # Validation sets a figure that those after it show; what is shown or tracked was saved before.
        trainer.train(
            [
                Validation(learner, validation, config.data.max_pixels, self.cache),
                BestEpoch(train.patience, *best),
                *judges,
                SameState(learner, self.built),
                EpochLog(folder),
                Saving(
                    folder,
                    learner,
                    metadata,
                    lambda: state.pack(trainer, config, self._learned_from()),
                    train.save_minutes,
                    only_best=train.keep == "best",
                ),
                self.trackers,
                TrainingProgress(console, f"training {folder.path}", images, train.epochs, seen, lines),
                *([Forecast(console, train.epochs * images - seen)] if lines else []),
                *([watch] if watch else []),
            ]
        )

    @contextlib.contextmanager
    def _defects_named(self) -> Iterator[None]:
        """Raises PluginError, naming package and component, for a Defect."""
        try:
            yield
        except contract.Defect as defect:
            kind, name = "recipe", self.config.recipe
            if defect.slot in self.config.components:
                kind, name = defect.slot, self.config.components[defect.slot].name
            entry = self.registry.entry(kind, name)
            raise PluginError(
                f"{entry.package}: {kind} {name!r}: {defect}", f"promptkit check {name} looks for what is wrong with it"
            ) from defect

    def _learned_from(self) -> str:
        """A fingerprint of the pictures, and of what is said about their classes."""
        said = json.dumps({name: list(said) for name, said in self.learner.scene.descriptions.items()}, sort_keys=True)
        digest = hashlib.sha256(said.encode()).hexdigest()[:16] if self.learner.scene.descriptions else ""
        return self.dataset.fingerprint() + digest + (self.unlabelled.fingerprint() if self.unlabelled else "")

    def _metadata(self, commands: list[str]) -> Metadata:
        """Of a learner that is finished without training, and of each epoch but for its number and figures."""
        return Metadata(
            recipe=self.config.recipe,
            backbone=self.backbone.name,
            fingerprint=self.backbone.fingerprint,
            data=self.dataset.fingerprint(),
            settings=self.config.to_tables(),
            classnames=list(self.dataset.classnames),
            epoch=self.config.train.epochs,
            epochs=self.config.train.epochs,
            finished=True,
            packages=packages_of(self.config, self.registry),
            domains=list(self.dataset.domains),
            descriptions={name: list(said) for name, said in self.learner.scene.descriptions.items()},
            commands=commands,
        )

"""One run from its configuration to its folder: read the data, build the learner, train, save after every epoch."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from torch import Tensor

import promptkit
from promptkit import distributed
from promptkit.backbones.base import Backbone
from promptkit.build import build_learner, build_views, load_backbone, pick_device
from promptkit.config import DataSettings, RunConfig
from promptkit.data.features import CachedBatches, cached_features
from promptkit.data.images import Unreadable
from promptkit.data.layouts import Dataset
from promptkit.data.loading import Batches, Loader, train_loader, worker_death_explained
from promptkit.data.opening import open_dataset
from promptkit.data.sources import FeatureSpec, Source
from promptkit.data.splits import class_subset, few_shot, split, subset
from promptkit.errors import ConfigError, DataError
from promptkit.evaluation.evaluate import evaluate
from promptkit.learner import Learner
from promptkit.registry import Registry, installed
from promptkit.training import state
from promptkit.training.checkpoint import WEIGHTS, Metadata, RunFolder, read_metadata
from promptkit.training.profile import Profile
from promptkit.training.progress import TrainingProgress
from promptkit.training.trackers import Trackers
from promptkit.training.trainer import EpochResult, Trainer, start

log = logging.getLogger("promptkit")


def training_data(settings: DataSettings, seed: int, registry: Registry) -> Dataset:
    """The data set of a run, with splits drawn, shots sampled and classes chosen, in that order.

    Raises DataError and UnknownNameError for data that can't be trained on.
    """
    if not settings.path:
        raise ConfigError("there is no data to train on", "say where it is with --data PATH")
    domains = [name.strip() for name in settings.domains.split(",") if name.strip()]
    read = open_dataset(Path(settings.path), registry, settings.dataset, domains, settings.split == "draw")
    log.info("%s: %s", settings.path, read.layout)
    return chosen(read, settings, seed)


def chosen(read: Dataset, settings: DataSettings, seed: int) -> Dataset:
    """What a run takes of a data set that is read already: splits drawn, shots sampled and classes chosen.

    Raises DataError and UnknownNameError for data that can't be trained on.
    """
    dataset = split(read, settings.split_seed)
    if settings.shots:
        dataset, warnings = few_shot(dataset, settings.shots, seed)
        for warning in warnings:
            log.warning(warning)
    return class_subset(dataset, settings.classes)


class Run:
    """A run that is ready to train. Building it checks everything that can be checked before the first step.

    `backbone` and `dataset` are those of the configuration, where many runs share one: `load_backbone` and
    `training_data` make them.
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
    ) -> None:
        registry = registry or installed()
        train = config.train
        if train.epochs < 0 or train.batch_size < 1 or train.cached_views < 0:
            raise ConfigError(
                f"epochs={train.epochs}, batch_size={train.batch_size}, cached_views={train.cached_views}: expected at least 0, 1 and 0"
            )
        if train.cached_views and not cache:
            raise ConfigError(
                "--cached-views keeps features in the cache, and --no-cache wants none", "leave one of the two out"
            )
        self.config = config
        self.cache = cache
        self.dataset = dataset or training_data(config.data, train.seed, registry)
        self.resume = resume
        self.device = distributed.start(train.device) or pick_device(train.device)
        self.trackers = Trackers(train.log, out, state.flat(config.to_tables()))
        self.folder = RunFolder(out, force, resume)
        if resume:
            state.check_settings(out, config)
        self.backbone: Backbone = (backbone or load_backbone(config.backbone, registry)).to(self.device)
        self.learner: Learner = build_learner(config, registry, self.backbone, self.dataset.classnames)
        self.views = build_views(config, registry, self.backbone)
        self.items = subset(self.dataset, "train").items
        self.loader = None if train.cached_views else self._loader()
        self.val = subset(self.dataset, "val")
        self.saved_epoch = 0
        self.reported: set[Path] = set()

    @property
    def trained_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.learner.parameters())

    @worker_death_explained()
    def train(self, console: Console, profile: bool = False, lines: bool = True) -> Metadata:
        """Train to the end, from the beginning or from where the run was stopped.

        What each epoch learned is saved before the next begins. With `profile`, where the time went is printed at the
        end; without `lines`, no epoch leaves one on the console.
        """
        with self.folder.held():
            return self._train(console, profile, lines)

    def _train(self, console: Console, profile: bool, lines: bool) -> Metadata:
        epochs = self.config.train.epochs
        resuming = self.resume and self.folder.state.exists()
        if self.resume and not resuming and (self.folder.path / WEIGHTS).exists():
            metadata = read_metadata(self.folder.path)
            if metadata.finished:
                console.print(f"{self.folder.path} is finished already, after {metadata.epochs} epochs", soft_wrap=True)
                return metadata
        if not resuming:
            start(self.learner, self._loader(shuffle=False))
        fingerprint = self.dataset.fingerprint()
        if not epochs or not self.trained_parameters:
            self.folder.start(self.config)
            self.learner.eval()
            return self._save(epochs, {}, fingerprint)

        batches: Batches = self.loader or self._cached(console)
        watch = Profile(self.learner, batches) if profile else None
        trainer = Trainer(self.learner, watch or batches, self.config.train)
        if resuming:
            state.resume(trainer, self.folder.state, self.config, fingerprint)
            at = trainer.loop
            self.folder.go_on(at.epoch)
            self.saved_epoch = at.epoch - 1
            console.print(f"{self.folder.path}: going on in epoch {at.epoch} after {at.batch} batches", soft_wrap=True)
        else:
            self.folder.start(self.config)

        def save_state() -> None:
            self.folder.save_state(state.pack(trainer, self.config, fingerprint))

        saved = time.monotonic()

        def on_step(terms: Mapping[str, Tensor], images: int) -> None:
            nonlocal saved
            progress.step(terms, images)
            # Several processes would have to agree on the time; they save after every epoch.
            if distributed.processes() == 1 and time.monotonic() - saved > 60 * self.config.train.save_minutes:
                save_state()
                saved = time.monotonic()

        with self.trackers, TrainingProgress(console, epochs, len(self.items), lines) as progress:
            for result in trainer.epochs(on_step):
                if watch:
                    watch.total += result.seconds
                self._report(result.unreadable)
                val_accuracy = self._validate()
                progress.epoch(result, val_accuracy)
                figures = self._log(result, val_accuracy)
                self.trackers.log({**figures, "lr": result.lr, "grad_norm": result.grad_norm}, result.epoch)
                if result.epoch < epochs:  # first, so that a learner that isn't finished never lacks its state
                    save_state()
                    saved = time.monotonic()
                metadata = self._save(result.epoch, figures, fingerprint)
        self.folder.finish()
        if watch:
            console.print(watch.report(), soft_wrap=True)
        return metadata

    def _loader(self, shuffle: bool = True) -> Loader:
        train = self.config.train
        return train_loader(
            self.items,
            self.views,
            batch_size=train.batch_size,
            seed=train.seed,
            workers=None if train.workers < 0 else train.workers,
            pin_memory=self.device.type == "cuda",
            strict=self.config.data.strict,
            max_pixels=self.config.data.max_pixels,
            shuffle=shuffle,
        )

    def _cached(self, console: Console) -> CachedBatches:
        """Raises ConfigError for a learner, or views, whose features can't be kept."""
        train = self.config.train
        spec = FeatureSpec.of(self.learner)
        source = Source.training(
            self.items,
            self.views,
            train.cached_views,
            train.seed,
            workers=None if train.workers < 0 else train.workers,
            strict=self.config.data.strict,
            max_pixels=self.config.data.max_pixels,
        )
        if spec is None or source is None:
            raise ConfigError(
                "what the image tower sees for this learner can't be kept: it depends on what is learned, or on code "
                "that is in no file",
                "train without --cached-views",
            )
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("encoding views", total=train.cached_views * len(self.items))
            if distributed.rank():
                distributed.gather_objects([])  # the first process computes it for all that share its disk
            (cached,) = cached_features(source, [spec], lambda images: progress.advance(task, images))
            if not distributed.rank():
                distributed.gather_objects([])
        return CachedBatches(cached, self.items, train.batch_size, train.seed)

    def _validate(self) -> float | None:
        """Accuracy over the val split, or None where there is none."""
        if not self.val.items:
            return None
        try:
            found = evaluate(
                {"": self.learner},
                self.val,
                workers=0,
                max_pixels=self.config.data.max_pixels,
                cache=self.cache,
            )
        except DataError:
            return None
        self._report(found.unreadable)
        scores = found.scores[""].values()
        return sum(score.accuracy * score.n for score in scores) / sum(score.n for score in scores)

    def _log(self, result: EpochResult, val_accuracy: float | None) -> dict[str, float]:
        figures = dict(result.terms)
        if val_accuracy is not None:
            figures["val_accuracy"] = val_accuracy
        self.folder.log(
            {
                "epoch": result.epoch,
                "lr": result.lr,
                **figures,
                "grad_norm": result.grad_norm,
                "images": result.images,
                "unreadable": result.left_out,
                "seconds": round(result.seconds, 3),
            }
        )
        return figures

    def _save(self, epoch: int, figures: dict[str, float], data: str) -> Metadata:
        metadata = Metadata(
            recipe=self.config.recipe,
            backbone=self.backbone.name,
            fingerprint=self.backbone.fingerprint,
            data=data,
            classnames=list(self.dataset.classnames),
            epoch=epoch,
            epochs=self.config.train.epochs,
            version=promptkit.__version__,
            figures=figures,
        )
        self.folder.save(self.learner, metadata)
        self.saved_epoch = epoch
        return metadata

    def _report(self, unreadable: Sequence[Unreadable]) -> None:
        fresh = [image for image in unreadable if image.path not in self.reported]
        self.reported |= {image.path for image in fresh}
        warn_unreadable(fresh)


def warn_unreadable(images: Sequence[Unreadable], listed: int = 5) -> None:
    """One counted warning with the first few names."""
    if images:
        names = "; ".join(f"{image.path} ({image.reason})" for image in images[:listed])
        more = f"; and {len(images) - listed} more" if len(images) > listed else ""
        count = "1 picture" if len(images) == 1 else f"{len(images)} pictures"
        log.warning("%s left out: %s%s", count, names, more)

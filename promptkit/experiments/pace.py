"""How fast a learner is before it has run: a few steps of it, on its own images, with nothing written or left behind."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice

import torch

from promptkit.backbones.base import Backbone, FeatureSpec
from promptkit.build import build_learner, build_views, training_scene
from promptkit.components import Views
from promptkit.data.loading import Batches, Loaded, default_workers, eval_loader
from promptkit.data.selection import subset
from promptkit.experiments.plan import Training
from promptkit.features.sources import is_cacheable
from promptkit.learner import Learner
from promptkit.registry import Registry
from promptkit.settings import LoaderSettings, TrainSettings
from promptkit.tensors import Batch, NoPixels
from promptkit.training.batches import image_batches
from promptkit.training.callbacks import Callback
from promptkit.training.trainer import Trainer

STEPS = 3
"""Of which the first, which starts workers and fills caches, is not counted."""

Clock = Callable[[], float]


@dataclass(frozen=True)
class Pace:
    """Seconds that a learner takes."""

    step: float | None
    """Of training, for an image; None where it trains on cached views, which is another matter."""
    encode: float
    """For an image that is tested and has no cached features."""
    classes: float
    """For each class of a test, before its first image."""
    predict: float
    """For an image that is tested, and each class."""
    spec: FeatureSpec | None
    """What it reads of the cache; without, `predict` includes the image tower."""
    views: Views
    """What test pictures are prepared with."""


def measure(
    training: Training, backbone: Backbone, registry: Registry, cache: bool, clock: Clock = time.perf_counter
) -> Pace:
    """Build the learner of a training, and let it take a few steps and classify a batch.

    Raises whatever the learner raises.
    """
    config = training.config
    pictures = subset(training.dataset, "train")
    with _unchanged():
        learner = build_learner(config, registry, training_scene(config, backbone, pictures))
        views = build_views(config, registry, backbone)
        cuda = backbone.device.type == "cuda"
        if type(learner).start is not Learner.start:
            shown = image_batches(config, pictures, views, cuda, shuffle=False)
            learner.eval()
            learner.start(x.batch.to(backbone.device) for x in islice(shown, 1) if x.batch is not None)
        step = None
        if not config.train.epochs or not list(learner.parameters()):
            step = 0.0
        elif not config.train.cached_views:
            step = _seconds_per_image(learner, image_batches(config, pictures, views, cuda), config.train, clock)
        learner.eval()
        return _test(learner, training, step, cache, clock)


class _Few:
    """So many batches of the first epochs as one epoch."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        pass

    def __iter__(self) -> Iterator[Loaded]:
        return islice(chain.from_iterable(map(self._epoch, range(1, STEPS + 1))), STEPS)

    def _epoch(self, epoch: int) -> Batches:
        self.batches.set_epoch(epoch)
        return self.batches


class _Stopwatch(Callback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.times: list[float] = []
        self.images: list[int] = []

    def on_step(self, terms: Mapping[str, float], images: int) -> None:
        self.times.append(self.clock())
        self.images.append(images)


def _seconds_per_image(learner: Learner, batches: Batches, settings: TrainSettings, clock: Clock) -> float | None:
    watch = _Stopwatch(clock)
    Trainer(learner, _Few(batches), replace(settings, epochs=1)).train([watch])
    return (watch.times[-1] - watch.times[0]) / sum(watch.images[1:]) if len(watch.times) > 1 else None


def _test(learner: Learner, training: Training, step: float | None, cache: bool, clock: Clock) -> Pace:
    backbone, n_classes = learner.scene.backbone, len(learner.classnames)
    views = learner.test_views
    few = max(1, LoaderSettings.batch_size // len(views.names))
    items = subset(training.dataset, "train").items[:few]
    loading = LoaderSettings(workers=0, max_pixels=training.config.loading.max_pixels)
    started = clock()
    batch = next(loaded.batch for loaded in eval_loader(items, views, loading) if loaded.batch is not None)
    read = clock() - started
    batch, n = batch.to(backbone.device), len(batch.label)
    spec = learner.required_features() if cache else None
    spec = spec if spec and is_cacheable(spec) else None
    encode = 0.0
    if spec:
        started = clock()
        features = replace(spec.encode(torch.cat(list(batch.views.values()))), views=tuple(batch.views))
        features.pooled.cpu()
        encode = clock() - started
        batch = Batch(NoPixels(), batch.label, features)
    marks = [clock()]
    for _ in range(2):
        learner.predict(batch).cpu()
        marks.append(clock())
    first, predict = marks[1] - marks[0], marks[2] - marks[1]
    wanted = training.config.loading.workers
    workers = default_workers(1000) if wanted < 0 else wanted
    towers = encode if spec else predict
    # Workers read ahead while the tower computes.
    both = max(read / workers, towers) if workers else read + towers
    return Pace(
        step,
        both / n if spec else 0.0,
        max(0.0, first - predict) / n_classes,
        (predict if spec else both) / n / n_classes,
        spec,
        views,
    )


@contextmanager
def _unchanged() -> Iterator[None]:
    """Random numbers and torch's switches are afterwards as they were."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)

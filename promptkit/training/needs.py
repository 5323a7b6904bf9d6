"""What a training asks of a machine, before it runs: memory, disk and time, from a few small passes.

What gradients keep is counted, tensor by tensor, for one picture and a few classes, and grows with both; the text tower's
passes are planned as the training will plan them. `benchmarks/plan.py` holds the estimates against measured peaks.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import torch
from open_clip import IMAGENET_CLASSNAMES
from PIL import Image
from torch import Tensor

from promptkit.backbones.base import Backbone
from promptkit.backbones.passes import HEAP_HOLES
from promptkit.build import build_learner, build_views, training_scene
from promptkit.config import RunConfig
from promptkit.data.layouts import Dataset, Item
from promptkit.data.loading import default_workers, train_loader, trained_on
from promptkit.data.selection import subset
from promptkit.features.sources import is_cacheable, split_parts
from promptkit.learner import Learner
from promptkit.registry import Registry

FEW_CLASSES = 50
FEW_IMAGES = 4
FEW_READ = 8
REPEATS = 3
OPTIMIZER_STATES = {"momentum": 1, "sgd": 1}
"""Tensors that an optimiser keeps of each parameter; others have two."""
WORKING = 1.5
"""What a pass works with, over what one block keeps, as measured."""
OVERHEAD = 15_000_000
"""Bytes of the threads of a backward pass, and of small things, as measured."""
PICTURE = (375, 500)
"""Height and width of a picture that stands for those that are not at hand."""


@dataclass(frozen=True)
class Pieces:
    """What one picture, and the texts of all classes, take, in bytes and seconds."""

    weights: int
    """Of the CLIP, and what is learned."""
    process: int
    """Held by this process, these included."""
    states: int
    """What the optimiser keeps."""
    gradients: int
    late: int
    """Those of prompts, which are there when the towers have let go of what they kept."""
    views: int
    pixels: int
    """Of a picture in all its views."""
    image_kept: int
    """For the backward pass, of one view."""
    image_seconds: float
    """For one view, its backward pass included where it has one."""
    rows: int
    """Prompts of a class."""
    conditional: bool
    """Do the texts of all classes go through the text tower for each view?"""
    text_kept: int
    """For the backward pass, each time."""
    text_seconds: float
    contexts_kept: int
    """For the backward pass, however often: weights in another shape."""
    contexts_seconds: float
    stored: int
    """Of a view's features in the cache; 0 where they can't be kept."""
    read_seconds: float
    """To prepare a picture's views, in one process."""


@dataclass(frozen=True)
class Needs:
    """Of a training in batches of one size."""

    batch: int
    image: int
    """Bytes that the image tower holds at most."""
    text: int
    passes: int
    """That the texts of a step go through the text tower in."""
    peak: int
    """Bytes that the process, or the GPU, holds at most."""
    step: float
    """Seconds, of a step on fresh views."""
    cached_step: float | None
    """The same on cached views; None where there can be none."""
    epoch: float
    cached_epoch: float | None


class Planner:
    """Lets each tower take a few small passes; the rest is arithmetic. Nothing is written or trained.

    Raises what building the learner raises.
    """

    def __init__(self, config: RunConfig, backbone: Backbone, registry: Registry, dataset: Dataset) -> None:
        self.config, self.backbone, self.registry, self.dataset = config, backbone, registry, dataset
        self.pictures = len(subset(dataset, "train").items)
        self.learner = self._built(dataset)
        self.views = build_views(config, registry, backbone)
        self.pieces = self._pieces()

    def needs(self, batch: int, device: torch.device | None = None) -> Needs:
        """Of batches of so many pictures, here or on another kind of device; times are those of this one."""
        piece, backbone = self.pieces, self.backbone
        device = device or backbone.device
        views = batch * piece.views
        texts = views if piece.conditional else 1
        holes = HEAP_HOLES if device.type == "cpu" else 1
        image = int(holes * views * piece.image_kept) or backbone.image_bytes(views, device)
        passes, work, kept = backbone.text_passes(
            texts * piece.rows, self.learner.prompts.class_specific, self.learner.classes, device
        )
        if passes == 1:
            kept = texts * piece.text_kept
        if not work:
            work = int(kept * WORKING / backbone.text_depth)
        kept += piece.contexts_kept
        together = kept + (image + work if piece.image_kept else max(image, work))
        held = piece.process if device.type == "cpu" else piece.weights
        backward = max(together + piece.gradients - piece.late, piece.gradients)
        peak = held + OVERHEAD + piece.states + batch * piece.pixels + backward
        towers, saying = views * piece.image_seconds, texts * piece.text_seconds + piece.contexts_seconds
        reading = batch * piece.read_seconds / max(1, self.workers)
        # Without processes that prepare pictures, the towers wait.
        step = max(towers + saying, reading) if self.workers else towers + saying + reading
        cached = saying if piece.stored else None
        steps = max(1, trained_on(self.pictures, batch) // batch)
        return Needs(batch, image, work + kept, passes, peak, step, cached, steps * step, cached and steps * cached)

    @property
    def workers(self) -> int:
        wanted = self.config.train.workers
        return default_workers(self.pictures) if wanted < 0 else wanted

    @property
    def bank(self) -> int:
        """Bytes of one version of the training pictures' views in the feature cache; 0 where they can't be kept."""
        return self.pictures * self.pieces.views * self.pieces.stored

    @property
    def encoding(self) -> float:
        """Seconds to fill it."""
        piece = self.pieces
        towers, reading = piece.views * piece.image_seconds, piece.read_seconds
        return self.pictures * (max(towers, reading / self.workers) if self.workers else towers + reading)

    def _built(self, dataset: Dataset) -> Learner:
        return build_learner(self.config, self.registry, training_scene(self.config, self.backbone, dataset)).train()

    def _pieces(self) -> Pieces:
        learner, backbone = self.learner, self.backbone
        names = self.dataset.classnames
        spread = names[:: -(-len(names) // FEW_CLASSES)]  # the first may have short names
        few = self._built(replace(self.dataset, classnames=spread))
        scale = len(names) / len(few.classnames)
        pixels = torch.rand(FEW_IMAGES, 3, *backbone.image.size, device=backbone.device)
        constants = [*backbone.parameters(), *backbone.buffers(), *few.parameters(), *few.buffers()]

        def see() -> Tensor:
            return few.encode_image(pixels).pooled

        def say(images: int) -> Callable[[], Tensor]:
            features = seen.rows(torch.arange(images, device=backbone.device))
            return lambda: few.prompts.encode(features, few.classes)

        with torch.no_grad():
            seen = few.encode_image(pixels)
        one, all_ = say(1), say(FEW_IMAGES)
        one()  # constants are computed once
        text, text_kept = kept(one, constants)
        text_seconds, contexts_kept, contexts_seconds = seconds(one), 0, 0.0
        if few.prompts.conditional:
            (_, more_kept), more_seconds = kept(all_, constants), seconds(all_)
            further = FEW_IMAGES - 1
            each_kept, each_seconds = (more_kept - text_kept) // further, (more_seconds - text_seconds) / further
            contexts_kept, contexts_seconds = text_kept - each_kept, max(0.0, text_seconds - each_seconds)
            text_kept, text_seconds = each_kept, each_seconds
        _, image_kept = kept(lambda: few.encode_image(pixels[:1]).pooled, constants)
        spec = few.required_features()
        stored = split_parts(spec, seen).values() if spec and is_cacheable(spec) else ()
        learned = sum(map(size, learner.parameters()))
        beside = [tensor for each in few.parameters() for tensor in (each, each.grad) if tensor is not None]
        return Pieces(
            sum(map(size, (*backbone.parameters(), *backbone.buffers()))) + learned,
            psutil.Process().memory_info().rss - sum(map(size, beside)),
            OPTIMIZER_STATES.get(self.config.train.optimizer, 2) * learned,
            learned,
            sum(map(size, learner.prompts.parameters())),
            len(self.views.names),
            len(self.views.names) * size(pixels[0]),
            image_kept,
            seconds(see) / FEW_IMAGES,
            text.shape[2],
            learner.prompts.conditional,
            int(text_kept * scale),
            text_seconds * scale,
            contexts_kept,
            contexts_seconds,
            sum(map(size, stored)) // FEW_IMAGES,
            self._reading(),
        )

    def _reading(self) -> float:
        """Seconds to prepare a picture's views, in one process."""
        items = subset(self.dataset, "train").items[:FEW_READ]
        loading = replace(self.config.loading, workers=0, batch_size=len(items))
        loader = train_loader(items, self.views, loading, seed=self.config.train.seed, domains=self.dataset.domains)
        best = math.inf
        for _ in range(REPEATS):
            started = time.perf_counter()
            for _ in loader:
                pass
            best = min(best, time.perf_counter() - started)
        return best / len(items)


@contextmanager
def imagined(classes: int, pictures: int) -> Iterator[Dataset]:
    """A data set of so many classes and training pictures, which are all the same one."""
    names = [*IMAGENET_CLASSNAMES, *(f"thing {number}" for number in range(len(IMAGENET_CLASSNAMES), classes))]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "picture.jpg"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*PICTURE, 3), dtype=np.uint8)).save(path)
        items = tuple(Item(path, number % classes, "", "train") for number in range(pictures))
        yield Dataset(Path(folder), "imagined", tuple(names[:classes]), (), items, 0)


def kept(compute: Callable[[], Tensor], constants: Sequence[Tensor]) -> tuple[Tensor, int]:
    """What it computes, and the bytes that are kept for its backward pass, weights and other constants left out."""
    known = {tensor.untyped_storage().data_ptr() for tensor in constants}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        return compute(), sum(sizes.values())


def seconds(compute: Callable[[], Tensor]) -> float:
    """Of computing it, and of its backward pass where it has one: the best of a few."""
    best = math.inf
    for _ in range(REPEATS):
        started = time.perf_counter()
        result = compute()
        if result.requires_grad:
            torch.autograd.backward(result.square().sum())
        result.sum().item()  # a GPU is done, too
        best = min(best, time.perf_counter() - started)
    return best


def size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()

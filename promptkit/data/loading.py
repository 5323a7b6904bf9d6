"""Pictures -> arrays -> batches. What comes out depends on seed, epoch and picture alone, not on the workers."""

import hashlib
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Sampler, SequentialSampler
from torch.utils.data import Dataset as TorchDataset

from promptkit import distributed
from promptkit.components import Views
from promptkit.data.images import Unreadable, try_image
from promptkit.data.layouts import Item
from promptkit.errors import ConfigError, DataError, WorkerError
from promptkit.settings import MAX_PIXELS, LoaderSettings
from promptkit.tensors import Batch

WORTH_WORKERS = 64
"""Below so many pictures, starting workers takes longer than the loading."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture in all its views (3 H W, float32), and where it stands among the items."""

    views: Mapping[str, Tensor]
    label: int
    index: int


@dataclass(frozen=True, eq=False)
class Loaded:
    """A batch (None if not one picture was readable), its places among the items, and what had to be left out."""

    batch: Batch | None
    index: Int[Tensor, " B"]
    unreadable: tuple[Unreadable, ...]

    def pin_memory(self) -> "Loaded":
        """Called by the DataLoader, which can't look into dataclasses."""
        if self.batch is None:
            return self
        views = {name: pixels.pin_memory() for name, pixels in self.batch.views.items()}
        return replace(self, batch=replace(self.batch, views=views, label=self.batch.label.pin_memory()))


def collate(samples: Sequence[Sample | Unreadable]) -> Loaded:
    """Stack what is readable, carry along what is not."""
    unreadable = tuple(sample for sample in samples if isinstance(sample, Unreadable))
    readable = [sample for sample in samples if isinstance(sample, Sample)]
    index = torch.tensor([sample.index for sample in readable], dtype=torch.int64)
    if not readable:
        return Loaded(None, index, unreadable)
    views = {name: torch.stack([sample.views[name] for sample in readable]) for name in readable[0].views}
    return Loaded(Batch(views, torch.tensor([sample.label for sample in readable])), index, unreadable)


class Batches(Protocol):
    """What training runs over: epochs of `Loaded`, from any batch on."""

    def set_epoch(self, epoch: int, skip: int = 0) -> None: ...

    def __iter__(self) -> Iterator[Loaded]: ...


class TrainingImages(TorchDataset[Sample | Unreadable]):
    """Pictures in random views. The key is (epoch, index): workers outlive an epoch, so an attribute wouldn't do."""

    def __init__(self, items: Sequence[Item], views: Views, seed: int, max_pixels: int = MAX_PIXELS) -> None:
        self.items = items
        self.views = views
        self.seed = seed
        self.max_pixels = max_pixels
        # With 4 times the tower's size, even a crop of 8 % of the area is rarely enlarged.
        self.min_side = 2 * max(views.image.size)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> Sample | Unreadable:
        epoch, index = key
        item = self.items[index]
        image = try_image(item.path, self.min_side, self.max_pixels)
        if isinstance(image, Unreadable):
            return image
        made = make_views(self.views, image, np.random.default_rng((self.seed, epoch, index)))
        return Sample(made, item.label, index)


class EvaluationImages(TorchDataset[Sample | Unreadable]):
    """Pictures in views that depend on seed and picture alone, whatever its place and path."""

    def __init__(self, items: Sequence[Item], views: Views, seed: int, max_pixels: int = MAX_PIXELS) -> None:
        self.items = items
        self.views = views
        self.seed = seed
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample | Unreadable:
        item = self.items[index]
        image = try_image(item.path, max_pixels=self.max_pixels)
        if isinstance(image, Unreadable):
            return image
        return Sample(views_to_test(self.views, image, self.seed), item.label, index)


def views_to_test(views: Views, image: np.ndarray, seed: int) -> dict[str, Tensor]:
    """The views of a picture to predict from, each (3 H W)."""
    drawn = int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8).digest()) if views.draws else 0
    return make_views(views, image, np.random.default_rng((seed, drawn)))


def make_views(views: Views, image: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
    """What views make of a picture, each (3 H W). Raises RuntimeError where they raise SystemExit."""
    try:
        made = views(image, rng)
    except SystemExit as error:  # it would end a worker, or the program, without a word
        raise RuntimeError(f"{type(views).__name__} raised SystemExit") from error
    return {name: torch.from_numpy(np.ascontiguousarray(pixels)) for name, pixels in made.items()}


class EpochSampler(Sampler[tuple[int, int]]):
    """(epoch, index) in an order that is a function of seed and epoch, or in the order of the items."""

    def __init__(self, length: int, seed: int, shuffle: bool = True, total: int | None = None) -> None:
        """`total` says how many an epoch has; where that is more than there are, they come again in another order."""
        self.length = length
        self.total = length if total is None else total
        self.seed = seed
        self.shuffle = shuffle
        self.only: Sequence[int] = range(length)
        """Without shuffling: these indices, in this order."""
        self.epoch = 0
        self.skip = 0
        """Pictures at the beginning of the epoch that are done already."""

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if not self.shuffle:
            yield from ((self.epoch, index) for index in self.only)
            return
        rounds = -(-self.total // self.length)
        order = [index for number in range(rounds) for index in self._order(number)]
        for index in order[self.skip : self.total]:
            yield self.epoch, index

    def _order(self, number: int) -> list[int]:
        """Of a round of an epoch."""
        mixed = np.random.SeedSequence((self.seed, self.epoch, *([number] if number else []))).generate_state(
            1, np.uint64
        )
        order: list[int] = torch.randperm(self.length, generator=torch.Generator().manual_seed(int(mixed[0]))).tolist()
        return order


class Loader(DataLoader[Sample | Unreadable]):
    """A DataLoader of pictures; iterating gives `Loaded`. Built by `train_loader` and `eval_loader`.

    With `strict`, iterating raises DataError at the first unreadable picture.
    """

    def __init__(
        self,
        images: TrainingImages | EvaluationImages,
        settings: LoaderSettings,
        pin_memory: bool = False,
        sampler: EpochSampler | None = None,
        domains: Sequence[str] = (),
    ) -> None:
        if not len(images):
            raise DataError("there are no pictures to load", "does the data have this split, and these classes?")
        workers = default_workers(len(images)) if settings.workers < 0 else settings.workers
        self.images = images
        self.images_per_batch = settings.batch_size
        self.strict = settings.strict
        self.epochs = sampler
        self.domain = domain_labels(images.items, domains)
        with _quiet():
            super().__init__(
                images,
                batch_sampler=share(
                    sampler or SequentialSampler(images),
                    settings.batch_size,
                    shuffled=sampler is not None and sampler.shuffle,
                ),
                num_workers=workers,
                collate_fn=collate,
                pin_memory=pin_memory,
                worker_init_fn=_start_worker,
                # Otherwise every iteration would draw from torch's global generator.
                generator=torch.Generator().manual_seed(0),
                persistent_workers=sampler is not None and workers > 0,
            )

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Choose the order and the random views of the next iteration, and how many of its batches are done already."""
        if self.epochs is not None:
            self.epochs.epoch = epoch
            self.epochs.skip = skip * self.images_per_batch

    def __iter__(self) -> Iterator[Loaded]:  # type: ignore[override]
        try:
            with _quiet():
                batches = super().__iter__()
        except OSError as error:
            raise WorkerError(
                f"{self.num_workers} processes to prepare pictures can't be started: {error.strerror or error}",
                "a smaller --workers takes less of the machine; --workers 0 takes none",
            ) from None
        for loaded in batches:
            if self.strict and loaded.unreadable:
                # Not in the worker: torch would print its trace into the message.
                first = loaded.unreadable[0]
                raise DataError(
                    f"{first.path} can't be read: {first.reason}", "unless loading is strict, it is left out"
                )
            if loaded.batch is not None and self.epochs is not None:
                batch = replace(loaded.batch, domain=self.domain[loaded.index], index=loaded.index)
                loaded = replace(loaded, batch=batch)
            yield loaded


def domain_labels(items: Sequence[Item], domains: Sequence[str]) -> Int[Tensor, " N"]:
    """Each item's place in the domains; -1 for one that is in none of them."""
    places = {name: place for place, name in enumerate(domains)}
    return torch.tensor([places.get(item.domain, -1) for item in items], dtype=torch.int64)


def trained_on(images: int, batch_size: int) -> int:
    """How many images an epoch trains on: a last short batch is dropped when there are at least `batch_size`."""
    return images - images % batch_size if images >= batch_size else images


def share(sampler: Sampler[Any], batch_size: int, shuffled: bool) -> Sampler[list[Any]]:
    """Batches of the sampler; in one of several processes, this one's part of each training batch.

    Raises ConfigError when the processes can't have equal parts.
    """
    images = len(sampler)  # type: ignore[arg-type]
    batches = BatchSampler(sampler, batch_size, drop_last=shuffled and trained_on(images, batch_size) < images)
    n = distributed.processes()
    if n == 1 or not shuffled:
        return batches
    if batch_size % n:
        raise ConfigError(f"a batch of {batch_size} pictures can't be split evenly over {n} processes")
    from accelerate.data_loader import BatchSamplerShard

    shard: Sampler[list[Any]] = BatchSamplerShard(batches, n, distributed.rank(), split_batches=True)
    return shard


def train_loader(
    items: Sequence[Item],
    views: Views,
    settings: LoaderSettings,
    *,
    seed: int,
    pin_memory: bool = False,
    shuffle: bool = True,
    domains: Sequence[str] = (),
    total: int | None = None,
) -> Loader:
    """Shuffled batches of random views, the same for the same seed (not negative) and epoch (`Loader.set_epoch`).

    A last short batch is dropped when there are at least `batch_size` images, as the published code does. Without
    `shuffle` every process gets every image once, in the order of the items. `Batch.domain` counts in `domains`; an epoch
    has `total` images, where that is given. Raises DataError when there are no items.
    """
    images = TrainingImages(items, views, seed, settings.max_pixels)
    return Loader(images, settings, pin_memory, EpochSampler(len(items), seed, shuffle, total), domains)


def eval_loader(
    items: Sequence[Item], views: Views, settings: LoaderSettings, *, seed: int = 1, pin_memory: bool = False
) -> Loader:
    """Every item once, in order, in views drawn from the seed; `settings.batch_size` counts the views.

    Raises DataError when there are no items.
    """
    few = replace(settings, batch_size=max(1, settings.batch_size // len(views.names)))
    return Loader(EvaluationImages(items, views, seed, settings.max_pixels), few, pin_memory)


def default_workers(images: int) -> int:
    """One worker per CPU that this process may use, at most 8; none for a handful of pictures."""
    if images < WORTH_WORKERS:
        return 0
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cpus, 8)


def _start_worker(worker: int) -> None:
    import cv2

    # Ctrl-C is the main process's to report; it then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _ignore_lost_main
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _ignore_lost_main(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The thread that hands out a worker's tensors prints a trace when the main process hangs up in mid-sentence."""
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


@contextmanager
def worker_death_explained() -> Iterator[None]:
    """Raises WorkerError where torch says that a data worker died.

    For whatever happens between the batches as well: torch raises in its handler of the signal, at any line.
    """
    try:
        yield
    except RuntimeError as error:
        found = re.search(r"DataLoader worker \(pid\D*([\d, ]+)\)(?: is killed by signal: (\w+))?", str(error))
        if not found:
            raise
        how = f", killed ({found[2]})" if found[2] else ""
        raise WorkerError(
            f"a process that prepared pictures (pid {found[1]}) died{how}",
            "if memory ran out, use fewer --workers; --workers 0 has none and shows the picture's own error",
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than CPUs: the caller's choice
        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)  # the workers touch none of torch's threads
        yield

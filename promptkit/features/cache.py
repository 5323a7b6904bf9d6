"""What a frozen image tower sees of images: read from the feature store, and computed where that has nothing yet."""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from promptkit.backbones.base import FeatureSpec
from promptkit.data.images import Unreadable
from promptkit.data.layouts import Dataset
from promptkit.data.loading import EpochSampler, Loaded, domain_labels, share
from promptkit.errors import DataError, OutputError
from promptkit.features.folder import feature_folder
from promptkit.features.shards import format_bytes
from promptkit.features.sources import Source, parts_of, split_parts
from promptkit.features.store import FeatureStore, Rows
from promptkit.tensors import Batch, ImageFeatures, NoPixels

log = logging.getLogger("promptkit")

LARGE = 100_000_000
"""Bytes that are not written without a word."""

Stores = dict[tuple[str, int], FeatureStore]
"""By part and version."""


@dataclass(frozen=True, eq=False)
class CachedFeatures:
    """Features of N images, K versions of V views each, on the disk."""

    rows: Sequence[Mapping[str, Rows]]
    """For each version the rows of each part, (N V ...)."""
    views: tuple[str, ...]
    readable: Tensor
    """(N) bool"""
    unreadable: tuple[Unreadable, ...]

    @property
    def versions(self) -> int:
        return len(self.rows)

    def features(self, index: Tensor, version: int = 0) -> ImageFeatures:
        """Of some of the images, which are readable, the views concatenated."""
        parts = {name: rows.read(index).transpose(0, 1).flatten(0, 1) for name, rows in self.rows[version].items()}
        intermediates = parts["intermediates"].unbind(1) if "intermediates" in parts else ()
        return ImageFeatures(parts["pooled"], parts.get("patches"), tuple(intermediates), self.views)


def cached_features(
    source: Source, specs: Sequence[FeatureSpec], on_batch: Callable[[int], None] = lambda images: None
) -> list[CachedFeatures]:
    """The features of each spec: from the disk, and what is not there computed, for all specs in one pass over images.

    `on_batch` hears of every version of every image, as it is encoded or at once. Raises OutputError when features
    can't be kept; with a strict source DataError at the first unreadable image.
    """
    images = source.digests()
    opened, needed, wanted = _open(source, images, specs)
    on_batch(source.versions * len(images) - sum(map(len, wanted.values())))
    if specs and wanted:
        try:
            _fill(source, images, dict(sorted(wanted.items())), list(zip(specs, needed, strict=True)), on_batch)
            for store in opened.values():
                store.flush()
        finally:
            for store in opened.values():
                store.abandon()
    reasons = {image: reason for store in opened.values() for image, reason in store.unreadable.items()}
    unreadable = [
        Unreadable(item.path, reasons[image])
        for item, image in zip(source.items, images, strict=True)
        if image in reasons
    ]
    if source.strict and unreadable:
        raise DataError(
            f"{unreadable[0].path} can't be read: {unreadable[0].reason}", "unless loading is strict, it is left out"
        )
    readable = torch.tensor([image not in reasons for image in images])
    return [
        CachedFeatures(
            [{part: stores[part, k].located(images) for part in parts_of(spec)} for k in range(source.versions)],
            source.views,
            readable,
            tuple(unreadable),
        )
        for spec, stores in zip(specs, needed, strict=True)
    ]


def count_missing(source: Source, specs: Sequence[FeatureSpec]) -> int:
    """How many images `cached_features` would have to encode, those of each version."""
    _, _, wanted = _open(source, source.digests(), specs)
    return sum(map(len, wanted.values()))


def _open(
    source: Source, images: Sequence[bytes], specs: Sequence[FeatureSpec]
) -> tuple[dict[str, FeatureStore], list[Stores], dict[int, list[int]]]:
    """The stores by the digest of their keys, those of each spec, and which images of each version have no features."""
    opened: dict[str, FeatureStore] = {}
    needed: list[Stores] = []
    for spec in specs:
        keys = {(part, k): source.key(spec, part, k) for part in parts_of(spec) for k in range(source.versions)}
        needed.append({place: opened.setdefault(key.digest, FeatureStore(key)) for place, key in keys.items()})
    missing = {digest: store.missing(images) for digest, store in opened.items()}
    wanted: dict[int, list[int]] = {}
    for stores in needed:
        for (_, version), store in stores.items():
            places = {*wanted.get(version, ()), *missing[store.key.digest]}
            if places:
                wanted[version] = sorted(places)
    return opened, needed, wanted


def _fill(
    source: Source,
    images: Sequence[bytes],
    wanted: Mapping[int, Sequence[int]],
    specs: Sequence[tuple[FeatureSpec, Stores]],
    on_batch: Callable[[int], None],
) -> None:
    announced = False
    for version, batch, loaded in source.load(wanted):
        reasons = {image.path: image.reason for image in loaded.unreadable}
        kept = loaded.index.tolist()
        gone = {images[i]: reasons[source.items[i].path] for i in sorted({*batch}.difference(kept))}
        rows: dict[str, tuple[FeatureStore, np.ndarray]] = {}
        digests = [images[i] for i in batch]
        for spec, stores in specs:
            of_version = {part: stores[part, version] for part in parts_of(spec)}
            wanting = {part: store for part, store in of_version.items() if not store.has_all(digests)}
            if all(store.key.digest in rows for store in wanting.values()):
                continue
            if loaded.batch is None:
                rows |= {store.key.digest: (store, np.empty((0, 0), np.float32)) for store in wanting.values()}
                continue
            pixels = torch.cat([loaded.batch.views[name] for name in source.views])
            seen = split_parts(spec, spec.encode(pixels))
            for part, store in wanting.items():
                array = seen[part].float().cpu().numpy()
                array = array.reshape(len(source.views), len(kept), *array.shape[1:]).swapaxes(0, 1)
                rows.setdefault(store.key.digest, (store, array))
        if not announced and loaded.batch is not None:
            size = sum(array.nbytes for _, array in rows.values()) // len(kept) * sum(map(len, wanted.values()))
            _announce(len({i for places in wanted.values() for i in places}), size)
            announced = True
        for store, array in rows.values():
            store.put([images[i] for i in kept], array, gone)
        on_batch(len(batch))


def _announce(count: int, size: int) -> None:
    """Raises OutputError when there is no room."""
    folder = feature_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise OutputError(
            f"features can't be kept in {folder}: {error.strerror or error}", "PROMPTKIT_CACHE names another folder"
        ) from None
    if size > 0.95 * free:
        raise OutputError(
            f"features of {count} pictures take {format_bytes(size)}, and {folder} has {format_bytes(free)} left",
            "promptkit cache clear makes room; PROMPTKIT_CACHE names another folder",
        )
    level = logging.INFO if size >= LARGE else logging.DEBUG
    log.log(level, "keeping the features of %d pictures: %s in %s", count, format_bytes(size), folder)


class CachedBatches:
    """Batches for training, as `train_loader` would make them, of features in place of pixels.

    Epoch e reads version (e - 1) mod K: with K epochs or fewer, the views are those of a run without a cache.
    """

    def __init__(self, cached: CachedFeatures, dataset: Dataset, batch_size: int, seed: int) -> None:
        self.cached = cached
        self.items = items = dataset.items
        self.batch_size = batch_size
        self.epochs = EpochSampler(len(items), seed)
        self.order = share(self.epochs, batch_size, shuffled=True)
        self.label = torch.tensor([item.label for item in items])
        self.domain = domain_labels(items, dataset.domains)

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        self.epochs.epoch = epoch
        self.epochs.skip = skip * self.batch_size

    def __iter__(self) -> Iterator[Loaded]:
        reasons = {image.path: image for image in self.cached.unreadable}
        for keys in self.order:
            index = torch.tensor([index for _, index in keys])
            good = self.cached.readable[index]
            gone = tuple(reasons[self.items[i].path] for i in index[~good].tolist())
            kept = index[good]
            batch = None
            if len(kept):
                features = self.cached.features(kept, (self.epochs.epoch - 1) % self.cached.versions)
                batch = Batch(NoPixels(), self.label[kept], features, self.domain[kept], kept)
            yield Loaded(batch, kept, gone)

"""The feature cache: what a frozen image tower sees in a picture is computed once, and read from the disk ever after.

A cache is a file in the cache folder, named by the key of its sources (`promptkit.data.sources`). Change anything that it
depends on, and the cache is another file; a stale one can't be read.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from promptkit.backbones.base import FeatureSpec
from promptkit.data.cachefile import (
    SUFFIX,
    CacheContent,
    CacheWriter,
    DamagedCacheError,
    Field,
    format_bytes,
    read_cache,
)
from promptkit.data.images import Unreadable
from promptkit.data.layouts import Item
from promptkit.data.loading import EpochSampler, Loaded, share
from promptkit.data.sources import Source, cache_key
from promptkit.errors import DataError
from promptkit.tensors import Batch, ImageFeatures, NoPixels

log = logging.getLogger("promptkit")

LARGE = 100_000_000
"""Bytes that are not written without a word."""


def cache_folder() -> Path:
    """$PROMPTKIT_CACHE, or where the platform keeps a user's caches."""
    if chosen := os.environ.get("PROMPTKIT_CACHE"):
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/promptkit"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "promptkit"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "promptkit"


def cached() -> list[tuple[Path, int]]:
    """Every file that a cache left in the cache folder, half-written ones too, with its size; the largest first."""
    sizes = []
    for path in (cache_folder() / "features").glob(f"*{SUFFIX}*"):
        with contextlib.suppress(OSError):  # another process may have moved it
            sizes.append((path, path.stat().st_size))
    return sorted(sizes, key=lambda file: -file[1])


@dataclass(frozen=True, eq=False)
class CachedFeatures:
    """Features of N pictures, K versions of V views each."""

    pooled: Tensor
    """(K V N D)"""
    patches: Tensor | None
    intermediates: tuple[Tensor, ...]
    views: tuple[str, ...]
    readable: Tensor
    """(N) bool"""
    unreadable: tuple[Unreadable, ...]

    @property
    def versions(self) -> int:
        return len(self.pooled)

    def features(self, index: Tensor, version: int = 0) -> ImageFeatures:
        """Of some of the pictures, the views concatenated."""

        def pick(stored: Tensor) -> Tensor:
            return stored[version][:, index].flatten(0, 1)

        patches = None if self.patches is None else pick(self.patches)
        return ImageFeatures(pick(self.pooled), patches, tuple(map(pick, self.intermediates)), self.views)


def cached_features(
    source: Source, spec: Sequence[FeatureSpec], on_batch: Callable[[int], None] = lambda images: None
) -> list[CachedFeatures]:
    """A cache for each of `reads`: from the disk, or computed, all of them in one pass over the pictures.

    `on_batch` hears of every version of every picture, as it is encoded or at once. Raises OutputError when a cache
    can't be kept; with a strict source DataError at the first unreadable picture.
    """
    folder = cache_folder() / "features"
    paths = [folder / (cache_key(source, one) + SUFFIX) for one in spec]
    found = [_open(path, source) for path in paths]
    missing = [i for i, cached in enumerate(found) if cached is None]
    if missing:
        _build(source, [(paths[i], spec[i]) for i in missing], on_batch)
        for i in missing:
            found[i] = _open(paths[i], source)
    else:
        on_batch(source.versions * len(source.items))
    opened = [cached for cached in found if cached is not None]
    assert len(opened) == len(spec)
    if source.strict and opened and (unreadable := opened[0].unreadable):
        raise DataError(
            f"{unreadable[0].path} can't be read: {unreadable[0].reason}", "unless loading is strict, it is left out"
        )
    return opened


def _open(path: Path, source: Source) -> CachedFeatures | None:
    try:
        status = path.stat()
    except OSError:
        return None
    lead = source.versions, len(source.views), len(source.items)
    try:
        content = _read(path, lead, status.st_ino, status.st_mtime_ns)
    except DamagedCacheError as error:
        log.warning("the feature cache %s is damaged (%s); it is computed again", path, error)
        return None
    fields = content.fields
    return CachedFeatures(
        fields.get("pooled", torch.empty(*lead, 0)),
        fields.get("patches"),
        tuple(fields[f"intermediates.{i}"] for i in range(sum(name.startswith("intermediates.") for name in fields))),
        source.views,
        content.readable,
        tuple(Unreadable(Path(path), reason) for path, reason in content.unreadable),
    )


@lru_cache(maxsize=16)
def _read(path: Path, lead: tuple[int, int, int], inode: int, modified: int) -> CacheContent:
    """Checked once in a process, however many epochs read it."""
    return read_cache(path, lead)


def _build(source: Source, wanted: Sequence[tuple[Path, FeatureSpec]], on_batch: Callable[[int], None]) -> None:
    loader = source.loader()
    lead = source.versions, len(source.views), len(source.items)
    writers: list[CacheWriter] = []
    unreadable: dict[str, str] = {}
    readable = np.ones(len(source.items), dtype=np.uint8)
    try:
        for number in range(source.versions):
            loader.set_epoch(number + 1)
            first = 0
            for loaded in loader:
                count = len(loaded.index) + len(loaded.unreadable)
                unreadable |= {str(image.path): image.reason for image in loaded.unreadable}
                gone = np.ones(count, dtype=bool)
                gone[loaded.index.numpy() - first] = False
                readable[first : first + count][gone] = 0
                if loaded.batch is not None:
                    pixels = torch.cat([loaded.batch.views[name] for name in source.views])
                    seen = [_arrays(spec.encode(pixels), len(source.views), ~gone) for _, spec in wanted]
                    if not writers:
                        writers += _writers(source, wanted, seen, lead)
                    for writer, arrays in zip(writers, seen, strict=True):
                        for name, rows in arrays.items():
                            for view in range(len(source.views)):
                                writer.put(name, number, view, first, rows[view])
                first += count
                on_batch(count)
        for writer in writers or _writers(source, wanted, [{} for _ in wanted], lead):
            writer.readable = readable
            writer.finish(list(unreadable.items()))
    finally:
        for writer in writers:
            writer.abandon()


def _writers(
    source: Source,
    wanted: Sequence[tuple[Path, FeatureSpec]],
    seen: Sequence[dict[str, np.ndarray]],
    lead: tuple[int, int, int],
) -> list[CacheWriter]:
    writers = []
    for (path, spec), arrays in zip(wanted, seen, strict=True):
        about = {
            "backbone": f"{spec.backbone.name} ({spec.backbone.weights})",
            "images": len(source.items),
            "views": "evaluation" if source.made["views"] == "evaluation" else ", ".join(source.views),
            "versions": source.versions,
            "folder": os.path.commonpath([item.path.absolute().parent for item in source.items]),
        }
        writer = CacheWriter(path, about, {name: Field(rows.shape[2:]) for name, rows in arrays.items()}, lead)
        level = logging.INFO if writer.size >= LARGE else logging.DEBUG
        log.log(level, "keeping the features of %d pictures: %s in %s", lead[2], format_bytes(writer.size), path.parent)
        writer.open()
        writers.append(writer)
    return writers


def _arrays(features: ImageFeatures, views: int, readable: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor as (views, pictures, ...), with empty rows for what was not readable."""
    tensors = {
        "pooled": features.pooled,
        **{f"intermediates.{i}": intermediate for i, intermediate in enumerate(features.intermediates)},
    }
    if features.patches is not None:
        tensors["patches"] = features.patches
    arrays = {}
    for name, tensor in tensors.items():
        rows = tensor.float().cpu().numpy().reshape(views, -1, *tensor.shape[1:])
        arrays[name] = np.zeros((views, len(readable), *rows.shape[2:]), dtype=np.float32)
        arrays[name][:, readable] = rows
    return arrays


class CachedBatches:
    """Batches for training, as `train_loader` would make them, of features in place of pixels.

    Epoch e reads version (e - 1) mod K: with K epochs or fewer, the views are those of a run without a cache.
    """

    def __init__(self, cached: CachedFeatures, items: Sequence[Item], batch_size: int, seed: int) -> None:
        self.cached = cached
        self.items = items
        self.batch_size = batch_size
        self.epochs = EpochSampler(len(items), seed)
        self.order = share(self.epochs, batch_size, shuffled=True)
        self.label = torch.tensor([item.label for item in items])

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
                batch = Batch(NoPixels(), self.label[kept], features)
            yield Loaded(batch, kept, gone)

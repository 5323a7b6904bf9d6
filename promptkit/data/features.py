"""The feature bank: what a frozen image tower sees in a picture is computed once, and read from the disk ever after.

A bank is a file in the cache folder, named by a hash of everything that its content depends on: the backbone's weights
and arithmetic, what is read of its blocks, how the views are made and from which seed, the code that does it, and path,
size and times of every picture. Change any of these, and the bank is another file; a stale one can't be read.
"""

import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from promptkit.backbones.base import Backbone, ImageSpec, Taps
from promptkit.components import Views
from promptkit.data.bankfile import SUFFIX, BankWriter, DamagedBankError, Field, in_words, read_bank
from promptkit.data.layouts import Item
from promptkit.data.loading import (
    MAX_PIXELS,
    EpochSampler,
    Loaded,
    Loader,
    Unreadable,
    eval_loader,
    share,
    train_loader,
)
from promptkit.errors import DataError
from promptkit.learner import Learner
from promptkit.tensors import Batch, ImageFeatures

log = logging.getLogger("promptkit")

FORMAT = 1
LIBRARIES = (
    "torch", "open_clip_torch", "timm", "numpy", "pillow", "albumentations", "opencv-python", "opencv-python-headless",
)  # fmt: skip


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
    """Every file that a bank left in the cache folder, half-written ones too, with its size; the largest first."""
    sizes = [(path, path.stat().st_size) for path in (cache_folder() / "features").glob(f"*{SUFFIX}*")]
    return sorted(sizes, key=lambda file: -file[1])


@dataclass(frozen=True)
class Reads:
    """What a learner reads of the image tower, when that does not depend on the learner itself."""

    backbone: Backbone
    taps: Taps | None
    patches: bool

    @staticmethod
    def of(learner: Learner) -> "Reads | None":
        """None for vision prompts, for a learner that encodes images in its own way, and for taps without a name."""
        own = type(learner).encode_image is not Learner.encode_image or type(learner).forward is not Learner.forward
        taps = learner.prompts.taps()
        if own or learner.prompts.vision() is not None or (taps and _code(taps.reduce) is None):
            return None
        return Reads(learner.scene.backbone, taps, learner.reads_patches)

    def serves(self, other: "Reads") -> bool:
        """Does this hold all that `other` asks for?"""
        same = self.backbone is other.backbone and other.taps in (None, self.taps)
        return same and self.patches >= other.patches

    def encode(self, pixels: Tensor) -> ImageFeatures:
        device = self.backbone.logit_scale.device
        return self.backbone.encode_image(pixels.to(device, non_blocking=True), None, self.taps, self.patches)

    def key(self) -> dict[str, Any]:
        taps = self.taps and [_code(self.taps.reduce), self.taps.blocks and list(self.taps.blocks)]
        arithmetic = [str(self.backbone.image_dtype), self.backbone.logit_scale.device.type]
        return {"weights": self.backbone.fingerprint, "taps": taps, "patches": self.patches, "arithmetic": arithmetic}


@dataclass(frozen=True)
class Source:
    """The pictures of a bank, and how their views come about (`made`, part of the key)."""

    items: Sequence[Item]
    made: dict[str, Any]
    loader: Callable[[], Loader]
    strict: bool
    views: tuple[str, ...] = ("image",)
    versions: int = 1

    @staticmethod
    def evaluation(
        items: Sequence[Item],
        image: ImageSpec,
        batch_size: int = 64,
        workers: int | None = None,
        strict: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> "Source":
        def loader() -> Loader:
            return eval_loader(
                items, image, batch_size=batch_size, workers=workers, strict=strict, max_pixels=max_pixels
            )

        made = {"views": "evaluation", "image": asdict(image), "max_pixels": max_pixels}
        return Source(items, made, loader, strict)

    @staticmethod
    def training(
        items: Sequence[Item],
        views: Views,
        versions: int,
        seed: int,
        batch_size: int = 64,
        workers: int | None = None,
        strict: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> "Source | None":
        """Version k holds the views of epoch k + 1. None for views whose code is in no file."""
        code = _code(type(views))
        if code is None:
            return None

        def loader() -> Loader:
            return train_loader(
                items, views, batch_size=batch_size, seed=seed, workers=workers, strict=strict, max_pixels=max_pixels,
                shuffle=False,
            )  # fmt: skip

        made = {
            "views": code,
            "options": repr(views.options),
            "image": asdict(views.image),
            "seed": seed,
            "max_pixels": max_pixels,
        }
        return Source(items, made, loader, strict, tuple(views.names), versions)

    def key(self) -> dict[str, Any]:
        return {"made": self.made, "names": self.views, "versions": self.versions, "files": _files(self.items)}


@dataclass(frozen=True, eq=False)
class Bank:
    """Features of N pictures, K versions of V views each."""

    pooled: Tensor
    """(K V N D)"""
    patches: Tensor | None
    taps: tuple[Tensor, ...]
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
        return ImageFeatures(pick(self.pooled), patches, tuple(map(pick, self.taps)), self.views)


def banks(
    source: Source, reads: Sequence[Reads], on_batch: Callable[[int], None] = lambda pictures: None
) -> list[Bank]:
    """A bank for each of `reads`: from the disk, or computed, all of them in one pass over the pictures.

    `on_batch` hears of every version of every picture, as it is encoded or at once. Raises OutputError when a bank
    can't be kept; with a strict source DataError at the first unreadable picture.
    """
    paths = [_path(source, one) for one in reads]
    found = [_open(path, source) for path in paths]
    missing = [i for i, bank in enumerate(found) if bank is None]
    if missing:
        _build(source, [(paths[i], reads[i]) for i in missing], on_batch)
        for i in missing:
            found[i] = _open(paths[i], source)
    else:
        on_batch(source.versions * len(source.items))
    opened = [bank for bank in found if bank is not None]
    assert len(opened) == len(reads)
    if source.strict and opened and (unreadable := opened[0].unreadable):
        raise DataError(
            f"{unreadable[0].path} can't be read: {unreadable[0].reason}", "unless loading is strict, it is left out"
        )
    return opened


def _path(source: Source, reads: Reads) -> Path:
    code = _package("promptkit"), {name: _version(name) for name in LIBRARIES}
    key = json.dumps([FORMAT, reads.key(), source.key(), code], sort_keys=True)
    return (
        cache_folder() / "features" / (hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:32] + SUFFIX)
    )


def _open(path: Path, source: Source) -> Bank | None:
    try:
        status = path.stat()
    except OSError:
        return None
    try:
        tensors = _read(path, status.st_ino, status.st_mtime_ns)
    except DamagedBankError as error:
        log.warning("the feature bank %s is damaged (%s); it is computed again", path, error)
        path.unlink(missing_ok=True)
        return None
    reasons = json.loads(bytes(tensors["unreadable"].tolist()))
    taps = sorted((name for name in tensors if name.startswith("taps.")), key=lambda name: int(name[5:]))
    return Bank(
        tensors.get("pooled", torch.empty(source.versions, len(source.views), len(source.items), 0)),
        tensors.get("patches"),
        tuple(tensors[name] for name in taps),
        source.views,
        tensors["readable"].bool(),
        tuple(Unreadable(Path(path), reason) for path, reason in reasons),
    )


@lru_cache(maxsize=16)
def _read(path: Path, inode: int, modified: int) -> dict[str, Tensor]:
    """Checked once in a process, however many epochs read it."""
    return read_bank(path)


def _build(source: Source, wanted: Sequence[tuple[Path, Reads]], on_batch: Callable[[int], None]) -> None:
    loader = source.loader()
    lead = source.versions, len(source.views), len(source.items)
    writers: list[BankWriter] = []
    unreadable: dict[str, str] = {}
    readable = np.ones(len(source.items), dtype=np.uint8)
    try:
        for number in range(source.versions):
            loader.set_epoch(number + 1)
            first = 0
            for loaded in loader:
                count = len(loaded.index) + len(loaded.unreadable)
                unreadable |= {str(picture.path): picture.reason for picture in loaded.unreadable}
                gone = np.ones(count, dtype=bool)
                gone[loaded.index.numpy() - first] = False
                readable[first : first + count][gone] = 0
                if loaded.batch is not None:
                    pixels = torch.cat([loaded.batch.views[name] for name in source.views])
                    seen = [_arrays(reads.encode(pixels), len(source.views), ~gone) for _, reads in wanted]
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
    wanted: Sequence[tuple[Path, Reads]],
    seen: Sequence[dict[str, np.ndarray]],
    lead: tuple[int, int, int],
) -> list[BankWriter]:
    writers = []
    for (path, reads), arrays in zip(wanted, seen, strict=True):
        about = {
            "backbone": f"{reads.backbone.name} ({reads.backbone.weights})",
            "pictures": len(source.items),
            "views": "evaluation" if source.made["views"] == "evaluation" else ", ".join(source.views),
            "versions": source.versions,
            "folder": os.path.commonpath([item.path.absolute().parent for item in source.items]),
        }
        writer = BankWriter(path, about, {name: Field(rows.shape[2:]) for name, rows in arrays.items()}, lead)
        log.info("keeping the features of %d pictures: %s in %s", lead[2], in_words(writer.size), path.parent)
        writer.open()
        writers.append(writer)
    return writers


def _arrays(features: ImageFeatures, views: int, readable: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor as (views, pictures, ...), with empty rows for what was not readable."""
    tensors = {"pooled": features.pooled, **{f"taps.{i}": tap for i, tap in enumerate(features.taps)}}
    if features.patches is not None:
        tensors["patches"] = features.patches
    arrays = {}
    for name, tensor in tensors.items():
        rows = tensor.float().cpu().numpy().reshape(views, -1, *tensor.shape[1:])
        arrays[name] = np.zeros((views, len(readable), *rows.shape[2:]), dtype=np.float32)
        arrays[name][:, readable] = rows
    return arrays


class BankedBatches:
    """Batches for training, as `train_loader` would make them, of features in place of pixels.

    Epoch e reads version (e - 1) mod K: with K epochs or fewer, the views are those of a run without a bank.
    """

    def __init__(self, bank: Bank, items: Sequence[Item], batch_size: int, seed: int) -> None:
        self.bank = bank
        self.items = items
        self.batch_size = batch_size
        self.epochs = EpochSampler(len(items), seed)
        self.order = share(self.epochs, batch_size, shuffled=True)
        self.label = torch.tensor([item.label for item in items])

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        self.epochs.epoch = epoch
        self.epochs.skip = skip * self.batch_size

    def __iter__(self) -> Iterator[Loaded]:
        reasons = {picture.path: picture for picture in self.bank.unreadable}
        for keys in self.order:
            index = torch.tensor([index for _, index in keys])
            good = self.bank.readable[index]
            gone = tuple(reasons[self.items[i].path] for i in index[~good].tolist())
            kept = index[good]
            batch = None
            if len(kept):
                features = self.bank.features(kept, (self.epochs.epoch - 1) % self.bank.versions)
                batch = Batch({}, self.label[kept], features)
            yield Loaded(batch, kept, gone)


# What a key is made of.


def _files(items: Sequence[Item]) -> str:
    """A hash of every picture's path, size and times. The inode's time tells of an edit that restored the other."""
    digest = hashlib.sha256()
    for item in items:
        try:
            status = item.path.stat()
            known = status.st_size, status.st_mtime_ns, status.st_ctime_ns
        except OSError:
            known = (-1, -1, -1)
        digest.update(f"{item.path.absolute()}\0{known}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _code(thing: Any) -> str | None:
    """The name of a class or function, and a hash of the packages that define it; None when there is no such file."""
    name = f"{thing.__module__}.{thing.__qualname__}" if hasattr(thing, "__qualname__") else "<none>"
    if "<" in name:  # a lambda, or a function made in another: two of them can have one name
        return None
    bases = [base for base in getattr(thing, "__mro__", (thing,)) if base.__module__ not in ("builtins", "abc")]
    packages = {_package(base.__module__) for base in bases}
    return None if None in packages else f"{name} {' '.join(sorted(map(str, packages)))}"


@lru_cache(maxsize=64)
def _package(module: str) -> str | None:
    """A hash of the source of a module, and of the whole package that it belongs to."""
    top = sys.modules.get(module.partition(".")[0])
    file = getattr(sys.modules.get(module), "__file__", None)
    if top is not None and getattr(top, "__file__", None) and hasattr(top, "__path__"):
        sources = sorted(path for folder in top.__path__ for path in Path(folder).rglob("*.py"))
    elif file:
        sources = [Path(file)]
    else:
        return None
    digest = hashlib.sha256()
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""

"""What goes into the feature store: what is read of the image tower, of which images, in which views; and a key of it all.

A key holds everything that rows depend on beside the image: the backbone's weights and arithmetic, what is read of its
blocks, how the views are made and from which seed, and the code that does it.
"""

import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from promptkit.backbones.base import FeatureSpec
from promptkit.components import Views
from promptkit.data.layouts import Item
from promptkit.data.loading import Loaded, Loader, eval_loader, train_loader
from promptkit.errors import OutputError
from promptkit.features.store import FeatureKey, image_digest
from promptkit.settings import LoaderSettings
from promptkit.tensors import ImageFeatures

FORMAT = 1
LIBRARIES = (
    "torch", "open_clip_torch", "timm", "numpy", "pillow", "pillow-heif", "albumentations", "opencv-python",
    "opencv-python-headless",
)  # fmt: skip


def is_cacheable(spec: FeatureSpec) -> bool:
    """Can its features be told from others'? Not where intermediates are reduced by code without a name."""
    return spec.intermediates is None or _code(spec.intermediates.reduce) is not None


def parts_of(spec: FeatureSpec) -> dict[str, Any]:
    """What is kept apart, so that learners share what they have in common: "pooled", and where read the others.

    Each with what it depends on beside weights and arithmetic.
    """
    parts: dict[str, Any] = {"pooled": None}
    if spec.patches:
        parts["patches"] = None
    if spec.intermediates is not None:
        blocks = spec.intermediates.blocks and list(spec.intermediates.blocks)
        parts["intermediates"] = [_code(spec.intermediates.reduce), blocks]
    return parts


def split_parts(spec: FeatureSpec, features: ImageFeatures) -> dict[str, Tensor]:
    """The parts, (n, ...). Raises OutputError for intermediates whose shapes differ from block to block."""
    parts = {"pooled": features.pooled}
    if features.patches is not None:
        parts["patches"] = features.patches
    if spec.intermediates is not None:
        if len({tensor.shape for tensor in features.intermediates}) > 1:
            raise OutputError("intermediates whose shapes differ from block to block can't be kept")
        parts["intermediates"] = torch.stack(list(features.intermediates), 1)
    return parts


@dataclass(frozen=True)
class Source:
    """Images of a data set (its folder), and how their views come about (`made`, part of the key)."""

    items: Sequence[Item]
    folder: Path
    made: dict[str, Any]
    loader: Callable[[Sequence[Item]], Loader]
    strict: bool
    views: tuple[str, ...] = ("image",)
    versions: int = 1
    trains: bool = False
    """Do the views depend on an image's place among the others, and on the epoch?"""

    @staticmethod
    def evaluation(items: Sequence[Item], folder: Path, views: Views, seed: int, settings: LoaderSettings) -> "Source":
        """Views to predict from."""
        made = _made(views, settings) | ({"seed": seed} if views.draws else {})
        return Source(
            items,
            folder,
            made,
            lambda items: eval_loader(items, views, settings, seed=seed),
            settings.strict,
            tuple(views.names),
        )

    @staticmethod
    def training(
        items: Sequence[Item], folder: Path, views: Views, versions: int, seed: int, settings: LoaderSettings
    ) -> "Source":
        """Version k holds the views of epoch k + 1."""
        return Source(
            items,
            folder,
            _made(views, settings) | {"seed": seed},
            lambda items: train_loader(items, views, settings, seed=seed, shuffle=False),
            settings.strict,
            tuple(views.names),
            versions,
            trains=True,
        )

    @property
    def can_be_kept(self) -> bool:
        """Not views whose code is in no file."""
        return self.made["views"] is not None

    def digests(self) -> list[bytes]:
        return [image_digest(item.path, i if self.trains else None) for i, item in enumerate(self.items)]

    def key(self, spec: FeatureSpec, part: str, version: int) -> FeatureKey:
        depends = {
            "format": FORMAT,
            "weights": spec.backbone.fingerprint,
            "arithmetic": [str(spec.backbone.image_dtype), spec.backbone.device.type],
            "part": [part, parts_of(spec)[part]],
            "made": self.made,
            "views": self.views,
            "version": version,
            "code": [_package("promptkit"), {name: _version(name) for name in LIBRARIES}],
        }
        about = {
            "backbone": f"{spec.backbone.name} ({spec.backbone.weights})",
            "data": str(self.folder.absolute()),
            "views": ", ".join(self.views)
            if self.trains
            else "evaluation" + f", {len(self.views)} views" * (len(self.views) > 1),
            "part": part,
        }
        return FeatureKey(depends, about)

    def load(self, wanted: Mapping[int, Sequence[int]]) -> Iterator[tuple[int, list[int], Loaded]]:
        """(version, items of the batch, readable or not, and what was loaded, its index among all items).

        `wanted` holds the items of each version.
        """
        loader: Loader | None = None
        for number, places in wanted.items():
            if self.trains:
                loader = loader or self.loader(self.items)  # its workers live on
                assert loader.epochs is not None
                loader.epochs.only = places
                loader.set_epoch(number + 1)
            else:
                loader = self.loader([self.items[i] for i in places])
            first = 0
            for loaded in loader:
                if not self.trains:
                    loaded = replace(loaded, index=torch.tensor(places)[loaded.index])
                batch = list(places[first : first + len(loaded.index) + len(loaded.unreadable)])
                first += len(batch)
                yield number, batch, loaded


def _made(views: Views, settings: LoaderSettings) -> dict[str, Any]:
    return {
        "views": _code(type(views)),
        "options": repr(views.options),
        "image": asdict(views.image),
        "max_pixels": settings.max_pixels,
    }


def _code(thing: Any) -> str | None:
    """The name of a class or function, and a hash of the packages that define it; None when there is no such file.

    None as well for a bound method or an object that can be called: what it does depends on what the object holds.
    """
    if not inspect.isclass(thing) and not inspect.isfunction(thing):
        return None
    name = f"{thing.__module__}.{thing.__qualname__}"
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


@lru_cache(maxsize=64)
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""

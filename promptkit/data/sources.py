"""What goes into a feature cache: what is read of the image tower, of which pictures, in which views; and a key of it all.

The key is a hash of everything that a cache's content depends on: the backbone's weights and arithmetic, what is read of
its blocks, how the views are made and from which seed, the code that does it, and path, size and times of every picture.
"""

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from promptkit.backbones.base import FeatureSpec, ImageSpec
from promptkit.components import Views
from promptkit.data.layouts import Item
from promptkit.data.loading import Loader, eval_loader, train_loader
from promptkit.settings import LoaderSettings

FORMAT = 1
LIBRARIES = (
    "torch", "open_clip_torch", "timm", "numpy", "pillow", "albumentations", "opencv-python", "opencv-python-headless",
)  # fmt: skip


def is_cacheable(spec: FeatureSpec) -> bool:
    """Can its features be told from others'? Not where intermediates are reduced by code without a name."""
    return spec.intermediates is None or _code(spec.intermediates.reduce) is not None


def _spec_key(spec: FeatureSpec) -> dict[str, Any]:
    read = spec.intermediates and [
        _code(spec.intermediates.reduce),
        spec.intermediates.blocks and list(spec.intermediates.blocks),
    ]
    arithmetic = [str(spec.backbone.image_dtype), spec.backbone.device.type]
    return {
        "weights": spec.backbone.fingerprint,
        "intermediates": read,
        "patches": spec.patches,
        "arithmetic": arithmetic,
    }


@dataclass(frozen=True)
class Source:
    """The pictures of a cache, and how their views come about (`made`, part of the key)."""

    items: Sequence[Item]
    made: dict[str, Any]
    loader: Callable[[], Loader]
    strict: bool
    views: tuple[str, ...] = ("image",)
    versions: int = 1

    @staticmethod
    def evaluation(items: Sequence[Item], image: ImageSpec, settings: LoaderSettings) -> "Source":
        made = {"views": "evaluation", "image": asdict(image), "max_pixels": settings.max_pixels}
        return Source(items, made, lambda: eval_loader(items, image, settings), settings.strict)

    @staticmethod
    def training(
        items: Sequence[Item], views: Views, versions: int, seed: int, settings: LoaderSettings
    ) -> "Source | None":
        """Version k holds the views of epoch k + 1. None for views whose code is in no file."""
        code = _code(type(views))
        if code is None:
            return None
        made = {
            "views": code,
            "options": repr(views.options),
            "image": asdict(views.image),
            "seed": seed,
            "max_pixels": settings.max_pixels,
        }
        return Source(
            items,
            made,
            lambda: train_loader(items, views, settings, seed=seed, shuffle=False),
            settings.strict,
            tuple(views.names),
            versions,
        )

    def key(self) -> dict[str, Any]:
        return {"made": self.made, "names": self.views, "versions": self.versions, "files": _files(self.items)}


def cache_key(source: Source, spec: FeatureSpec) -> str:
    """32 hexadecimal digits."""
    code = _package("promptkit"), {name: _version(name) for name in LIBRARIES}
    key = json.dumps([FORMAT, _spec_key(spec), source.key(), code], sort_keys=True)
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:32]


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


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""

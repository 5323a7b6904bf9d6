"""Which picture files are read, and which are known and are not, with what to do about them."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".jp2")
)
"""Of pictures that are read wherever promptkit runs."""
_ALWAYS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000")
_CONVERTED = frozenset(
    (".jxl", ".svg", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".exr", ".tga", ".eps")
)
"""Of pictures that somebody has to convert."""


@dataclass(frozen=True)
class OptionalFormat:
    """A format that is read where some package is at hand."""

    suffixes: tuple[str, ...]
    at_hand: Callable[[], bool]
    advice: str


def _pillow_has_avif() -> bool:
    from PIL import features

    return bool(features.check("avif"))


OPTIONAL: Mapping[str, OptionalFormat] = {
    "HEIF": OptionalFormat(
        (".heic", ".heif", ".hif"),
        lambda: find_spec("pillow_heif") is not None,
        "pip install pillow-heif, and they are read",
    ),
    "AVIF": OptionalFormat((".avif",), _pillow_has_avif, 'pip install "pillow>=11.3", and they are read'),
}
"""By the name that Pillow has for the format."""


@cache
def _at_hand() -> tuple[str, ...]:
    """The optional formats that are read here."""
    found = tuple(name for name, optional in OPTIONAL.items() if optional.at_hand())
    if "HEIF" in found:
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return found


def formats() -> tuple[str, ...]:
    """What Pillow may take a file for. It looks at the content, not the suffix: else it would run PostScript in a .jpg."""
    return (*_ALWAYS, *_at_hand())


def suffix_of(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def is_picture(name: str) -> bool:
    """Has a file the suffix of a picture that is read here?"""
    suffix = suffix_of(name)
    return suffix in SUFFIXES or any(suffix in OPTIONAL[known].suffixes for known in _at_hand())


def unread_advice(suffix: str) -> str:
    """What to do about a picture that is known and not read here; "" for what is read, or no picture."""
    for name, optional in OPTIONAL.items():
        if suffix in optional.suffixes:
            return "" if name in _at_hand() else optional.advice
    return "convert them to .jpg or .png" if suffix in _CONVERTED else ""


def unread(counts: Mapping[str, int]) -> str:
    """Pictures that are known and not read, by suffix, in words."""
    return "; ".join(f"{counts[suffix]} {suffix} ({unread_advice(suffix)})" for suffix in sorted(counts))

"""A picture file -> pixels, or the reason why there are none."""

import logging
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from promptkit.data.formats import formats, suffix_of, unread_advice
from promptkit.errors import DataError
from promptkit.settings import MAX_PIXELS

log = logging.getLogger("promptkit")

MAX_ASPECT = 1000
"""Resizing the short side of a longer strip would fill the memory."""


@dataclass(frozen=True)
class Unreadable:
    """A picture that can't be used, and why."""

    path: Path
    reason: str


def open_image(path: Path, min_side: int | None = None, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "H W 3"]:
    """The first frame of a picture in RGB, turned upright as its EXIF data says.

    Alpha is dropped, as CLIP does. Grey of more than 8 bits is scaled so that white stays white. With `min_side`, a
    JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as its short side keeps twice that many pixels.

    Raises DataError, with path and reason, for a file that is missing, empty, damaged, of an unknown format, or whose
    header claims more than `max_pixels` pixels or a side MAX_ASPECT times the other.
    """
    image = try_image(path, min_side, max_pixels)
    if isinstance(image, Unreadable):
        raise DataError(f"{path} can't be read: {image.reason}")
    return image


def try_image(
    path: Path, min_side: int | None = None, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "H W 3"] | Unreadable:
    """What `open_image` does, with the reason in place of the error."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            return Unreadable(path, "not a file")
        if not info.st_size:
            return Unreadable(path, "the file is empty")
        # PIL warns of large pictures, odd palettes and damaged EXIF data; none of it is a reason not to read them.
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=formats()) as image:
            width, height = image.size
            if width * height > max_pixels:
                return Unreadable(path, _too_large(max_pixels))
            if max(width, height) > MAX_ASPECT * min(width, height):
                return Unreadable(path, f"{width} x {height} pixels are too narrow a strip")
            if min_side is not None:
                image.draft(None, (2 * min_side, 2 * min_side))
            ImageOps.exif_transpose(image, in_place=True)
            return _rgb(image)
    except Image.DecompressionBombError:
        return Unreadable(path, _too_large(max_pixels))
    except UnidentifiedImageError:
        advice = unread_advice(suffix_of(path.name)) or ", ".join(formats())
        return Unreadable(path, f"not a picture in a known format ({advice})")
    except OSError as error:
        return Unreadable(path, error.strerror or str(error))
    except MemoryError:
        raise
    except Exception as error:  # PIL's decoders raise nearly anything on damaged files
        return Unreadable(path, f"damaged: {error}")


def to_rgb(picture: "Image.Image | np.ndarray") -> UInt8[np.ndarray, "H W 3"]:
    """What `open_image` makes of a file, from an opened picture or an array.

    Args:
        picture: Of any mode, or uint8 of shape (H W), (H W 1), (H W 3) or (H W 4).

    Raises DataError for another array.
    """
    if not isinstance(picture, np.ndarray):
        return _rgb(ImageOps.exif_transpose(picture))
    if picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] in (3, 4) and picture.size:
        return np.ascontiguousarray(picture[:, :, :3])
    if picture.dtype == np.uint8 and picture.ndim in (2, 3) and picture.shape[2:] in ((), (1,)) and picture.size:
        return np.repeat(picture.reshape(*picture.shape[:2], 1), 3, axis=2)
    raise DataError(
        f"an array of {picture.dtype} and shape {picture.shape} is no picture",
        "expected uint8, 0 to 255, with height, width and 1, 3 or 4 channels",
    )


def _too_large(max_pixels: int) -> str:
    return f"more than {max_pixels:,} pixels"


def _rgb(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    if image.mode != "F" and not image.mode.startswith("I"):
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    # PIL would clip these. Their white is the end of the smallest usual range that holds them.
    grey = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0)
    ends = (1, 255, 65535) if image.mode == "F" else (65535,)
    white = next((end for end in ends if grey.max() <= end), grey.max())
    scaled = np.round(np.clip(grey, 0, white) * (255 / white)).astype(np.uint8)
    return np.repeat(scaled[:, :, None], 3, axis=2)


def warn_unreadable(images: Sequence[Unreadable], listed: int = 5) -> None:
    """One counted warning with the first few names."""
    if images:
        names = "; ".join(f"{image.path} ({image.reason})" for image in images[:listed])
        more = f"; and {len(images) - listed} more" if len(images) > listed else ""
        count = "1 picture" if len(images) == 1 else f"{len(images)} pictures"
        log.warning("%s left out: %s%s", count, names, more)

"""AugMix: several chains of simple operations, mixed with each other and with the clean picture.

Hendrycks et al., AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty, ICLR 2020. Operations
and ranges are those of its `augmentations.py`, which GOPro's code has as `augmix_ops.py`. This module imports
albumentations, so import it where views are made and not with the plugin.
"""

from typing import Any

import cv2
import numpy as np
from albumentations import ImageOnlyTransform
from albumentations.augmentations.pixel import functional as pixel
from PIL import Image, ImageOps

# An operation takes an RGB picture (H W 3, uint8) and a level, -10 to 10, and returns a picture of the same shape.
# Where a direction means nothing only the level's size counts.


def autocontrast(image: np.ndarray, level: float) -> np.ndarray:
    """Stretch each channel to the full range, whatever the level."""
    stretched: np.ndarray = pixel.auto_contrast(image, cutoff=0, ignore=None, method="pil")
    return stretched


def equalize(image: np.ndarray, level: float) -> np.ndarray:
    """Flatten each channel's histogram, whatever the level."""
    return np.asarray(ImageOps.equalize(Image.fromarray(image)))


def posterize(image: np.ndarray, level: float) -> np.ndarray:
    """Keep 4 bits of each value, down to 1."""
    dropped = 4 + int(0.4 * abs(level))
    return image >> dropped << dropped


def solarize(image: np.ndarray, level: float) -> np.ndarray:
    """Invert the values from a threshold upwards, which falls from 256 to 0."""
    return np.where(image < 256 - int(25.6 * abs(level)), image, 255 - image)


def rotate(image: np.ndarray, level: float) -> np.ndarray:
    """Turn about the middle, by up to 30 degrees."""
    height, width = image.shape[:2]
    return warp(image, cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -int(3 * level), 1.0))


def shear_x(image: np.ndarray, level: float) -> np.ndarray:
    """Slant about the top edge, by up to 0.3 pixels a row."""
    slant = 0.03 * level
    # Half a row: levels count from the edge of the picture, OpenCV from the middle of its first pixel.
    return warp(image, [[1, slant, slant / 2], [0, 1, 0]])


def shear_y(image: np.ndarray, level: float) -> np.ndarray:
    """Slant about the left edge, by up to 0.3 pixels a column."""
    slant = 0.03 * level
    return warp(image, [[1, 0, 0], [slant, 1, slant / 2]])


def translate_x(image: np.ndarray, level: float) -> np.ndarray:
    """Move sideways, by up to a third of the width, whole pixels."""
    return warp(image, [[1, 0, int(level * image.shape[1] / 30)], [0, 1, 0]])


def translate_y(image: np.ndarray, level: float) -> np.ndarray:
    """Move up or down, by up to a third of the height, whole pixels."""
    return warp(image, [[1, 0, 0], [0, 1, int(level * image.shape[0] / 30)]])


def warp(image: np.ndarray, source: Any) -> np.ndarray:
    """Bilinear, black outside. `source` (2 3) gives the place in `picture` of each pixel of the result."""
    height, width = image.shape[:2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped: np.ndarray = cv2.warpAffine(image, np.asarray(source, dtype=np.float64), (width, height), flags=flags)
    return warped


OPERATIONS = (
    autocontrast,
    equalize,
    posterize,
    rotate,
    solarize,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)


class AugMix(ImageOnlyTransform):
    """clean * picture + (1 - clean) * sum over chains of weight * chain(picture).

    `severity` is 0 to 10: levels are uniform from 0.1 to it, in either direction. A chain is 1 to `depth` operations,
    one after the other. `weights` are Dirichlet(1, .., 1) over the chains, `clean` is Beta(1, 1). Takes and returns
    uint8; the mixture is rounded once. All draws are made in `get_params`, from the transform's own generator.
    """

    def __init__(self, severity: float = 1.0, chains: int = 3, depth: int = 3, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.severity = severity
        self.chains = chains
        self.depth = depth

    def get_params(self) -> dict[str, Any]:
        """Draw `chains`, each a list of (index of an operation, level), the chains' `weights`, and `clean`."""
        rng = self.random_generator
        depths = rng.integers(1, self.depth, endpoint=True, size=self.chains)
        return {
            "chains": [[self.draw_operation(rng) for _ in range(depth)] for depth in depths],
            "weights": rng.dirichlet(np.ones(self.chains)),
            "clean": rng.beta(1.0, 1.0),
        }

    def draw_operation(self, rng: np.random.Generator) -> tuple[int, float]:
        size = rng.uniform(min(0.1, self.severity), self.severity)
        return int(rng.integers(len(OPERATIONS))), float(rng.choice((-size, size)))

    def apply(
        self,
        img: np.ndarray,
        chains: list[list[tuple[int, float]]],
        weights: np.ndarray,
        clean: float,
        **params: Any,
    ) -> np.ndarray:
        """`img` is (H W 3), uint8."""
        mixed = np.float32(clean) * img
        for chain, weight in zip(chains, weights, strict=True):
            image = img
            for operation, level in chain:
                image = OPERATIONS[operation](image, level)
            mixed += np.float32((1 - clean) * weight) * image
        return mixed.round().astype(np.uint8)

"""What a picture is turned into, to train on or to be classified: components that run in the data workers."""

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from promptkit.backbones.base import ImageSpec

if TYPE_CHECKING:
    import albumentations


@dataclass(frozen=True)
class NoOptions:
    """For components without settings."""


class Views(ABC):
    """Makes the views of one picture. Runs in the data workers, so it has to pickle.

    All randomness comes from the generator that it is handed: in training it depends on seed, epoch and picture alone, in
    the slot `test_views` on seed and picture. The number of workers changes nothing.
    """

    Options: ClassVar[type] = NoOptions
    names: tuple[str, ...] = ("image",)
    """What `__call__` returns; "image" is always among them."""
    draws: ClassVar[bool] = True
    """Does it draw from its generator? If not, what is kept of its views serves every seed."""

    def __init__(self, options: Any, image: ImageSpec) -> None:
        self.options = options
        self.image = image

    @abstractmethod
    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        """From an RGB picture (H W 3, uint8) to one float32 array (3 H W) per name, normalised by the spec."""


class PlainViews(Views):
    """As open_clip itself prepares a picture for evaluation, pixel by pixel."""

    draws = False

    def __init__(self, options: Any, image: ImageSpec) -> None:
        super().__init__(options, image)
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self.transform = image_transform_v2(
            PreprocessCfg(
                size=image.size,
                mean=image.mean,
                std=image.std,
                interpolation=image.interpolation,
                resize_mode=image.resize_mode,
            ),
            is_train=False,
        )

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        made: np.ndarray = self.transform(Image.fromarray(image)).numpy()
        return {"image": made}


class PipelineViews(Views):
    """Views that are albumentations pipelines, one for each name."""

    def __init__(self, options: Any, image: ImageSpec) -> None:
        super().__init__(options, image)
        import albumentations as A

        self._composed = {
            name: A.Compose([*transforms, A.Normalize(image.mean, image.std)])
            for name, transforms in self.pipelines().items()
        }

    @abstractmethod
    def pipelines(self) -> "Mapping[str, Sequence[albumentations.BasicTransform]]":
        """From an RGB picture (H W 3, uint8) to one of the spec's size, per name. Normalisation is added."""

    def crop_and_flip(self, min_scale: float = 0.08, flip: float = 0.5) -> "list[albumentations.BasicTransform]":
        """Random resized crop (bicubic up, area-averaged down) and horizontal flip: how most pipelines begin."""
        import albumentations as A
        import cv2

        return [
            A.RandomResizedCrop(
                self.image.size,
                scale=(min_scale, 1.0),
                interpolation=cv2.INTER_CUBIC,
                area_for_downscale="image",
            ),
            A.HorizontalFlip(p=flip),
        ]

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        python_rng = random.Random(int(rng.integers(2**63)))
        views = {}
        for name, composed in self._composed.items():
            composed.set_random_state(rng, python_rng)
            views[name] = np.ascontiguousarray(composed(image=image)["image"].transpose(2, 0, 1))
        return views

"""The three views of a picture that GOPro trains on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from promptkit import ConfigError
from promptkit.backbones.base import ImageSpec
from promptkit.components import PipelineViews

if TYPE_CHECKING:
    import albumentations

VIEWS = ("image", "moco", "augmix")


class GOProViews(PipelineViews):
    """The picture cropped and flipped, a MoCo v3 view and an AugMix view, each from a crop of its own.

        image   crop, flip
        moco    crop, colour jitter (0.4, 0.4, 0.2, 0.1) for 8 of 10, grey for 2 of 10, blur of sigma 0.1 to 2, flip
        augmix  crop, flip, AugMix

    The settings of `trainers/gopro.py` (`mocov3`, `augmixtrans`), applied to the picture itself.
    """

    names = VIEWS

    @dataclass(frozen=True)
    class Options:
        min_scale: Annotated[float, "smallest share of the picture that a crop keeps, above 0, at most 1"] = 0.08
        severity: Annotated[float, "how far AugMix's operations may go, 0 to 10"] = 1.0
        chains: Annotated[int, "chains of operations that AugMix mixes"] = 3
        depth: Annotated[int, "most operations in a chain"] = 3

    def __init__(self, options: Options, image: ImageSpec) -> None:
        """Raises ConfigError for an option out of its range."""
        for name, allowed in {
            "min_scale": 0 < options.min_scale <= 1,
            "severity": 0 <= options.severity <= 10,
            "chains": options.chains >= 1,
            "depth": options.depth >= 1,
        }.items():
            if not allowed:
                raise ConfigError(f"views.{name}={getattr(options, name)} is out of range", "promptkit show gopro")
        super().__init__(options, image)

    def pipelines(self) -> "Mapping[str, Sequence[albumentations.BasicTransform]]":
        import albumentations as A

        from promptkit_gopro.augmix import AugMix

        options = self.options
        crop, flip = self.crop_and_flip(options.min_scale)
        return {
            "image": [crop, flip],
            "moco": [
                crop,
                A.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, p=0.8),
                A.ToGray(p=0.2),
                A.GaussianBlur(sigma_limit=(0.1, 2.0), p=1.0),
                flip,
            ],
            "augmix": [crop, flip, AugMix(options.severity, options.chains, options.depth)],
        }

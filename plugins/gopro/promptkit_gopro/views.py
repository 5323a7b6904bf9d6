"""The three views of a picture that GOPro trains on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le

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
        min_scale: Annotated[float, "smallest share of the picture that a crop keeps", Gt(0), Le(1)] = 0.08
        severity: Annotated[float, "how far AugMix's operations may go", Ge(0), Le(10)] = 1.0
        chains: Annotated[int, "chains of operations that AugMix mixes", Ge(1)] = 3
        depth: Annotated[int, "most operations in a chain", Ge(1)] = 3

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

"""The contexts of CoOp and of CoCoOp."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge
from torch import nn

from promptkit.components import ContextPrompts, Scene
from promptkit.tensors import ImageFeatures, TextPrompts


class CoOpPrompts(ContextPrompts):
    """Learned context vectors around the class name, for all classes or for each.

    As `trainers/coop.py` of CoOp's code. The one difference: class-specific contexts that start from words are one for
    each class here as well.
    """

    @dataclass(frozen=True)
    class Options:
        n_ctx: Annotated[int, "context tokens; ctx_init sets them where it is given", Ge(1)] = 16
        ctx_init: Annotated[str, "words to start from; without them, noise of deviation 0.02"] = ""
        position: Annotated[Literal["end", "middle", "front"], "where the class name stands"] = "end"
        class_specific: Annotated[bool, "one context for each class, instead of one for all"] = False


class CoCoOpPrompts(ContextPrompts):
    """Learned context vectors that a small network shifts for each image.

    The network reads the image's unit-norm features (B D); its output is added to every context token. As
    `trainers/cocoop.py` of CoOp's code.
    """

    conditional = True

    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        width = scene.backbone.joint_width
        self.meta_net = nn.Sequential(
            nn.Linear(width, width // 16), nn.ReLU(), nn.Linear(width // 16, scene.backbone.text_width)
        )

    def text(self, features: ImageFeatures | None) -> TextPrompts:
        """Contexts (B 1 1 M W)."""
        assert features is not None, "conditional prompts need an image"
        shift = self.meta_net(features.pooled)
        return TextPrompts(self.ctx + shift[:, None, None, None])

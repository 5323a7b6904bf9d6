"""CLIP-Adapter: a small network behind the image tower, whose output is mixed into the features.

Gao et al., CLIP-Adapter: Better Vision-Language Models with Feature Adapters, IJCV 2024. As `clip_adapter.py` of the
released code (gaopengcuhk/CLIP-Adapter).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from promptkit import hookimpl
from promptkit.components import Projector, Scene
from promptkit.learner import Recipe


class Adapter(Projector):
    """Image features with a share of what two layers make of them."""

    @dataclass(frozen=True)
    class Options:
        ratio: Annotated[float, "share of the adapter's output, 0 to 1"] = 0.2
        reduction: Annotated[int, "by how much its hidden layer is narrower"] = 4

    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        width = scene.backbone.joint_width
        hidden = max(1, width // options.reduction)
        self.adapter = nn.Sequential(
            nn.Linear(width, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, width, bias=False), nn.ReLU()
        )

    def image(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        ratio = self.options.ratio
        return F.normalize(ratio * self.adapter(features) + (1 - ratio) * features, dim=-1)


@hookimpl
def register_projectors(register: Callable[[str, type[Projector]], None]) -> None:
    register("clip-adapter", Adapter)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "clip-adapter",
        Recipe(
            summary="CLIP-Adapter: a small network behind the image tower, mixed into its features",
            prompts="template",
            projector="clip-adapter",
            settings={"train.epochs": 200, "train.batch_size": 32, "train.lr": 0.002, "data.shots": 16},
            paper="Gao et al., CLIP-Adapter: Better Vision-Language Models with Feature Adapters, IJCV 2024",
        ),
    )

"""TaskRes: hand-made classifiers, and a residual that is learned for each class.

Yu et al., Task Residual for Tuning Vision-Language Models, CVPR 2023. As `trainers/taskres.py` of the released code
(geekyutao/TaskRes) with the regular base: the residual is added to text features before they are brought to unit norm.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from promptkit import hookimpl
from promptkit.components import PromptGenerator, Scene, TemplatePrompts
from promptkit.learner import Recipe
from promptkit.tensors import ClassTokens, ImageFeatures


class TaskResPrompts(TemplatePrompts):
    """The mean of text features of hand-made prompts, whose norms are their own, and a residual (C D)."""

    class_specific = True

    @dataclass(frozen=True)
    class Options:
        alpha: Annotated[float, "weight of the residual"] = 0.5
        template: Annotated[str, "the base: a text with one {} for the class name; several, one a line"] = (
            "a photo of a {}."
        )

    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        self.residual = nn.Parameter(torch.zeros(len(scene.classnames), scene.backbone.joint_width))
        self.base: Float[Tensor, "C D"] | None = None

    def encode(self, features: ImageFeatures | None, classes: ClassTokens) -> Float[Tensor, "1 C 1 D"]:
        if self.base is None:
            names, asked = self.scene.classnames, self.scene.sentences if self.scene.descriptions else self.said
            texts = [asked(name) for name in names]
            seen = self.scene.backbone.encode_captions([one for text in texts for one in text], unit_norm=False)
            self.base = torch.stack([part.mean(0) for part in torch.split(seen, [len(text) for text in texts])])
        return F.normalize(self.base + self.options.alpha * self.residual, dim=-1)[None, :, None]

    def said(self, name: str) -> list[str]:
        return [template.format(name) for template in self.templates]


IMAGENET = "imagenet-simple\na photo of a {}."
"""`IMAGENET_TEMPLATES_SELECT` of `trainers/imagenet_templates.py`, and the plain one."""


@hookimpl
def register_prompts(register: Callable[[str, type[PromptGenerator]], None]) -> None:
    register("taskres", TaskResPrompts)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "taskres",
        Recipe(
            summary="TaskRes: hand-made classifiers and a learned residual of each class",
            prompts="taskres",
            settings={
                "train.epochs": 200,
                "train.batch_size": 256,
                "train.lr": 0.002,
                "train.optimizer": "adam",
                "data.shots": 16,
            },
            # `train_regular.sh`
            datasets={
                "oxford_flowers": {"prompts.alpha": 1.0},
                "imagenet": {"train.lr": 0.0002, "prompts.template": IMAGENET},
            },
            paper="Yu et al., Task Residual for Tuning Vision-Language Models, CVPR 2023",
        ),
    )

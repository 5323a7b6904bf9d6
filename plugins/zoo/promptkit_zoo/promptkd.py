"""PromptKD: prompts of the image tower and a projector, which learn what a large finished run says, without labels.

Li et al., PromptKD: Unsupervised Prompt Distillation for Vision-Language Models, CVPR 2024. As `trainers/promptkd.py` of the
released code (zhengli97/PromptKD): the classifier is the teacher's, also when the student is asked.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from promptkit import ConfigError, hookimpl
from promptkit.components import Loss, Projector, Scene
from promptkit.learner import Learner, Recipe
from promptkit.tensors import ImageFeatures, Outputs, View


def classifier(scene: Scene) -> Float[Tensor, "C E"]:
    """The teacher's unit-norm features of the classes that it is set to."""
    assert scene.teacher is not None
    teacher = scene.teacher.learner
    with torch.no_grad():
        text = teacher.encode_text(None)
        if teacher.projector.for_logits:
            text = teacher.projector.text(text)
    return F.normalize(text[0].mean(1), dim=-1).to(scene.backbone.device)


class PromptKDProjector(Projector):
    """Image features in the teacher's space: two layers with batch normalisation between them."""

    taught = True

    def __init__(self, options: Any, scene: Scene) -> None:
        """Raises ConfigError for a teacher whose texts depend on the picture."""
        super().__init__(options, scene)
        assert scene.teacher is not None
        if scene.teacher.learner.prompts.conditional:
            raise ConfigError("the teacher's texts depend on the picture", "pick another --teacher, such as promptsrc")
        width = classifier(scene).shape[1]
        self.into = nn.Linear(scene.backbone.joint_width, width)
        self.norm = nn.BatchNorm1d(width)
        self.out = nn.Linear(width, width)

    def image(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B E"]:
        hidden, norm = self.into(features), self.norm
        if self.training and len(features) == 1:  # one picture has no deviation
            hidden = F.batch_norm(hidden, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        else:
            hidden = norm(hidden)
        return F.normalize(self.out(hidden.relu()), dim=-1)


class PromptKDLoss(Loss):
    """The divergence of the student's answers from the teacher's; labels are not looked at."""

    taught = True

    @dataclass(frozen=True)
    class Options:
        weight: Annotated[float, "weight of the divergence", Ge(0)] = 1000.0
        temperature: Annotated[float, "of both answers", Gt(0)] = 1.0

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        t = self.options.temperature
        assert self.scene.teacher is not None
        said = (self.scene.teacher.taught(outputs.index) / t).log_softmax(-1)
        ours = (outputs.logits / t).log_softmax(-1)
        divergence = F.kl_div(ours, said, reduction="sum", log_target=True) * t * t / ours.numel()
        return {"distilled": self.options.weight * divergence}


class PromptKD(Learner):
    """Compares projected image features with the teacher's text features."""

    needs: ClassVar[Mapping[str, type]] = {"projector": PromptKDProjector}
    said: tuple[tuple[str, ...], Tensor] | None = None

    def view(self, features: ImageFeatures, text: Float[Tensor, "1 C K D"]) -> View:
        return View(features.pooled, text, self.projector.image(features.pooled), self.taught_text(), features.patches)

    def taught_text(self) -> Float[Tensor, "1 C 1 E"]:
        """The teacher's text features of the classes that are asked about."""
        assert self.scene.teacher is not None
        if self.said is None or self.said[0] != self.classnames:
            teacher = self.scene.teacher.learner
            before = teacher.classnames
            teacher.set_classes(self.classnames)
            self.said = self.classnames, classifier(self.scene)[None, :, None]
            teacher.set_classes(before)
        return self.said[1]


PromptKDProjector.needs = {"learner": PromptKD}  # no other compares its features with those of the teacher


@hookimpl
def register_projectors(register: Callable[[str, type[Projector]], None]) -> None:
    register("promptkd", PromptKDProjector)


@hookimpl
def register_losses(register: Callable[[str, type[Loss]], None]) -> None:
    register("promptkd", PromptKDLoss)


@hookimpl
def register_learners(register: Callable[[str, type[Learner]], None]) -> None:
    register("promptkd", PromptKD)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "promptkd",
        Recipe(
            summary="PromptKD: prompts of the image tower that learn what a large finished run says",
            prompts="vpt",
            projector="promptkd",
            loss="promptkd",
            learner="promptkd",
            settings={
                "prompts.n_ctx": 4,
                "prompts.depth": 9,
                "train.epochs": 20,
                "train.batch_size": 8,
                "train.lr": 0.005,
            },
            # `scripts/promptkd/base2new_train.sh`
            datasets={name: {"loss.weight": 200.0} for name in ("fgvc_aircraft", "oxford_flowers", "dtd")},
            paper="Li et al., PromptKD, CVPR 2024",
        ),
    )

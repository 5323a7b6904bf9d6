"""PromptSRC: deep prompts in both towers, held to the frozen features, and averaged over training.

Khattak et al., Self-regulating Prompts: Foundational Model Adaptation without Forgetting, ICCV 2023. As
`trainers/promptsrc.py` of the released code (muzairkhattak/PromptSRC), which averages the teacher's text features before it
brings them to unit norm; promptkit's teacher does it before and after, as CLIP itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from promptkit import hookimpl
from promptkit.components import ContextPrompts, Loss, PromptGenerator, Scene
from promptkit.learner import Learner, Recipe
from promptkit.tensors import ImageFeatures, Outputs, TextPrompts


class PromptSRCPrompts(ContextPrompts):
    """Learned tokens in the first blocks of both towers, independent of each other."""

    @dataclass(frozen=True)
    class Options:
        n_ctx: Annotated[int, "learned text tokens; further words of ctx_init stay as they are", Ge(1)] = 4
        ctx_init: Annotated[str, "words to start from; without them, noise of deviation 0.02"] = "a photo of a"
        n_vision: Annotated[int, "image tokens", Ge(1)] = 4
        depth: Annotated[int, "blocks with prompts, the first included; fewer where a tower has fewer", Ge(1)] = 9

    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        self.learn_first(options.n_ctx)
        backbone = scene.backbone
        text_depth, vision_depth = (
            min(options.depth, n) for n in (backbone.text_depth, len(backbone.intermediate_widths))
        )
        self.deep = nn.Parameter(0.02 * torch.randn(text_depth - 1, self.ctx.shape[-2], backbone.text_width))
        self.tokens = nn.Parameter(
            0.02 * torch.randn(vision_depth, 1, options.n_vision, backbone.intermediate_widths[0])
        )

    def text(self, features: ImageFeatures | None) -> TextPrompts:
        return TextPrompts(self.ctx[None], self.deep[:, None] if len(self.deep) else None)

    def vision(self) -> Float[Tensor, "J 1 M V"]:
        return self.tokens


class PromptSRCLoss(Loss):
    """Cross-entropy, and L1 distances of texts, images and logits (here: KL) from frozen CLIP's."""

    @dataclass(frozen=True)
    class Options:
        text: Annotated[float, "weight of the distance of text features"] = 25.0
        image: Annotated[float, "weight of the distance of image features"] = 10.0
        logits: Annotated[float, "weight of the divergence of predictions"] = 1.0

    def templates(self) -> Sequence[str]:
        """60 templates of CLIP's for ImageNet."""
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES[:60]]

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        view, teacher = outputs.views["image"], outputs.teacher
        assert teacher is not None
        predicted, expected = outputs.logits.log_softmax(-1), teacher.logits.log_softmax(-1)
        text = view.text.mean(2)
        return {
            "ce": F.cross_entropy(outputs.logits, outputs.label),
            "text": self.options.text * F.l1_loss(text, teacher.text.expand_as(text)),
            "image": self.options.image * F.l1_loss(view.image, teacher.image),
            "logits": self.options.logits
            * F.kl_div(predicted, expected, reduction="sum", log_target=True)
            / predicted.numel(),
        }


class PromptSRC(Learner):
    """After the last epoch, every parameter is the average of its values after each, with Gaussian weights."""

    @dataclass(frozen=True)
    class Options:
        centre: Annotated[float, "the epoch that weighs most in the average over training"] = 15.0
        spread: Annotated[float, "deviation of the weights around it, in epochs", Gt(0)] = 1.0

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        # In the state, so that a run that is stopped and resumed averages the same.
        self.average = nn.Module()
        for name, parameter in self.named_parameters():
            self.average.register_buffer(name.replace(".", "_"), torch.zeros_like(parameter))

    @torch.no_grad()
    def epoch_end(self, epoch: int, epochs: int) -> None:
        options = self.options
        weight = gaussian(epochs, options.centre, options.spread)[epoch - 1]
        for name, parameter in self.named_parameters():
            average = self.average.get_buffer(name.replace(".", "_"))
            average.add_(weight.to(parameter) * parameter)
            if epoch == epochs:
                parameter.copy_(average)


def gaussian(epochs: int, centre: float, spread: float) -> Float[Tensor, " epochs"]:
    """Weights of epochs 1, 2, ..., which sum to 1."""
    distance = (torch.arange(1, epochs + 1, dtype=torch.float64) - centre) / spread
    return (-0.5 * distance**2).softmax(0)


@hookimpl
def register_prompts(register: Callable[[str, type[PromptGenerator]], None]) -> None:
    register("promptsrc", PromptSRCPrompts)


@hookimpl
def register_losses(register: Callable[[str, type[Loss]], None]) -> None:
    register("promptsrc", PromptSRCLoss)


@hookimpl
def register_learners(register: Callable[[str, type[Learner]], None]) -> None:
    register("promptsrc", PromptSRC)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "promptsrc",
        Recipe(
            summary="PromptSRC: deep prompts in both towers, regulated by frozen CLIP and averaged over training",
            prompts="promptsrc",
            loss="promptsrc",
            learner="promptsrc",
            settings={"train.epochs": 20, "train.batch_size": 4, "train.lr": 0.0025, "data.shots": 16},
            paper="Khattak et al., Self-regulating Prompts, ICCV 2023",
        ),
    )

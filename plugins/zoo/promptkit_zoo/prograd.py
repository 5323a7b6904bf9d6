"""ProGrad: where the gradient of the task goes against that of zero-shot CLIP, what is against it is taken out.

Zhu et al., Prompt-aligned Gradient for Prompt Tuning, ICCV 2023. As `trainers/prograd.py` of the released code
(BeierZhu/Prompt-align), which projects the gradient for each parameter by itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.nn import functional as F

from promptkit import ConfigError, hookimpl
from promptkit.components import ContextPrompts, Loss, PromptGenerator, Scene, read_templates
from promptkit.distributed import average
from promptkit.learner import Learner, Recipe
from promptkit.tensors import Outputs


class ProGradPrompts(ContextPrompts):
    """Learned context vectors, one set for all classes."""

    @dataclass(frozen=True)
    class Options:
        n_ctx: Annotated[int, "context tokens, those in front of ctx_init's words zero at first", Ge(1)] = 16
        ctx_init: Annotated[str, "words to start from; without them, noise of deviation 0.02"] = "a photo of a"

    def __init__(self, options: Any, scene: Scene) -> None:
        """As `trainers/prograd.py`, which counts words: a comma is a token of its own, so that the last word of
        "a type of pet, a photo of a" stays as it is.

        Raises ConfigError when ctx_init has more words than n_ctx.
        """
        super().__init__(options, scene)
        words = len(options.ctx_init.split())
        if words > options.n_ctx:
            raise ConfigError(
                f"prompts.n_ctx={options.n_ctx}: ctx_init={options.ctx_init!r} has {words} words",
                f"--set prompts.n_ctx={words}, or more",
            )
        if words:
            self.learn_first(words)
            self.ctx = nn.Parameter(F.pad(self.ctx.detach(), (0, 0, options.n_ctx - words, 0)))


class ProGradLoss(Loss):
    """Cross-entropy with the labels, and with what zero-shot CLIP predicts: the two that the learner aligns."""

    @dataclass(frozen=True)
    class Options:
        temperature: Annotated[float, "of both distributions in the second term", Gt(0)] = 1.0
        strength: Annotated[float, "how much of a conflict is taken out; 1 is all of it"] = 1.0
        template: Annotated[str, "zero-shot CLIP's prompt, with one {} for the class name"] = "a photo of a {}."

    def __init__(self, options: Any, scene: Scene) -> None:
        """Raises ConfigError for a template without one {}."""
        super().__init__(options, scene)
        self.prompts = read_templates(options.template, "loss.template")

    def templates(self) -> Sequence[str]:
        return self.prompts

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        assert outputs.teacher is not None
        t = self.options.temperature
        kl = F.cross_entropy(outputs.logits / t, (outputs.teacher.logits / t).softmax(-1)) * t * t
        return {"ce": F.cross_entropy(outputs.logits, outputs.label), "kl": kl}


class ProGrad(Learner):
    """Steps along the gradient of "ce", less its part against the gradient of "kl", for each parameter by itself."""

    needs: ClassVar[Mapping[str, type]] = {"loss": ProGradLoss}

    def backward(self, terms: Mapping[str, Tensor]) -> None:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        # Of the whole batch: what is in conflict in one process's share may not be in all of it. A parameter that a term
        # doesn't reach, such as a projector's, has the gradient 0.
        general = average(torch.autograd.grad(terms["kl"], parameters, retain_graph=True, materialize_grads=True))
        task = average(torch.autograd.grad(terms["ce"], parameters, materialize_grads=True))
        for parameter, ce, kl in zip(parameters, task, general, strict=True):
            step = align(ce, kl, self.loss.options.strength)
            parameter.grad = step if parameter.grad is None else parameter.grad + step


def align(ce: Tensor, kl: Tensor, strength: float = 1.0) -> Tensor:
    """`ce` without `strength` times its part along `kl`, where the two are in conflict; otherwise `ce`."""
    along = (ce * kl).sum() / (kl * kl).sum().clamp(min=torch.finfo(kl.dtype).tiny)
    return ce - strength * along.clamp(max=0) * kl


TEMPLATES = {
    "oxford_pets": "a type of pet, a photo of a {}.",
    "oxford_flowers": "a type of flower, a photo of a {}.",
    "fgvc_aircraft": "a type of aircraft, a photo of a {}.",
    "dtd": "a texture of {}.",
    "eurosat": "a centered satellite photo of {}.",
    "food101": "a type of food, a photo of {}.",
    "ucf101": "a photo of a person doing {}.",
}
"""`CUSTOM_TEMPLATES` of `trainers/prograd.py`, for the teacher, and for the contexts to start from."""


@hookimpl
def register_prompts(register: Callable[[str, type[PromptGenerator]], None]) -> None:
    register("prograd", ProGradPrompts)


@hookimpl
def register_losses(register: Callable[[str, type[Loss]], None]) -> None:
    register("prograd", ProGradLoss)


@hookimpl
def register_learners(register: Callable[[str, type[Learner]], None]) -> None:
    register("prograd", ProGrad)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "prograd",
        Recipe(
            summary="ProGrad: learned contexts, with gradients that never go against zero-shot CLIP",
            prompts="prograd",
            loss="prograd",
            learner="prograd",
            settings={"train.epochs": 200, "train.batch_size": 32, "train.lr": 0.002, "data.shots": 16},
            datasets={
                name: {"loss.template": template, "prompts.ctx_init": template.removesuffix(" {}.")}
                for name, template in TEMPLATES.items()
            },
            paper="Zhu et al., Prompt-aligned Gradient for Prompt Tuning, ICCV 2023",
        ),
    )

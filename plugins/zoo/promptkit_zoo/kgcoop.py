"""KgCoOp: learned contexts whose text features stay near those of hand-made prompts.

Yao, Zhang and Xu, Visual-Language Prompt Tuning with Knowledge-guided Context Optimization, CVPR 2023. As
`trainers/kgcoop.py` of the released code (htyao89/KgCoOp), whose `1 - cos` is half the squared distance of the paper.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge
from torch import Tensor
from torch.nn import functional as F

from promptkit import hookimpl
from promptkit.components import ContextPrompts, Loss, PromptGenerator, Scene, read_templates
from promptkit.learner import Recipe
from promptkit.tensors import Outputs


class KgCoOpPrompts(ContextPrompts):
    """Learned context vectors, one set for all classes."""


class KgCoOpLoss(Loss):
    """Cross-entropy, and the distance of the text features from the teacher's: the mean over classes of 1 - cosine."""

    @dataclass(frozen=True)
    class Options:
        weight: Annotated[float, "weight of the distance", Ge(0)] = 8.0
        template: Annotated[str, "the teacher's prompt, with one {} for the class name"] = "a photo of a {}."

    def __init__(self, options: Any, scene: Scene) -> None:
        """Raises ConfigError for a template without one {}."""
        super().__init__(options, scene)
        self.prompts = read_templates(options.template, "loss.template")

    def templates(self) -> Sequence[str]:
        return self.prompts

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        assert outputs.teacher is not None
        text = F.normalize(outputs.views["image"].text.mean(2), dim=-1)  # (#B C D)
        distance = (1 - (text * outputs.teacher.text).sum(-1)).mean()
        return {"ce": F.cross_entropy(outputs.logits, outputs.label), "knowledge": self.options.weight * distance}


@hookimpl
def register_prompts(register: Callable[[str, type[PromptGenerator]], None]) -> None:
    register("kgcoop", KgCoOpPrompts)


@hookimpl
def register_losses(register: Callable[[str, type[Loss]], None]) -> None:
    register("kgcoop", KgCoOpLoss)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "kgcoop",
        Recipe(
            summary="KgCoOp: learned contexts that stay near hand-made prompts",
            prompts="kgcoop",
            loss="kgcoop",
            settings={"train.epochs": 100, "train.batch_size": 128, "train.lr": 0.002, "data.shots": 16},
            # Where `CUSTOM_TEMPLATES` of `trainers/kgcoop.py` differs from those of CoOp's data sets.
            datasets={"dtd": {"loss.template": "a photo of a {}, a type of texture."}},
            paper="Yao et al., Knowledge-guided Context Optimization, CVPR 2023",
        ),
    )

"""VPT: deep prompts in the image tower alone; the text is a hand-made prompt.

Jia et al., Visual Prompt Tuning, ECCV 2022. VPT-Deep on CLIP as MaPLe's authors compare with it (`trainers/vpt.py` of
muzairkhattak/multimodal-prompt-learning): CLIP's own text features are the classifier, there is no linear head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from promptkit import hookimpl
from promptkit.components import PromptGenerator, Scene, TemplatePrompts
from promptkit.learner import Recipe


class VPTPrompts(TemplatePrompts):
    """Learned tokens at the input of the first blocks of the image tower, and a hand-made text."""

    @dataclass(frozen=True)
    class Options:
        n_ctx: Annotated[int, "tokens in each block", Ge(1)] = 8
        depth: Annotated[int, "blocks with prompts, the first included; fewer where the tower has fewer", Ge(1)] = 12
        template: Annotated[str, "the text's prompt, with one {} for the class name"] = "a photo of a {}."

    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        widths = scene.backbone.intermediate_widths
        self.tokens = nn.Parameter(0.02 * torch.randn(min(options.depth, len(widths)), 1, options.n_ctx, widths[0]))

    def vision(self) -> Float[Tensor, "J 1 M V"]:
        return self.tokens


@hookimpl
def register_prompts(register: Callable[[str, type[PromptGenerator]], None]) -> None:
    register("vpt", VPTPrompts)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "vpt",
        Recipe(
            summary="VPT: deep prompts in the image tower alone",
            prompts="vpt",
            settings={
                "prompts.template": "a photo of a {}.",  # on every data set, as in `trainers/vpt.py`
                "train.epochs": 5,
                "train.batch_size": 4,
                "train.lr": 0.0025,
                "data.shots": 16,
            },
            paper="Jia et al., Visual Prompt Tuning, ECCV 2022",
        ),
    )

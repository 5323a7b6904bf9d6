"""CoOp and CoCoOp as promptkit learners.

Zhou et al., Learning to Prompt for Vision-Language Models, IJCV 2022.
Zhou et al., Conditional Prompt Learning for Vision-Language Models, CVPR 2022.
"""

from collections.abc import Callable

from promptkit import hookimpl
from promptkit.components import PromptGenerator
from promptkit.learner import Recipe
from promptkit_coop.prompts import CoCoOpPrompts, CoOpPrompts

# Both papers start with one epoch at a small, constant rate.
PUBLISHED = {
    "train.lr": 0.002,
    "train.warmup_epochs": 1,
    "train.warmup_lr": 1e-5,
    "data.shots": 16,
}


@hookimpl
def register_prompts(register: Callable[[str, type[PromptGenerator]], None]) -> None:
    register("coop", CoOpPrompts)
    register("cocoop", CoCoOpPrompts)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "coop",
        Recipe(
            summary="CoOp: learned context vectors, one set for all classes or one for each",
            prompts="coop",
            settings={**PUBLISHED, "train.epochs": 200, "train.batch_size": 32},
            paper="Zhou et al., Learning to Prompt for Vision-Language Models, IJCV 2022",
        ),
    )
    register(
        "cocoop",
        Recipe(
            summary="CoCoOp: learned context vectors that a small network shifts for each image",
            prompts="cocoop",
            settings={**PUBLISHED, "train.epochs": 10, "train.batch_size": 1},
            paper="Zhou et al., Conditional Prompt Learning for Vision-Language Models, CVPR 2022",
        ),
    )

"""CuPL: classes are what a language model says that they look like; nothing is trained.

Pratt et al., What Does a Platypus Look Like? Generating Customized Prompts for Zero-Shot Image Classification, ICCV 2023.
As the notebooks of the released code (sarahpratt/CuPL): the mean of the unit-norm features of a class's sentences.
"""

from collections.abc import Callable

from promptkit import hookimpl
from promptkit.components import PromptGenerator, TemplatePrompts
from promptkit.learner import Recipe


class CuPLPrompts(TemplatePrompts):
    """The mean of what a class's descriptions say."""

    described = True


@hookimpl
def register_prompts(register: Callable[[str, type[PromptGenerator]], None]) -> None:
    register("cupl", CuPLPrompts)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "cupl",
        Recipe(
            summary="CuPL: zero-shot CLIP with a language model's descriptions of the classes",
            prompts="cupl",
            settings={"train.epochs": 0},
            paper="Pratt et al., What Does a Platypus Look Like?, ICCV 2023",
        ),
    )

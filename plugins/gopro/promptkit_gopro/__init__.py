"""GOPro as a promptkit learner.

Singha, Jha and Banerjee, GOPro: Generate and Optimize Prompts in CLIP using Self-Supervised Learning, BMVC 2023.

Two recipes: `gopro` follows the paper, `gopro-reference` the arithmetic of the released code
(github.com/mainaksingha01/GOPro, `trainers/gopro.py`). The README lists what differs.
"""

from collections.abc import Callable

from promptkit import hookimpl
from promptkit.components import Loss, Projector, PromptGenerator, Views
from promptkit.learner import Recipe
from promptkit_gopro.losses import GOProLoss
from promptkit_gopro.projector import GOProProjector, ReferenceProjector
from promptkit_gopro.prompts import GOProPrompts
from promptkit_gopro.views import GOProViews

PAPER = "Singha et al., GOPro: Generate and Optimize Prompts in CLIP using Self-Supervised Learning, BMVC 2023"
PUBLISHED = {
    "train.epochs": 50,
    "train.batch_size": 4,
    "train.lr": 0.002,
    "train.warmup_epochs": 1,
    "train.warmup_lr": 1e-5,
    "data.shots": 16,
}


@hookimpl
def register_prompts(register: Callable[[str, type[PromptGenerator]], None]) -> None:
    register("gopro", GOProPrompts)


@hookimpl
def register_projectors(register: Callable[[str, type[Projector]], None]) -> None:
    register("gopro", GOProProjector)
    register("gopro-reference", ReferenceProjector)


@hookimpl
def register_views(register: Callable[[str, type[Views]], None]) -> None:
    register("gopro", GOProViews)


@hookimpl
def register_losses(register: Callable[[str, type[Loss]], None]) -> None:
    register("gopro", GOProLoss)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "gopro",
        Recipe(
            summary="GOPro as its paper has it: contexts from the image's style and content, three views, three losses",
            prompts="gopro",
            projector="gopro",
            views="gopro",
            loss="gopro",
            settings=PUBLISHED,
            paper=PAPER,
        ),
    )
    register(
        "gopro-reference",
        Recipe(
            summary="GOPro with the arithmetic of its released code",
            prompts="gopro",
            projector="gopro-reference",
            views="gopro",
            loss="gopro",
            settings={
                **PUBLISHED,
                "prompts.style": "average",
                "prompts.heads": "shared",
                "prompts.init": "torch",
            },
            paper=PAPER,
        ),
    )

"""What a teacher run says about the training pictures: asked once, before the first step."""

from dataclasses import replace

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from promptkit.config import RunConfig
from promptkit.data.layouts import Dataset
from promptkit.errors import ConfigError
from promptkit.evaluation.evaluate import ask_all
from promptkit.evaluation.passes import Pass
from promptkit.features.sources import Source
from promptkit.learner import Learner
from promptkit.progress import reported
from promptkit.settings import LoaderSettings


def ask_teacher(
    teacher: Learner, pictures: Dataset, config: RunConfig, cache: bool, console: Console
) -> Float[Tensor, "N C"]:
    """Its logits of every training picture, prepared as its own backbone wants them; nan where one is not readable.

    Raises ConfigError for a teacher that adapts to the pictures that it is asked about.
    """
    if teacher.adapts:
        raise ConfigError(
            f"{config.train.teacher} adapts to the pictures it is asked about ({teacher.adapts})",
            "teach with another run",
        )
    loading = replace(config.loading, batch_size=LoaderSettings.batch_size)
    source = Source.evaluation(pictures.items, pictures.root, teacher.test_views, teacher.seed, loading)
    # Every process, as each may meet any picture.
    asked = Pass({config.train.teacher: teacher}, source, torch.arange(len(source.items)), loading.batch_size, True)
    logits = torch.full((len(source.items), len(teacher.classnames)), torch.nan)

    def note(name: str, said: Tensor, index: Tensor) -> None:
        logits[index] = said.float().cpu()

    with reported(console, "asking the teacher", 2 * len(source.items)) as advance:
        ask_all(asked, "", note, cache, advance)
    return logits

"""A finished run that takes pictures as they come."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from promptkit.build import build_learner, load_backbone, pick_device
from promptkit.components import Scene
from promptkit.config import RunConfig, resolve
from promptkit.data.images import Unreadable, open_image, to_rgb
from promptkit.data.layouts import Item
from promptkit.data.loading import eval_loader, views_to_test, worker_death_explained
from promptkit.errors import ConfigError
from promptkit.evaluation.evaluate import check_logits, predict_pixels
from promptkit.learner import Learner
from promptkit.registry import installed
from promptkit.runs.hub import local_run
from promptkit.runs.opening import restore, run_config
from promptkit.settings import LoaderSettings, Scalar
from promptkit.tensors import Batch

Picture = str | os.PathLike[str] | Image.Image | np.ndarray
"""A file, an opened picture of any mode, or uint8 of shape (H W), (H W 1), (H W 3) or (H W 4)."""


_ONE = (str, os.PathLike, Image.Image, np.ndarray)


class Answer(TypedDict):
    """A class, and its probability out of all classes that were asked about."""

    label: str
    score: float


@dataclass(frozen=True)
class Answered:
    """What was said about the files of a batch, likeliest class first, and which of them could not be read."""

    answers: Mapping[Path, list[Answer]]
    unreadable: Sequence[Unreadable]


class Classifier:
    """Takes pictures of any size and mode, and says what they show.

    Its answers have the form of Hugging Face's zero-shot image classification pipeline.
    """

    def __init__(self, learner: Learner, loading: LoaderSettings = LoaderSettings()) -> None:
        """`learner` is ready to predict; `loading` says how files are read.

        Raises ConfigError for a learner that needs all pictures of a domain before it answers about one.
        """
        if learner.adapts == "transductive":
            raise ConfigError(
                f"{type(learner).__name__} answers about all pictures of a domain at once",
                "promptkit eval shows it them",
            )
        self.learner = learner
        self.loading = loading

    @property
    def classnames(self) -> tuple[str, ...]:
        """The classes that are asked about; `learner.set_classes` chooses others."""
        return self.learner.classnames

    def __call__(
        self, pictures: Picture | Sequence[Picture], topk: int | None = None
    ) -> list[Answer] | list[list[Answer]]:
        """Classify one picture or several.

        Args:
            pictures: One, or a sequence of them.
            topk: How many of the likeliest classes to return; all by default.

        Returns:
            `[{"label": ..., "score": ...}, ...]`, the likeliest class first; of several pictures, a list of such lists.

        Raises:
            DataError: For a picture that can't be read, naming it.
            EvaluationError: When the learner's logits are not finite.
        """
        if isinstance(pictures, _ONE):
            return self._answers(self._batch([pictures]), [pictures], topk)[0]
        found: list[list[Answer]] = []
        for first in range(0, len(pictures), self.loading.batch_size):
            some = pictures[first : first + self.loading.batch_size]
            found += self._answers(self._batch(some), some, topk)
        return found

    def preprocess(self, picture: Picture) -> Float[Tensor, "3 H W"]:
        """A picture as the backbone wants it, in the view "image". Raises DataError when it can't be read."""
        return self._views(picture)["image"]

    def _batch(self, pictures: Sequence[Picture]) -> Batch:
        """Pictures in all test views of the learner."""
        made = [self._views(picture) for picture in pictures]
        views = {name: torch.stack([views[name] for views in made]) for name in made[0]}
        return Batch(views, torch.full((len(pictures),), -1))

    def _views(self, picture: Picture) -> dict[str, Tensor]:
        if isinstance(picture, str | os.PathLike):
            pixels = open_image(Path(picture), max_pixels=self.loading.max_pixels)
        else:
            pixels = to_rgb(picture)
        return views_to_test(self.learner.test_views, pixels, self.learner.seed)

    def classify_files(self, paths: Sequence[Path], topk: int | None = None) -> Iterator[Answered]:
        """Classify many files, batch by batch, read by several workers.

        Args:
            paths: At least one.
            topk: How many of the likeliest classes to return; all by default.

        Raises:
            DataError: With `loading.strict`, for the first file that can't be read.
            EvaluationError: When the learner's logits are not finite.
            WorkerError: When a data worker dies.
        """
        items = [Item(path, -1, "", None) for path in paths]
        with worker_death_explained():
            for loaded in eval_loader(items, self.learner.test_views, self.loading, seed=self.learner.seed):
                read = [paths[place] for place in loaded.index.tolist()]
                said = self._answers(loaded.batch, read, topk) if loaded.batch else []
                yield Answered(dict(zip(read, said, strict=True)), loaded.unreadable)

    def _answers(self, batch: Batch, pictures: Sequence[object], topk: int | None) -> list[list[Answer]]:
        logits = predict_pixels(self.learner, batch)
        check_logits("", self.learner, logits, [p if isinstance(p, str | Path) else "a picture" for p in pictures])
        kept = min(topk or len(self.classnames), len(self.classnames))
        scores, likeliest = logits.float().softmax(1).topk(kept)
        return [
            [Answer(label=self.classnames[row], score=score) for row, score in zip(rows, probabilities, strict=True)]
            for rows, probabilities in zip(likeliest.tolist(), scores.tolist(), strict=True)
        ]


def open_classifier(
    run: str | Path,
    classnames: Sequence[str] | None = None,
    device: str = "auto",
    flags: Mapping[str, Scalar] | None = None,
    loading: LoaderSettings = LoaderSettings(),
) -> Classifier:
    """See `promptkit.load`. `flags` are settings, by `slot.field`, that replace those of the run: where its backbone is."""
    if str(run) in installed().entries["recipe"] and not os.path.lexists(run):
        return Classifier(_untrained(resolve(installed(), str(run), flags=flags), classnames, device), loading)
    run = local_run(run)
    config = run_config(run, flags)
    backbone: Any = load_backbone(config.backbone, installed()).to(pick_device(device))
    return Classifier(restore(run, config, backbone, classnames), loading)


def _untrained(config: RunConfig, classnames: Sequence[str] | None, device: str) -> Learner:
    """The learner of a recipe that trains nothing. Raises ConfigError for one that trains, and where no classes are named."""
    recipe = config.recipe
    if config.train.epochs:
        raise ConfigError(
            f"{recipe} has to be trained before it can answer, and there is no run {recipe}",
            f"promptkit train {recipe} --data PATH makes runs/{recipe}; zeroshot answers without a training",
        )
    if not classnames:
        raise ConfigError(
            f"{recipe} was trained on no classes, so it has to be told which", "such as: --classes cat,dog"
        )
    backbone: Any = load_backbone(config.backbone, installed()).to(pick_device(device))
    learner = build_learner(config, installed(), Scene(backbone, tuple(classnames)), to_train=False)
    learner.eval()
    return learner

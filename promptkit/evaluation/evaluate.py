"""Evaluate several learners on the same pictures: each picture is read once and each image tower runs once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from promptkit import distributed
from promptkit.data.layouts import Dataset
from promptkit.data.loading import MAX_PIXELS, Loader, Unreadable, eval_loader, worker_death_explained
from promptkit.errors import DataError
from promptkit.evaluation.metrics import Scores, scores, verdicts
from promptkit.learner import Learner
from promptkit.tensors import ImageFeatures


@dataclass(frozen=True)
class Evaluation:
    """Scores by learner and domain ("all" where the data has no domains), and the pictures that could not be read."""

    scores: Mapping[str, Mapping[str, Scores]]
    unreadable: Sequence[Unreadable]


def evaluate(
    learners: Mapping[str, Learner],
    dataset: Dataset,
    batch_size: int = 64,
    workers: int | None = None,
    strict: bool = False,
    max_pixels: int = MAX_PIXELS,
    on_batch: Callable[[int], None] = lambda pictures: None,
) -> Evaluation:
    """Classify every picture of the data set with every learner, in the classes that the learners are set to.

    All learners need the same image spec. `on_batch` hears how many pictures were done. Raises DataError when no picture
    of a domain is readable, or with `strict` at the first that is not; WorkerError when a data worker dies.
    """
    image = next(iter(learners.values())).scene.backbone.image
    rank, n = distributed.rank(), distributed.processes()
    items = dataset.items[rank::n]
    loader = eval_loader(items, image, batch_size=batch_size, workers=workers, strict=strict, max_pixels=max_pixels)
    with worker_death_explained():
        own_verdicts, own_index, own_unreadable = _judge_all(list(learners.values()), loader, on_batch)
    # Every process saw every n-th picture, once, and now all know what the others saw.
    index = distributed.gather_objects([rank + n * i for i in own_index])
    unreadable = distributed.gather_objects(own_unreadable)
    judged = [
        torch.tensor(distributed.gather_objects(own.tolist()), dtype=torch.float64).reshape(-1, 3)
        for own in own_verdicts
    ]

    label = torch.tensor([dataset.items[i].label for i in index])
    where: dict[str, list[int]] = {domain: [] for domain in dataset.domains or ("all",)}
    for row, i in enumerate(index):
        where[dataset.items[i].domain or "all"].append(row)
    empty = [domain for domain, rows in where.items() if not rows]
    if empty:
        raise DataError(
            f"no readable picture to evaluate in {', '.join(empty)}", "choose others with --domains or --split"
        )
    figures = {
        name: {domain: scores(verdict[rows], label[rows], len(learner.classnames)) for domain, rows in where.items()}
        for (name, learner), verdict in zip(learners.items(), judged, strict=True)
    }
    return Evaluation(figures, unreadable)


def _judge_all(
    learners: Sequence[Learner], loader: Loader, on_batch: Callable[[int], None]
) -> tuple[list[Tensor], list[int], list[Unreadable]]:
    """The verdicts of each learner, the items they belong to, and what was unreadable."""
    found: list[list[Tensor]] = [[] for _ in learners]
    index: list[int] = []
    unreadable: list[Unreadable] = []
    for loaded in loader:
        unreadable += loaded.unreadable
        on_batch(len(loaded.index) + len(loaded.unreadable))
        if loaded.batch is None:
            continue
        index += loaded.index.tolist()
        for verdict, logits in zip(found, predict_together(learners, loaded.batch.views["image"]), strict=True):
            verdict.append(verdicts(logits, loaded.batch.label))
    return [torch.cat(verdict) if verdict else torch.empty(0, 3) for verdict in found], index, unreadable


@torch.no_grad()
def predict_together(learners: Sequence[Learner], pixels: Float[Tensor, "B 3 H Wd"]) -> list[Float[Tensor, "B C"]]:
    """`Learner.predict` of each; an image pass of the frozen tower serves every learner that needs no more than it saw."""
    passes: list[tuple[Learner, ImageFeatures]] = []
    logits: dict[int, Tensor] = {}
    for learner in sorted(learners, key=_demand, reverse=True):
        features = next((seen for other, seen in passes if _serves(other, learner)), None)
        if features is None:
            features = learner.encode_image(pixels.to(learner.scene.backbone.logit_scale.device, non_blocking=True))
            passes.append((learner, features))
        logits[id(learner)] = learner.predict_features(features)
    return [logits[id(learner)] for learner in learners]


def _demand(learner: Learner) -> int:
    return (learner.prompts.taps() is not None) + learner.reads_patches


def _serves(seen: Learner, learner: Learner) -> bool:
    """Does what `seen` read of the image tower hold all that `learner` reads?"""
    return (
        seen.scene.backbone is learner.scene.backbone
        and seen.prompts.vision() is None
        and learner.prompts.vision() is None
        and learner.prompts.taps() in (None, seen.prompts.taps())
        and seen.reads_patches >= learner.reads_patches
    )

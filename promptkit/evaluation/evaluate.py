"""Evaluate several learners on the same pictures: each picture is read once and each image tower runs once."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from promptkit import distributed
from promptkit.data.features import cached_features
from promptkit.data.images import MAX_PIXELS, Unreadable
from promptkit.data.layouts import Dataset, Item
from promptkit.data.loading import worker_death_explained
from promptkit.data.sources import FeatureSpec, Source
from promptkit.errors import DataError, OutputError
from promptkit.evaluation.metrics import Scores, predictions, scores
from promptkit.learner import Learner

log = logging.getLogger("promptkit")


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
    cache: bool = True,
    on_batch: Callable[[int], None] = lambda images: None,
) -> Evaluation:
    """Classify every picture of the data set with every learner, in the classes that the learners are set to.

    With `cache`, what the image towers see is kept in feature caches, one for each domain, and read from there the next
    time; a learner with vision prompts always needs the pictures. All learners need the same image spec. `on_batch`
    hears how many pictures were done. Raises DataError when no picture of a domain is readable, or with `strict` at the
    first that is not; WorkerError when a data worker dies.
    """
    image = next(iter(learners.values())).scene.backbone.image
    items: dict[str, list[Item]] = {domain: [] for domain in dataset.domains or ("all",)}
    for item in dataset.items:
        items[item.domain or "all"].append(item)
    figures: dict[str, dict[str, Scores]] = {name: {} for name in learners}
    unreadable: dict[Path, Unreadable] = {}
    empty = []
    rank, n = distributed.rank(), distributed.processes()
    for domain, images in items.items():
        source = Source.evaluation(images[rank::n], image, batch_size, workers, strict, max_pixels)
        with worker_death_explained():
            own, left_out = _predict_all(list(learners.values()), source, batch_size, cache, on_batch)
        unreadable |= {image.path: image for image in distributed.gather_objects(list(left_out))}
        # Every process saw every n-th picture, once, and now all know what the others saw.
        predicted_rows = torch.empty(len(learners), len(images), 3, dtype=torch.float64)
        for first, part in enumerate(distributed.gather_objects([own])):
            predicted_rows[:, first::n] = part
        seen = ~predicted_rows[0, :, 0].isnan()
        if not seen.any():
            empty.append(domain)
            continue
        label = torch.tensor([item.label for item in images])[seen]
        for (name, learner), prediction in zip(learners.items(), predicted_rows[:, seen], strict=True):
            figures[name][domain] = scores(prediction, label, len(learner.classnames))
    if empty:
        raise DataError(
            f"no readable picture to evaluate in {', '.join(empty)}", "choose others with --domains or --split"
        )
    return Evaluation(figures, list(unreadable.values()))


def _predict_all(
    learners: Sequence[Learner], source: Source, batch_size: int, cache: bool, on_batch: Callable[[int], None]
) -> tuple[Float64[Tensor, "learners n 3"], Sequence[Unreadable]]:
    """The predictions of each learner, NaN for pictures that were not readable, and which those are."""
    predicted_rows = torch.full((len(learners), len(source.items), 3), torch.nan, dtype=torch.float64)
    if not source.items:
        return predicted_rows, []
    label = torch.tensor([item.label for item in source.items])
    from_cache = _group(learners) if cache else []
    unreadable: Sequence[Unreadable] = []
    try:
        opened = cached_features(source, [spec for spec, _ in from_cache], on_batch)
    except OutputError as error:
        log.warning("%s; evaluated without keeping features", error.message)
        from_cache, opened = [], []
    for cached, (_, rows) in zip(opened, from_cache, strict=True):
        unreadable = cached.unreadable
        readable = cached.readable.nonzero()[:, 0]
        for index in torch.split(readable, batch_size) if len(readable) else ():
            device = learners[rows[0]].scene.backbone.logit_scale.device
            features = cached.features(index).to(device)
            for row in rows:
                predicted_rows[row, index] = predictions(learners[row].predict_features(features), label[index])
    others = [row for row in range(len(learners)) if not any(row in rows for _, rows in from_cache)]
    if others:
        unreadable = []
        for loaded in source.loader():
            unreadable = [*unreadable, *loaded.unreadable]
            if not from_cache:
                on_batch(len(loaded.index) + len(loaded.unreadable))
            if loaded.batch is not None:
                logits = predict_together([learners[row] for row in others], loaded.batch.views["image"])
                for row, scored in zip(others, logits, strict=True):
                    predicted_rows[row, loaded.index] = predictions(scored, loaded.batch.label)
    return predicted_rows, unreadable


def _group(learners: Sequence[Learner]) -> list[tuple[FeatureSpec, list[int]]]:
    """The learners whose image features are not their own, by what has to be in those; few passes serve many."""
    groups: list[tuple[FeatureSpec, list[int]]] = []
    found = {row: spec for row, learner in enumerate(learners) if (spec := FeatureSpec.of(learner))}
    for row, wanted in sorted(found.items(), key=lambda item: item[1].demand, reverse=True):
        serving = next((rows for kept, rows in groups if kept.serves(wanted)), None)
        if serving is None:
            groups.append((wanted, [row]))
        else:
            serving.append(row)
    return groups


@torch.no_grad()
def predict_together(learners: Sequence[Learner], pixels: Float[Tensor, "B 3 H Wd"]) -> list[Float[Tensor, "B C"]]:
    """`Learner.predict` of each; an image pass of the frozen tower serves every learner that needs no more than it saw."""
    logits: dict[int, Tensor] = {}
    for spec, rows in _group(learners):
        features = spec.encode(pixels)
        logits |= {row: learners[row].predict_features(features) for row in rows}
    for row, learner in enumerate(learners):
        if row not in logits:
            logits[row] = learner.predict(pixels.to(learner.scene.backbone.logit_scale.device, non_blocking=True))
    return [logits[row] for row in range(len(learners))]

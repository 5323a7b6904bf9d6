"""Evaluate several learners on the same images: each image is read once and each image tower runs once."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from promptkit import distributed
from promptkit.backbones.base import FeatureSpec
from promptkit.data.images import Unreadable
from promptkit.data.layouts import Dataset
from promptkit.data.loading import worker_death_explained
from promptkit.errors import DataError, EvaluationError, OutputError
from promptkit.features.cache import cached_features
from promptkit.features.sources import Source, is_cacheable
from promptkit.learner import Learner
from promptkit.metrics import STANDARD, Metric, Predictions, Scores
from promptkit.settings import LoaderSettings
from promptkit.tensors import Batch, NoPixels

log = logging.getLogger("promptkit")


@dataclass(frozen=True)
class Evaluation:
    """What learners answered, by learner and domain ("all" where the data has none), and what could not be read."""

    scores: Mapping[str, Mapping[str, Scores]]
    predictions: Mapping[str, Mapping[str, Predictions]]
    """`index` counts the images of the domain, as `Dataset.by_domain` has them."""
    unreadable: Sequence[Unreadable]


def evaluate(
    learners: Mapping[str, Learner],
    dataset: Dataset,
    loading: LoaderSettings = LoaderSettings(),
    cache: bool = True,
    metrics: Mapping[str, Metric] = STANDARD,
    on_batch: Callable[[int], None] = lambda images: None,
) -> Evaluation:
    """Classify every image of the data set with `Learner.predict` of every learner, in the classes it is set to.

    Args:
        learners: By name; all of the same image spec.
        dataset: Its labels are looked up by name in each learner's classes; those may be more, and in another order.
        loading: How images are read.
        cache: Keep what the image towers see for the next time; a learner that needs pixels always reads the images.
        metrics: What to compute of the answers.
        on_batch: Called with the number of images that were encoded or found in the cache, and for each learner with
            the number that it classified: all in all, 1 + learners times the images.

    Raises:
        DataError: When no image of a domain is readable, or with `loading.strict` at the first that is not.
        EvaluationError: When a learner is not asked about the class of some image, or its logits are not finite, or not
            one for each of its classes.
        WorkerError: When a data worker dies.
    """
    image = next(iter(learners.values())).scene.backbone.image
    labels = {name: _labels(name, learner, dataset) for name, learner in learners.items()}
    items = dataset.by_domain()
    answers: dict[str, dict[str, Predictions]] = {name: {} for name in learners}
    unreadable: dict[Path, Unreadable] = {}
    rank, n = distributed.rank(), distributed.processes()
    for domain, images in items.items():
        source = Source.evaluation(images[rank::n], dataset.root, image, loading)
        with worker_death_explained():
            own, left_out = _predict_all(learners, labels, source, loading.batch_size, cache, on_batch)
        unreadable |= {one.path: one for one in distributed.gather_objects(list(left_out))}
        # Every process saw every n-th image, once, and now all know what the others saw.
        gathered = distributed.gather_objects([own])
        for row, name in enumerate(learners):
            batches = [(first, batch) for first, rows in enumerate(gathered) for batch in rows[row]]
            if batches:
                parts = [replace(batch, index=first + n * batch.index) for first, batch in batches]
                answers[name][domain] = Predictions.together(parts)
    if empty := [domain for domain in items if any(domain not in found for found in answers.values())]:
        raise DataError(
            f"no readable picture to evaluate in {', '.join(empty)}", "choose others with --domains or --split"
        )
    scores = {
        name: {
            domain: Scores.of(predictions, len(learners[name].classnames), metrics)
            for domain, predictions in found.items()
        }
        for name, found in answers.items()
    }
    return Evaluation(scores, answers, list(unreadable.values()))


def _labels(name: str, learner: Learner, dataset: Dataset) -> Tensor:
    """Where the classes of the data stand among the learner's, by label; -1 for one without images that is not there."""
    places = {known: place for place, known in enumerate(learner.classnames)}
    if lacking := sorted({dataset.classnames[item.label] for item in dataset.items} - places.keys()):
        raise EvaluationError(
            f"{name or 'the learner'} is asked about {len(places)} classes, and {', '.join(lacking[:10])} is none of them",
            "ask about the classes of the data with set_classes",
        )
    return torch.tensor([places.get(known, -1) for known in dataset.classnames])


def _predict_all(
    named: Mapping[str, Learner],
    labels: Mapping[str, Tensor],
    source: Source,
    batch_size: int,
    cache: bool,
    on_batch: Callable[[int], None],
) -> tuple[list[list[Predictions]], Sequence[Unreadable]]:
    """The predictions of each learner, batch by batch, and the images that were not readable."""
    names, learners = list(named), list(named.values())
    answers: list[list[Predictions]] = [[] for _ in learners]
    if not source.items:
        return answers, []
    label = torch.tensor([item.label for item in source.items])
    own = [labels[name][label] for name in names]
    cached = [(spec, rows) for spec, rows in _by_spec(learners) if spec and is_cacheable(spec)] if cache else []
    unreadable: Sequence[Unreadable] = []
    try:
        opened = cached_features(source, [spec for spec, _ in cached], on_batch)
    except OutputError as error:
        log.warning("%s; evaluated without keeping features", error.message)
        cached, opened = [], []
    for features, (spec, rows) in zip(opened, cached, strict=True):
        unreadable = features.unreadable
        readable = features.readable.nonzero()[:, 0]
        for index in torch.split(readable, batch_size) if len(readable) else ():
            batch = Batch(NoPixels(), label[index], features.features(index)).to(spec.backbone.device)
            for row in rows:
                logits = learners[row].predict(batch)
                check_logits(names[row], learners[row], logits, [source.items[i].path for i in index.tolist()])
                answers[row].append(Predictions.of(logits, own[row][index], index))
                on_batch(len(index))
    others = [row for row in range(len(learners)) if not any(row in rows for _, rows in cached)]
    if others:
        unreadable = []
        for loaded in source.loader(source.items):
            unreadable = [*unreadable, *loaded.unreadable]
            if not cached:
                on_batch(len(loaded.index) + len(loaded.unreadable))
            on_batch(len(others) * (len(loaded.index) + len(loaded.unreadable)))
            if loaded.batch is not None:
                together = predict_together([learners[row] for row in others], loaded.batch)
                for row, scored in zip(others, together, strict=True):
                    check_logits(
                        names[row], learners[row], scored, [source.items[i].path for i in loaded.index.tolist()]
                    )
                    answers[row].append(Predictions.of(scored, own[row][loaded.index], loaded.index))
    return answers, unreadable


def check_logits(name: str, learner: Learner, logits: Tensor, paths: Sequence[object]) -> None:
    """Raises EvaluationError for what can't be scored; `paths` are those of the images."""
    who = f"{name or 'the learner'} answers"
    expected = len(paths), len(learner.classnames)
    if tuple(logits.shape) != expected:
        raise EvaluationError(
            f"{who} with logits of shape {tuple(logits.shape)}; {expected[0]} images and {expected[1]} classes make "
            f"{expected}",
            "promptkit check RECIPE looks for what is wrong with it",
        )
    broken = (~torch.isfinite(logits).all(1)).nonzero()[:, 0].tolist()
    if broken:
        more = f" and {len(broken) - 1} more of its batch" if len(broken) > 1 else ""
        raise EvaluationError(
            f"{who} with logits that are not finite for {paths[broken[0]]}{more}",
            "nothing was scored; train it again with a smaller --lr, or look for what is wrong with promptkit check RECIPE",
        )


def _by_spec(learners: Sequence[Learner]) -> list[tuple[FeatureSpec | None, list[int]]]:
    """The learners by what has to be computed for them: few passes of the tower serve many; None is pixels."""
    groups: list[tuple[FeatureSpec | None, list[int]]] = []
    specs = {row: learner.required_features() for row, learner in enumerate(learners)}
    pixels = [row for row, spec in specs.items() if spec is None]
    wanted = {row: spec for row, spec in specs.items() if spec is not None}
    for row, spec in sorted(wanted.items(), key=lambda item: item[1].demand, reverse=True):
        serving = next((rows for kept, rows in groups if kept and kept.serves(spec)), None)
        if serving is None:
            groups.append((spec, [row]))
        else:
            serving.append(row)
    return [*groups, *([(None, pixels)] if pixels else [])]


@torch.no_grad()
def predict_together(learners: Sequence[Learner], batch: Batch) -> list[Float[Tensor, "B C"]]:
    """`Learner.predict` of each; a pass of the frozen tower serves every learner that needs no more than it saw."""
    logits: dict[int, Tensor] = {}
    for spec, rows in _by_spec(learners):
        seen = batch.to(learners[rows[0]].scene.backbone.device)
        if spec:
            seen = replace(seen, features=spec.encode(seen.views["image"]))
        logits |= {row: learners[row].predict(seen) for row in rows}
    return [logits[row] for row in range(len(learners))]

"""Evaluate several learners on the same images: each image is read once and each image tower runs once."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from promptkit.evaluation.passes import Pass, groups, make_pass
from promptkit.features.cache import cached_features
from promptkit.features.sources import is_cacheable
from promptkit.learner import Learner
from promptkit.metrics import STANDARD, Metric, Predictions, Scores
from promptkit.settings import LoaderSettings
from promptkit.tensors import Batch, ImageFeatures, NoPixels

log = logging.getLogger("promptkit")


@dataclass(frozen=True)
class Evaluation:
    """What learners answered, by learner and domain ("all" where the data has none), and what could not be read."""

    scores: Mapping[str, Mapping[str, Scores]]
    predictions: Mapping[str, Mapping[str, Predictions]]
    """`index` counts the images of the domain, as `Dataset.by_domain` has them."""
    unreadable: Sequence[Unreadable]


def work(learners: Mapping[str, Learner], dataset: Dataset) -> int:
    """What `on_batch` hears of, over the processes."""
    return (len(groups(learners)) + len(learners)) * len(dataset.items)


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
            the number that it classified: all in all, `work` of them.

    Raises:
        DataError: When no image of a domain is readable, or with `loading.strict` at the first that is not.
        EvaluationError: When a learner is not asked about the class of some image, or its logits are not finite, or not
            one for each of its classes.
        WorkerError: When a data worker dies.
    """
    labels = {name: _labels(name, learner, dataset) for name, learner in learners.items()}
    items = dataset.by_domain()
    answers: dict[str, dict[str, Predictions]] = {name: {} for name in learners}
    unreadable: dict[Path, Unreadable] = {}
    for domain, images in items.items():
        for group in groups(learners):
            for learner in group.values():
                learner.reset()
            asked = make_pass(group, images, dataset.root, loading)
            own: dict[str, list[Predictions]] = {name: [] for name in group}

            def keep(
                name: str,
                logits: Tensor,
                index: Tensor,
                asked: Pass = asked,
                own: dict[str, list[Predictions]] = own,
            ) -> None:
                label = torch.tensor([asked.source.items[i].label for i in index.tolist()])
                own[name].append(Predictions.of(logits, labels[name][label], asked.places[index]))

            with worker_death_explained():
                left_out = ask_all(asked, domain, keep, cache, on_batch)
            unreadable |= {one.path: one for one in distributed.gather_objects(list(left_out))}
            gathered = distributed.gather_objects([own] if asked.answers else [])
            for name in group:
                if parts := [part for found in gathered for part in found[name]]:
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


Told = Callable[[str, Tensor, Tensor], None]
"""What hears a learner's name, its logits of a batch, and where the images of the batch stand in the source."""


def ask_all(asked: Pass, domain: str, told: Told, cache: bool, on_batch: Callable[[int], None]) -> Sequence[Unreadable]:
    """Let every learner answer, batch by batch. Returns the images that were not readable."""
    source, learners = asked.source, asked.learners
    if not source.items:
        return []

    def ask(name: str, batch: Batch, index: Tensor) -> None:
        learner = learners[name]
        domains = learner.scene.domains
        place = torch.full_like(batch.domain, domains.index(domain) if domain in domains else -1)
        with torch.no_grad():
            logits = learner.predict(replace(batch, domain=place).to(learner.scene.backbone.device))
        check_logits(name, learner, logits, [source.items[i].path for i in index.tolist()])
        told(name, logits, index)

    by_spec = _by_spec(learners)
    keep = cache and source.can_be_kept
    cached = [(spec, names) for spec, names in by_spec if spec and is_cacheable(spec)] if keep else []
    unreadable: Sequence[Unreadable] = []
    try:
        opened = cached_features(source, [spec for spec, _ in cached], on_batch)
    except OutputError as error:
        log.warning("%s; evaluated without keeping features", error.message)
        cached, opened = [], []
    for features, (_, names) in zip(opened, cached, strict=True):
        unreadable = features.unreadable
        readable = features.readable.nonzero()[:, 0]
        for index in torch.split(readable, asked.batch_size) if len(readable) else ():
            batch = _unlabelled(NoPixels(), features.features(index))
            for name in names:
                ask(name, batch, index)
                on_batch(len(index))
    others = [(spec, names) for spec, names in by_spec if (spec, names) not in cached]
    if others:
        unreadable = []
        for index, left_out, batches in _shown(asked, [spec for spec, _ in others]):
            unreadable = [*unreadable, *left_out]
            count = len(index) + len(left_out)
            on_batch(count * (sum(len(names) for _, names in others) + (not cached)))
            for (_, names), batch in zip(others, batches, strict=False):  # no batch where nothing was readable
                for name in names:
                    ask(name, batch, index)
    return unreadable


Shown = tuple[Tensor, tuple[Unreadable, ...], list[Batch]]
"""Where images stand in the source, those that were not readable, and the batch for each spec (none if none was)."""


@torch.no_grad()
def _shown(asked: Pass, specs: Sequence[FeatureSpec | None]) -> Iterator[Shown]:
    """Batches read from the images. Raises EvaluationError where a whole domain would be one batch of pixels."""
    if asked.whole and None in specs:
        raise EvaluationError(
            "a learner that answers about all pictures of a domain at once needs them as features",
            "return what it reads from required_features()",
        )
    batches = (
        (loaded.index, loaded.unreadable, [_seen(loaded.batch, spec) for spec in specs] if loaded.batch else [])
        for loaded in asked.source.loader(asked.source.items)
    )
    if not asked.whole:
        yield from batches
        return
    parts = list(batches)
    columns = zip(*(batches for _, _, batches in parts if batches), strict=True)
    yield (
        torch.cat([index for index, _, _ in parts]),
        tuple(one for _, unreadable, _ in parts for one in unreadable),
        [_unlabelled(NoPixels(), ImageFeatures.together([batch.features for batch in column])) for column in columns],
    )


def _seen(batch: Batch, spec: FeatureSpec | None) -> Batch:
    """A batch of pixels with what is read of them; a pass of the frozen tower serves every learner that needs no more."""
    if spec is None:
        return _unlabelled(batch.views)
    features = spec.encode(torch.cat(list(batch.views.values())))
    return _unlabelled(batch.views, replace(features, views=tuple(batch.views)))


@torch.no_grad()
def predict_pixels(learner: Learner, batch: Batch) -> Float[Tensor, "B C"]:
    """What a learner answers about pictures in its test views."""
    batch = batch.to(learner.scene.backbone.device)
    return learner.predict(_seen(batch, learner.required_features()))


def _unlabelled(views: Mapping[str, Tensor], features: ImageFeatures | None = None) -> Batch:
    """What is handed to `Learner.predict`: no learner is told the answers."""
    n = len(views["image"]) if features is None else len(features.pooled) // len(features.views)
    return Batch(views, torch.full((n,), -1), features)


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


def _by_spec(learners: Mapping[str, Learner]) -> list[tuple[FeatureSpec | None, list[str]]]:
    """The learners by what has to be computed for them: few passes of the tower serve many; None is pixels."""
    found: list[tuple[FeatureSpec | None, list[str]]] = []
    specs = {name: learner.required_features() for name, learner in learners.items()}
    pixels = [name for name, spec in specs.items() if spec is None]
    wanted = {name: spec for name, spec in specs.items() if spec is not None}
    for name, spec in sorted(wanted.items(), key=lambda item: item[1].demand, reverse=True):
        serving = next((names for kept, names in found if kept and kept.serves(spec)), None)
        if serving is None:
            found.append((spec, [name]))
        else:
            serving.append(name)
    return [*found, *([(None, pixels)] if pixels else [])]

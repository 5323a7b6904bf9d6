"""How long the rest of a bench takes: what its runs took so far, and a few steps of the learners that have not run."""

import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from promptkit.data.layouts import Dataset
from promptkit.experiments.pace import Clock, Pace, measure
from promptkit.experiments.plan import Training, images
from promptkit.experiments.protocols import Target
from promptkit.experiments.runner import UNTRAINED, Runner
from promptkit.faults import explained
from promptkit.features.cache import count_missing
from promptkit.features.sources import Source
from promptkit.files import plain_json, text_of
from promptkit.runs.checkpoint import LOG
from promptkit.runs.folder import MAX_LOG
from promptkit.settings import LoaderSettings

log = logging.getLogger("promptkit")

WORTH_MEASURING = 64
"""Batches; the steps that are measured first would be a good part of less work."""

Kind = tuple[str, str, str]
"""Trainings of one learner on the same classes, which cost the same for each image."""


@dataclass(frozen=True)
class Remaining:
    """Seconds, as far as they are known, and the learners of which something is not known."""

    training: float
    testing: float
    untimed: tuple[str, ...] = ()
    """Learners whose training takes nobody knows how long."""
    untested: tuple[str, ...] = ()
    """The same of testing."""

    @property
    def seconds(self) -> float:
        return self.training + self.testing


class Estimate:
    """Of the runs in the runner's shard that have not failed, so many at a time."""

    def __init__(self, runner: Runner, clock: Clock = time.perf_counter, jobs: int = 1) -> None:
        self.runner = runner
        self.clock = clock
        self.jobs = jobs
        self.paces: dict[Kind, Pace] = {}
        self._data: dict[object, Dataset] = {}
        self._encoded: set[object] = set()

    def measure(self) -> None:
        """Let each kind of training that has much work left take a few steps. One that can't is left out."""
        work: dict[Kind, list[Training]] = defaultdict(list)
        for training in self._unfinished():
            work[kind(training)].append(training)
        for of_kind, trainings in work.items():
            left = sum(self._images_left(training) for training in trainings)
            left += sum(len(data.items) for training in trainings for _, data in self._tests(training))
            first = trainings[0]
            if left < WORTH_MEASURING * first.config.train.batch_size:
                continue
            backbone = self.runner.backbone(first.config)
            try:
                pace = measure(first, backbone, self.runner.registry, self.runner.cache, self.clock)
            except BaseException as error:  # its run will say what is wrong
                if not isinstance(error, Exception) and explained(error, self.runner.registry) is None:
                    raise
                log.debug("%s could not be timed", first.learner.name, exc_info=True)
            else:
                self.paces[of_kind] = pace

    def remaining(self) -> Remaining:
        rates = self._rates()
        seconds = {"training": 0.0, "testing": 0.0}
        encoding: dict[object, float] = defaultdict(float)
        missing: dict[object, int] = {}
        untimed, untested = [], []
        for training in self._unfinished():
            pace, learner = self.paces.get(kind(training)), training.learner.name
            if left := self._images_left(training):
                rate = rates.get(kind(training), pace.step if pace else None)
                if rate is None:
                    untimed.append(learner)
                else:
                    seconds["training"] += left * rate
            for target, data in self._tests(training):
                if pace is None:
                    untested.append(learner)
                    continue
                seconds["testing"] += len(data.classnames) * (pace.classes + len(data.items) * pace.predict)
                if pace.spec:  # one pass serves all that are tested on these images
                    key = _key(target, training)
                    if (key, learner) not in missing:  # every seed is tested on the same images
                        missing[key, learner] = self._to_encode(target, training, data, pace)
                    encoding[key] = max(encoding[key], missing[key, learner] * pace.encode)
        testing = seconds["testing"] + sum(encoding.values())
        return Remaining(
            seconds["training"] / self.jobs,
            testing / self.jobs,
            tuple(dict.fromkeys(untimed)),
            tuple(dict.fromkeys(untested)),
        )

    def images_left(self) -> int:
        """To train on, over all epochs."""
        return sum(map(self._images_left, self._unfinished()))

    def _unfinished(self) -> Iterator[Training]:
        outcome = self.runner.outcome
        given_up = {*(failure.folder for failure in outcome.failures), *outcome.elsewhere}
        for training in self.runner.trainings:
            if self.runner.path(training) not in given_up and self.runner.state(training) not in ("done", "damaged"):
                yield training

    def _images_left(self, training: Training) -> int:
        if self.runner.state(training) not in UNTRAINED:
            return 0
        return max(0, training.images - _logged(self.runner.path(training))[0])

    def _rates(self) -> dict[Kind, float]:
        """Seconds for an image, of what has been trained: whole runs of this process, or the epochs in the logs."""
        seen: dict[Kind, list[float]] = defaultdict(lambda: [0, 0.0])
        for training in self.runner.plan.trainings:
            count, seconds = _logged(self.runner.path(training))
            seen[kind(training)][0] += count
            seen[kind(training)][1] += self.runner.seconds.get(training, seconds)
        return {of_kind: seconds / count for of_kind, (count, seconds) in seen.items() if count}

    def _tests(self, training: Training) -> Iterator[tuple[Target, Dataset]]:
        for target, config in self.runner.missing(training):
            key = _key(target, training)
            if key not in self._data:
                self._data[key] = images(target, config)
            yield target, self._data[key]

    def _to_encode(self, target: Target, training: Training, data: Dataset, pace: Pace) -> int:
        """How many images of a target have no cached features; once they have, nobody asks again."""
        key = _key(target, training), training.learner.name
        if key in self._encoded:
            return 0
        assert pace.spec is not None
        loading = replace(training.config.loading, batch_size=LoaderSettings.batch_size)
        source = Source.evaluation(data.items, data.root, pace.views, training.config.train.seed, loading)
        missing = count_missing(source, [pace.spec])
        if not missing:
            self._encoded.add(key)
        return missing


def kind(training: Training) -> Kind:
    return training.learner.name, training.part.data.name, training.part.classes


def _key(target: Target, training: Training) -> tuple[object, ...]:
    data = training.config.data
    return target.data.name, target.domains, target.classes, data.split, data.split_seed, training.config.backbone


def _logged(run: Path) -> tuple[int, float]:
    """Images seen in training, and the seconds it took."""
    count, seconds = 0, 0.0
    try:
        lines = text_of(run / LOG, MAX_LOG).splitlines()
        for row in map(plain_json, lines):
            count, seconds = count + int(row["images"]), seconds + float(row["seconds"])
    except (OSError, ValueError, TypeError, KeyError):
        pass  # no log, or its last line is half written
    return count, seconds

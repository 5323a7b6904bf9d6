"""Carries a plan out: what is missing is trained and tested, what is done stays, and a run that fails stops no other."""

import logging
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Literal

from rich.console import Console

from promptkit.backbones.base import Backbone
from promptkit.build import load_backbone, pick_device
from promptkit.config import RunConfig, read_run_file, resolve
from promptkit.data.images import warn_unreadable
from promptkit.data.inspection import warn_indistinct
from promptkit.data.layouts import Dataset
from promptkit.errors import ConfigError, OutputError, PromptkitError
from promptkit.evaluation.evaluate import evaluate, work
from promptkit.experiments.plan import Plan, Training, images
from promptkit.experiments.protocols import Target
from promptkit.experiments.results import RESULTS, Result, results_of, write_results
from promptkit.experiments.variants import different
from promptkit.faults import explained
from promptkit.learner import Learner
from promptkit.metrics import Scores
from promptkit.progress import reported
from promptkit.registry import Registry
from promptkit.runs import state
from promptkit.runs.checkpoint import SETTINGS, read_metadata
from promptkit.runs.lock import FolderLock
from promptkit.runs.opening import restore
from promptkit.runs.packages import packages_of, trained_and_tested
from promptkit.runs.records import write_records
from promptkit.runs.status import read_saved, run_status
from promptkit.settings import BackboneSettings, LoaderSettings, flatten
from promptkit.training.run import Run

log = logging.getLogger("promptkit")

State = Literal["new", "running", "stopped", "trained", "done", "damaged"]
UNTRAINED: tuple[State, ...] = ("new", "running", "stopped")
ANEW = "choose another --out, or delete that folder to train it again"


@dataclass(frozen=True)
class Failure:
    """A run that could not be trained or tested."""

    folder: Path
    message: str


@dataclass
class Outcome:
    failures: list[Failure] = field(default_factory=list)
    elsewhere: list[Path] = field(default_factory=list)
    """Runs that another process is busy with."""


class Runner:
    """A plan, and the folder that its runs and results go to. Several may work in one folder, each on its shard."""

    def __init__(
        self,
        plan: Plan,
        out: Path,
        registry: Registry,
        console: Console,
        shard: tuple[int, int] = (0, 1),
        cache: bool = True,
        keep: bool = True,
    ) -> None:
        """`shard` (i, n) takes every n-th training of each learner, from the i-th on; `keep` each picture's answer.

        Raises ConfigError, with the difference, when a run in the folder was trained with other settings or pictures.
        """
        first, step = shard
        self.plan = plan
        self.out = out
        self.registry = registry
        self.console = console
        self.cache = cache
        self.keep = keep
        # Learner by learner, so that no shard is left with the quick ones.
        dealt = sorted(plan.trainings, key=lambda training: training.learner.name)[first::step]
        self.trainings = [training for training in plan.trainings if training in dealt]
        self.backbones: dict[BackboneSettings, Backbone] = {}
        self.outcome = Outcome()
        self.seconds: dict[Training, float] = {}
        """What trainings took that were begun and finished here, validation and all."""
        begun = [training for training in plan.trainings if self.state(training) in ("stopped", "trained", "done")]
        for training in begun:
            self._check_settings(training)
        for _, same in groupby(begun, key=lambda training: id(training.dataset)):
            self._check_images(list(same))

    def path(self, training: Training) -> Path:
        return self.out / training.folder

    def _check_settings(self, training: Training) -> None:
        file = self.path(training) / SETTINGS
        tables = read_run_file(file)
        try:
            before = resolve(self.registry, tables["recipe"], tables).to_tables()
        except PromptkitError as error:
            raise ConfigError(f"{file}: {error.message}", ANEW) from None
        if different := state.differences(flatten(before), flatten(training.config.to_tables())):
            raise ConfigError(f"{file.parent} was trained with other settings: {'; '.join(different)}", ANEW)

    def _check_images(self, trainings: Sequence[Training]) -> None:
        """Are they those that the runs, all of one data set, were trained on? One that was stopped asks when it goes on."""
        fingerprint = trainings[0].dataset.fingerprint()
        for training in trainings:
            folder = self.path(training)
            if self.state(training) != "stopped" and read_metadata(folder).data != fingerprint:
                raise ConfigError(
                    f"the data changed: {folder} was trained on other pictures than {training.config.data.path} holds",
                    ANEW,
                )

    def state(self, training: Training, held: bool = False) -> State:
        """The status of a run; a finished one is done when it is tested as well, else trained."""
        status = run_status(self.path(training), held)
        if status == "finished":
            return "trained" if self.missing(training) else "done"
        return status

    def missing(self, training: Training) -> list[tuple[Target, RunConfig]]:
        """The targets that a run has no results for."""
        there = {(result.dataset, result.classes, result.domain) for result in results_of(self.path(training))[0]}
        return [
            (target, config)
            for target, config in training.targets
            if not there.issuperset((target.data.name, target.classes, domain) for domain in _domains(target))
        ]

    def todo(self) -> list[Training]:
        """What the shard has left to train or to test."""
        return [training for training in self.trainings if self.state(training) != "done"]

    def run(
        self,
        on_trained: Callable[[Training, float], None] = lambda training, seconds: None,
        only: Collection[Path] | None = None,
    ) -> Outcome:
        """Train and test all of the shard that is not done; what was trained on one data set is tested together.

        `on_trained` hears of every finished training and the seconds it took; `only` leaves all but some folders out.
        Raises KeyboardInterrupt; what is finished by then is kept, and a run that was stopped goes on the next time.
        Raises BackboneError when there is something to do and no backbone to do it with.
        """
        outcome = self.outcome = Outcome()
        todo = [training for training in self.todo() if only is None or training.folder in only]
        for training in todo:
            self.backbone(training.config)
        asked = {
            (training.config.backbone, target.data.dataset.classnames)
            for training in todo
            for target, _ in training.targets
        }
        for settings, names in asked:
            warn_indistinct(self.backbones[settings], names)
        for _, group in groupby(todo, key=lambda training: id(training.part.data)):
            trained = [training for training in group if self._train(training, outcome, on_trained)]
            self._test(trained, outcome)
        return outcome

    def backbone(self, config: RunConfig) -> Backbone:
        if config.backbone not in self.backbones:
            device = pick_device(config.train.device)
            self.backbones[config.backbone] = load_backbone(config.backbone, self.registry).to(device)
        return self.backbones[config.backbone]

    def _train(self, training: Training, outcome: Outcome, on_trained: Callable[[Training, float], None]) -> bool:
        """Is the run trained, now or already?"""
        folder = self.path(training)
        lock = FolderLock(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not lock.try_take():
                outcome.elsewhere.append(folder)
                return False
            at = self.state(training, held=True)
            if at in ("trained", "done"):
                return True
            if at == "damaged":
                read_saved(folder)  # raises what says how
            started = time.monotonic()
            run = Run(
                training.config,
                folder,
                force=at == "new",
                resume=at == "stopped",
                registry=self.registry,
                cache=self.cache,
                backbone=self.backbone(training.config),
                dataset=training.dataset,
                lock=lock,  # nobody else may begin the run between the look at its state and its training
            )
            (folder / RESULTS).unlink(missing_ok=True)
            run.train(self.console, lines=False)
            seconds = time.monotonic() - started
            if at == "new":
                self.seconds[training] = seconds
            lock.release()  # who hears of the run looks at its state
            on_trained(training, seconds)
            return True
        except BaseException as error:
            outcome.failures.append(self._failure(folder, error))
            return False
        finally:
            lock.release()

    def _test(self, trainings: Sequence[Training], outcome: Outcome) -> None:
        """Write the results that the runs lack: for each target, one pass over its pictures serves them all."""
        with ExitStack() as locks:
            missing: dict[object, list[tuple[Training, Target, RunConfig]]] = defaultdict(list)
            for training in trainings:
                lock = FolderLock(self.path(training))
                if not lock.try_take():
                    outcome.elsewhere.append(self.path(training))
                    continue
                locks.callback(lock.release)
                for target, config in self.missing(training):
                    same = target.data.name, target.domains, target.classes, training.config.backbone
                    missing[same].append((training, target, config))
            for wanted in missing.values():
                self._test_together(wanted, outcome)

    def _test_together(self, wanted: Sequence[tuple[Training, Target, RunConfig]], outcome: Outcome) -> None:
        _, target, _ = wanted[0]
        learners: dict[str, Learner] = {}
        ready: list[tuple[Training, str]] = []
        data: Dataset | None = None
        for training, _, config in wanted:
            folder = self.path(training)
            try:
                data = data or images(target, training.config)
                learner, template = self._open(training, config, data)
            except BaseException as error:
                outcome.failures.append(self._failure(folder, error))
            else:
                learners[str(folder)] = learner
                ready.append((training, template))
        if not learners:
            return
        assert data is not None
        settings = wanted[0][0].config
        try:
            todo = work(learners, data)
            with reported(self.console, f"testing on {target}", todo) as advance:
                found = evaluate(
                    learners,
                    data,
                    replace(settings.loading, batch_size=LoaderSettings.batch_size),
                    self.cache,
                    self.registry.metrics,
                    on_batch=advance,
                )
        except BaseException as error:
            failure = self._failure(self.path(ready[0][0]), error)
            if len(learners) == 1:
                outcome.failures.append(failure)
                return
            # One of them, it may be, and which one shows when each is tested alone.
            for one in wanted:
                if str(self.path(one[0])) in learners:
                    self._test_together([one], outcome)
            return
        warn_unreadable(found.unreadable)
        count = "1 run" if len(ready) == 1 else f"{len(ready)} runs"
        self.console.print(f"tested {count} on {target}", soft_wrap=True, markup=False)
        tested_on = data.fingerprint()
        for training, template in ready:
            folder = self.path(training)
            try:
                if self.keep:
                    asked = target.data.name, target.split, target.classes
                    names = learners[str(folder)].classnames
                    write_records(folder, data, asked, names, found.predictions[str(folder)])
                self._write(training, target, template, tested_on, found.scores[str(folder)])
            except OutputError as error:
                outcome.failures.append(self._failure(self.path(training), error))

    def _open(self, training: Training, config: RunConfig, data: Dataset) -> tuple[Learner, str]:
        """The learner, asked about the classes of the data, and its hand-made prompts if it has learned nothing."""
        folder, backbone = self.path(training), self.backbone(training.config)
        learner = restore(folder, training.config, backbone, data.classnames)
        if learner.state_dict():
            return learner, ""
        template = getattr(config.components["prompts"].options, "template", "")
        return restore(folder, config, backbone, data.classnames), str(template)

    def _failure(self, folder: Path, error: BaseException) -> Failure:
        """Raises the error where it is a Ctrl-C, or an exit that no plugin asked for."""
        known = explained(error, self.registry)
        if known is None and not isinstance(error, Exception):
            raise error
        log.debug(traceback.format_exc())
        return Failure(folder, known.message if known else f"unexpected {type(error).__name__}: {error}")

    def _write(
        self, training: Training, target: Target, template: str, tested_on: str, scores: Mapping[str, Scores]
    ) -> None:
        config, folder = training.config, self.path(training)
        metadata = read_metadata(folder)
        fresh = [
            Result(
                protocol=self.plan.protocol,
                learner=training.learner.name,
                recipe=config.recipe,
                settings=different(self.registry, training.learner, config.data.dataset, config.to_tables()),
                dataset=target.data.name,
                title=target.data.title,
                domain=domain,
                classes=target.classes,
                seed=config.train.seed,
                shots=config.data.shots,
                split=target.split,
                source=self.plan.source,
                backbone=config.backbone.name,
                weights=self.backbone(config).weights,
                template=template,
                packages=trained_and_tested(metadata.packages, packages_of(config, self.registry)),
                fingerprint=metadata.fingerprint,
                trained_on=metadata.data,
                tested_on=tested_on,
                run=str(folder),
                scores=score,
            )
            for domain, score in scores.items()
        ]
        replaced = {result.key for result in fresh}
        kept = [result for result in results_of(folder)[0] if result.key not in replaced]
        write_results(folder, [*kept, *fresh])


def _domains(target: Target) -> Iterable[str]:
    return target.domains or target.data.dataset.domains or ("all",)

"""Settings of a recipe chosen by validation accuracy, by Optuna. No test picture is looked at.

OUT/study.db         the trials, where no other storage is named
OUT/trial-0007       the run of a trial
OUT/best.toml        the best settings, as a run file
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas
import tomli_w
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console

from promptkit.backbones.base import Backbone
from promptkit.build import load_backbone, pick_device
from promptkit.config import RunConfig, resolve
from promptkit.data.selection import subset
from promptkit.errors import ConfigError, DataError, OutputError
from promptkit.experiments.space import combinations, read_space
from promptkit.faults import explained
from promptkit.files import check_writable, checked_json, replace_file
from promptkit.registry import Registry
from promptkit.runs import state
from promptkit.runs.checkpoint import read_metadata
from promptkit.runs.folder import read_log
from promptkit.runs.listing import VAL
from promptkit.runs.lock import FolderLock
from promptkit.runs.status import run_status
from promptkit.settings import BackboneSettings, Scalar, flatten, set_text
from promptkit.training.callbacks import Callback, EpochResult
from promptkit.training.run import Run, training_data

BEST, STUDY = "best.toml", "study.db"
STARTUP = 5
"""Trials that are trained to their end before any is compared with them."""
PATIENCE = 2
"""Seconds after which a storage that couldn't be opened is tried once more."""
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Tuning:
    """What is tuned: a recipe with what all trials share, texts of --set and values by `slot.field`; texts of --vary."""

    recipe: str
    vary: Sequence[str]
    sets: Sequence[str] = ()
    flags: Mapping[str, Scalar] | None = None
    study: str = ""
    """The name of the study; the recipe's where it is empty."""
    storage: str = ""
    """A URL of Optuna's; `STUDY` in the folder where it is empty."""
    prune: bool = True
    """End a trial whose validation accuracy is below the median of those before, at the same epoch."""


@dataclass(frozen=True)
class Best:
    """The best trial of a study."""

    settings: dict[str, Scalar]
    """Those that were tuned, by `slot.field`."""
    accuracy: float
    """On the val split, out of 1."""
    run: Path
    text: str
    """The tuned settings as a run file; `BEST` holds all of them."""


class Tuner:
    """A study, and the folder of its runs. Several processes may share a storage, and a folder."""

    def __init__(self, tuning: Tuning, out: Path, registry: Registry, console: Console, cache: bool = True) -> None:
        """Raises ConfigError and UnknownNameError for what can't be tuned, DataError for data that can't be trained on."""
        self.tuning = tuning
        self.out = out.absolute()
        self.registry = registry
        self.console = console
        self.cache = cache
        self.config = self.settings({})
        given = {key for key in (*(tuning.flags or {}), *(text.partition("=")[0].strip() for text in tuning.sets))}
        self.space = read_space(tuning.vary, self.settings)
        if twice := given & {one.key for one in self.space}:
            raise ConfigError(f"{min(twice)} is both given and varied", "leave one of the two out")
        if not self.config.train.epochs:
            raise ConfigError(f"{tuning.recipe!r} is not trained, so no epoch is validated", "tune another recipe")
        self.dataset = training_data(self.config.data, self.config.train.seed, registry)
        if not subset(self.dataset, "val").items:
            raise ConfigError(
                "tuning looks at the validation accuracy, and the data has no val split", "--split draw draws one"
            )
        self.backbones: dict[BackboneSettings, Backbone] = {}
        check_writable(self.out, "choose another --out")
        self.study = self._open()

    def settings(self, chosen: Mapping[str, Scalar]) -> RunConfig:
        """The configuration of a trial."""
        sets = [*self.tuning.sets, *(set_text(key, value) for key, value in chosen.items())]
        return resolve(self.registry, self.tuning.recipe, None, sets, self.tuning.flags)

    def _open(self) -> optuna.Study:
        """The study, new or begun. Raises ConfigError for one of other settings, and a storage that can't be used."""
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if self.tuning.prune:
            pruner = optuna.pruners.MedianPruner(STARTUP, n_warmup_steps=self.config.train.warmup_epochs + 1)
        name = self.tuning.study or self.tuning.recipe
        url = self.tuning.storage or f"sqlite:///{self.out / STUDY}"
        for again in (True, False):
            try:
                study = optuna.create_study(
                    study_name=name, storage=url, pruner=pruner, direction="maximize", load_if_exists=True
                )
                break
            except Exception as error:  # whatever a driver raises
                if again:  # another process, begun at the same time, may be making the tables
                    time.sleep(PATIENCE)
                    continue
                cause = str(error).partition("\n")[0]
                raise ConfigError(
                    f"the storage of the trials can't be opened: {cause}",
                    "--storage takes a URL of Optuna's, such as mysql://USER@HOST/NAME; its driver has to be installed",
                ) from error
        now: dict[str, Any] = {**flatten(self.config.to_tables()), "the pictures": self.dataset.fingerprint()[:16]}
        now |= {f"--vary {one.key}": str(one) for one in self.space}
        if different := state.differences(study.user_attrs.get("settings", now), now):
            raise ConfigError(
                f"study {name!r} was begun with other settings: {'; '.join(different[: state.LISTED])}",
                "go on with the same, or choose another --study or --out",
            )
        study.set_user_attr("settings", now)
        return study

    def run(self, trials: int) -> None:
        """Go on until the study has so many trials, those of other processes among them. A list's values are tried once.

        What was stopped here goes on first. Raises ConfigError when no trial came to its end; KeyboardInterrupt.
        """
        self._revive()
        every = combinations(self.space)
        if every is not None and len(every) <= trials:
            trials = len(every)
            for chosen in every:
                self.study.enqueue_trial(chosen, skip_if_exists=True)
        while len(tried := self.trials()) < trials:
            self._try(len(tried) + 1, trials)
        self.keep_best()
        if not any(trial.state == TrialState.COMPLETE for trial in tried):
            failed = next(
                (trial.user_attrs["error"] for trial in tried if "error" in trial.user_attrs), "none was begun"
            )
            raise ConfigError(f"no trial came to its end: {failed}", "narrow what is varied; another --out begins anew")

    def trials(self) -> list[FrozenTrial]:
        """Those that came to an end: complete, pruned, or failed by themselves."""
        return [one for one in self.study.get_trials(deepcopy=False) if one.state in DONE or "error" in one.user_attrs]

    def _revive(self) -> None:
        """Trials that were stopped in this folder are failed ones, and wait to go on under another number."""
        for stopped in self.study.get_trials(states=[TrialState.RUNNING]):
            folder = Path(stopped.user_attrs.get("run", ""))
            lock = FolderLock(folder)
            if folder.parent != self.out or not folder.is_dir() or not lock.try_take():
                continue
            try:  # another process may have come first
                if self.study.get_trials(deepcopy=False)[stopped.number].state == TrialState.RUNNING:
                    self.study.tell(stopped.number, state=TrialState.FAIL)
                    self.study.enqueue_trial(stopped.params, stopped.user_attrs)
            finally:
                lock.release()

    def _try(self, number: int, trials: int) -> None:
        """One trial, of which the study is told."""
        known = self.study.get_trials(deepcopy=False)
        self.study.sampler = optuna.samplers.TPESampler(seed=(self.config.train.seed + len(known)) % 2**32)
        trial = self.study.ask()
        chosen = {one.key: one.suggest(trial) for one in self.space}
        folder = Path(trial.user_attrs.get("run", self.out / f"trial-{trial.number:04}"))
        folder.mkdir(exist_ok=True)
        lock = FolderLock(folder)
        lock.take()
        try:
            trial.set_user_attr("run", str(folder))
            same = next((one for one in known if one.params == chosen and one.state in DONE), None)
            if same is None:
                self._train(trial, self.settings(chosen), folder, lock)
            else:
                for name, value in {**same.user_attrs, "same": True}.items():
                    trial.set_user_attr(name, value)
            if trial.user_attrs["pruned"]:
                self.study.tell(trial, state=TrialState.PRUNED)
            else:
                self.study.tell(trial, trial.user_attrs["accuracy"])
        except BaseException as error:
            cause = explained(error, self.registry)
            if cause is None or isinstance(cause, OutputError):
                raise
            trial.set_user_attr("error", cause.message)
            self.study.tell(trial, state=TrialState.FAIL)
        finally:
            lock.release()
        self._say(f"trial {number} of {trials}: ", trial)
        self.keep_best()

    def _train(self, trial: Trial, config: RunConfig, folder: Path, lock: FolderLock) -> None:
        """Train a trial, or go on with it; how good it is stands in its attributes."""
        at = run_status(folder, held=True)
        if at != "finished":
            judge = _Judge(trial, folder, resumed=at == "stopped")
            Run(
                config,
                folder,
                force=at != "stopped",
                resume=at == "stopped",
                registry=self.registry,
                cache=self.cache,
                backbone=self._backbone(config),
                dataset=self.dataset,
                lock=lock,
            ).train(self.console, lines=False, judges=[judge])
            trial.set_user_attr("pruned", judge.pruned)
        kept = read_metadata(folder)
        if VAL not in kept.figures:
            raise DataError("no picture of the val split could be read", "promptkit data PATH --check names them")
        trial.set_user_attr("accuracy", kept.figures[VAL])
        trial.set_user_attr("epoch", len(read_log(folder)))

    def _backbone(self, config: RunConfig) -> Backbone:
        if config.backbone not in self.backbones:
            device = pick_device(config.train.device)
            self.backbones[config.backbone] = load_backbone(config.backbone, self.registry).to(device)
        return self.backbones[config.backbone]

    def _say(self, number: str, trial: Trial) -> None:
        chosen = "  ".join(f"{key}={_short(value)}" for key, value in trial.params.items())
        told = trial.user_attrs
        found = f"failed: {told['error']}" if "error" in told else f"val {100 * told['accuracy']:.1f} %"
        found += f", ended after epoch {told['epoch']}" if told.get("pruned") else ""
        found += ", as before" if told.get("same") else ""
        self.console.print(f"{number}{chosen}  {found}", soft_wrap=True, markup=False)

    def best(self) -> Best:
        """Of those that came to their end."""
        trial = self.study.best_trial
        tables: dict[str, Any] = {"recipe": self.tuning.recipe}
        for key, value in trial.params.items():
            slot, _, name = key.partition(".")
            tables.setdefault(slot, {})[name or "name"] = value
        return Best(trial.params, trial.user_attrs["accuracy"], Path(trial.user_attrs["run"]), tomli_w.dumps(tables))

    def keep_best(self) -> None:
        """Write the run file of the best trial so far."""
        if any(trial.state == TrialState.COMPLETE for trial in self.trials()):
            tables = self.settings(self.study.best_trial.params).to_tables()
            replace_file(self.out / BEST, tomli_w.dumps(tables).encode(), "choose another --out, or make room")

    def frame(self) -> pandas.DataFrame:
        """A row for each trial: trial, state, accuracy (out of 1, of the epoch that was kept), epochs, run, and settings."""
        return pandas.DataFrame(
            {
                "trial": number,
                "state": "failed" if "error" in trial.user_attrs else trial.state.name.lower(),
                "accuracy": trial.user_attrs.get("accuracy"),
                "epochs": trial.user_attrs.get("epoch"),
                "run": trial.user_attrs["run"],
                **trial.params,
            }
            for number, trial in enumerate(self.trials(), 1)
        )


class _Judge(Callback):
    """Tells a trial how good every epoch is, and ends training where the trial is not worth going on with."""

    def __init__(self, trial: Trial, folder: Path, resumed: bool) -> None:
        self.trial = trial
        self.folder = folder
        self.resumed = resumed
        self.pruned = False

    def on_start(self) -> None:
        for epoch, line in enumerate(read_log(self.folder) if self.resumed else [], 1):
            self._report(checked_json(dict[str, Any], line).get(VAL), epoch)

    def on_epoch(self, result: EpochResult) -> None:
        self._report(result.val_accuracy, result.epoch)
        if not result.last and self.trial.should_prune():
            result.stop = self.pruned = True

    def _report(self, accuracy: float | None, epoch: int) -> None:
        if accuracy is not None:
            self.trial.report(accuracy, epoch)


def _short(value: Scalar) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

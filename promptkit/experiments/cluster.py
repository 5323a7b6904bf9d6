"""The runs of a bench as jobs of a Slurm cluster, or in the background of this machine, by submitit."""

import contextlib
import json
import logging
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CalledProcessError, SubprocessError
from typing import Any

import torch
from rich.console import Console

from promptkit.errors import ConfigError, OutputError, TrainingError, UnknownNameError
from promptkit.experiments.jobs import take_share
from promptkit.experiments.order import Order
from promptkit.experiments.runner import Runner
from promptkit.extras import needs
from promptkit.files import checked_json, replace_file, text_of, toml_of
from promptkit.registry import installed

LOCAL, SLURM = "local", "slurm"
WHERE = (LOCAL, SLURM)
LOGS = ".jobs"
"""Below the folder of results: what submitit writes, and what the jobs print."""
NOTES = "submitted.jsonl"
"""There: a line for each run that a job of Slurm has, with the job."""
MAX_FILE = 2**20
"""Bytes."""
NO_END = 365 * 24 * 60
"""Minutes that a job of this machine has: submitit would end it after two."""

log = logging.getLogger("promptkit")


@dataclass(frozen=True)
class Share:
    """Some of the runs of a bench, as a job. submitit starts it again where it was preempted or ran out of time."""

    order: Order
    runs: tuple[Path, ...]
    place: tuple[int, int] | None = None
    """Which of several jobs of one machine it is, and of how many; None where a cluster gives each job what is its own."""

    def __call__(self) -> None:
        """Raises TrainingError when a run fails, once the others are done; the job counts as failed then."""
        if self.place:
            take_share(*self.place)
        registry = installed()
        outcome = self.order.runner(self.order.opened(registry), registry, Console()).run(only=self.runs)
        if outcome.failures:
            raise TrainingError("; ".join(f"{failure.folder}: {failure.message}" for failure in outcome.failures))

    def checkpoint(self) -> Any:
        """What submitit starts the next time: the same, as the folders say how far the runs are."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def check_place(on: str) -> None:
    """Raises UnknownNameError for one that there is none of, ConfigError where submitit is not installed."""
    if on not in WHERE:
        raise UnknownNameError("place for jobs", on, WHERE)
    needs(f"--on {on}", "submitit")


def submit(order: Order, runner: Runner, on: str, jobs: int | None, parameters: Mapping[str, Any]) -> Sequence[Any]:
    """Hand over what there is to do and nobody is doing, or will: a job of Slurm that waits is left its runs.

    Args:
        order: What `runner` was made from.
        runner: Says what there is to do.
        on: "slurm", or "local", for this machine.
        jobs: Into how many the runs are dealt; None for a job each.
        parameters: As submitit's AutoExecutor takes them.

    Returns:
        submitit's jobs, none where there is nothing to hand over. On Slurm they are one array.

    Raises:
        ConfigError: Without a Slurm, and for parameters that submitit doesn't take.
        OutputError: Where Slurm doesn't take the jobs.
    """
    from submitit import AutoExecutor

    taken = _taken(order.out / LOGS) if on == SLURM else {}
    todo = [training for training in runner.todo() if runner.state(training) != "running"]
    if waiting := [taken[training.folder] for training in todo if training.folder in taken]:
        ids = " ".join(dict.fromkeys(job.partition("_")[0] for job in waiting))
        log.info("already submitted as job %s, which scancel %s stops: %d of the runs", ids, ids, len(waiting))
    todo = [training for training in todo if training.folder not in taken]
    # Learner by learner, so that no job is left with the quick ones.
    runs = [training.folder for training in sorted(todo, key=lambda training: training.learner.name)]
    if not runs:
        return []
    count = min(jobs or len(runs), len(runs))
    given = {"name": "promptkit", **parameters}
    if on == LOCAL:
        given = {"timeout_min": NO_END, "gpus_per_node": torch.cuda.device_count(), **given}
    elif not {"timeout_min", "slurm_time"} & given.keys():
        raise ConfigError("--on slurm: how long may a job take?", "say it with --time MINUTES")
    try:
        executor = AutoExecutor(order.out / LOGS, cluster=on)
        executor.update_parameters(**given)
    except RuntimeError as error:
        raise ConfigError(f"--on {on}: {error}", "submit from a machine that has srun and sbatch") from error
    except (NameError, ValueError, AssertionError) as error:
        raise ConfigError(f"--on {on}: {error}", "parameters are those of submitit's AutoExecutor") from error
    shares = [Share(order, tuple(runs[k::count]), (k, count) if on == LOCAL else None) for k in range(count)]
    try:
        with executor.batch():
            submitted = [executor.submit(share) for share in shares]
    except (RuntimeError, CalledProcessError) as error:
        raise OutputError(
            f"--on {on}: the jobs were not taken: {error}", "see its --partition, --time and --gpus"
        ) from error
    if on == SLURM:
        taken |= {run: job.job_id for job, share in zip(submitted, shares, strict=True) for run in share.runs}
        content = "".join(f"{json.dumps([str(run), job])}\n" for run, job in taken.items())
        with contextlib.suppress(OutputError):  # the jobs are on their way
            replace_file(order.out / LOGS / NOTES, content.encode(), "it is only a note")
    return submitted


def _taken(folder: Path) -> dict[Path, str]:
    """The runs of jobs of Slurm that were submitted and have not ended, with the job; none where Slurm does not say."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    try:
        notes = [checked_json(tuple[str, str], line) for line in text_of(folder / NOTES).splitlines()]
        there = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    except (OSError, ValueError, SubprocessError):
        return {}
    return {Path(run): job for run, job in notes if job in there}


def read_parameters(path: Path) -> dict[str, Any]:
    """The parameters of a TOML file. Raises ConfigError for one that can't be read."""
    try:
        return toml_of(path, MAX_FILE)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no file of parameters: {error}", 'such as: slurm_partition = "gpu"') from None

"""`promptkit bench --on`: runs that are handed over, by submitit."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from submitit.core.utils import DelayedSubmission

from promptkit.experiments import cluster

Command = Callable[..., "Finished"]
Figures = Callable[[Path], dict[tuple[object, ...], object]]

QUICK = (
    *("--backbone", "tiny", "--weights", "none", "--workers", "0", "--device", "cpu", "--batch-size", "8"),
    *("--seeds", "1,2", "--shots", "2", "--source", "photo", "--learners", "coop"),
)


@pytest.fixture
def bench(promptkit: Command, images: Path) -> Command:
    return lambda *words: promptkit("bench", "few-shot", "--data", images, *QUICK, *words)


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_job_of_this_machine_is_watched_cancelled_submitted_again_and_preempted(
    bench: Command, promptkit: Command, figures: Figures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []  # a job that nobody keeps warns when it is collected

    def submit(*arguments: Any) -> Sequence[Any]:
        kept.extend(found := cluster_submit(*arguments))
        return found

    cluster_submit = cluster.submit
    monkeypatch.setattr(cluster, "submit", submit)
    words = ("--epochs", 40, "--set", "train.save_minutes=0", "--on", "local", "--jobs", "1")
    first = bench(*words)
    assert first.status == 0, first.err
    (job,) = kept
    assert (
        f"1 job on local; promptkit runs results says how far they are, logs are in results/.jobs, kill -INT {job.job_id}"
        in first.out
    )
    until(lambda: list(tmp_path.rglob("state.safetensors")))
    assert "running" in promptkit("runs", "results").out
    os.kill(int(job.job_id), signal.SIGINT)
    until(job.done)
    assert "stopped" in promptkit("runs", "results").out

    assert bench(*words).status == 0
    job = kept[1]
    log = job.paths.stdout
    until(lambda: log.exists() and "going on in epoch" in log.read_text())
    (task,) = psutil.Process(int(job.job_id)).children()
    task.send_signal(signal.SIGUSR2)  # as Slurm says that it wants the machine
    until(job.done)
    assert log.read_text().count("going on in epoch") >= 2
    assert "stopped" not in promptkit("runs", "results").out

    done = bench(*words)
    assert "mean ± standard deviation over seeds" in done.out
    assert len(kept) == 2
    assert bench("--epochs", 40, "--out", "whole").status == 0
    assert figures(tmp_path / "results") == figures(tmp_path / "whole")


SBATCH = """#!/bin/sh
cp "$1" sent.sh
echo "Submitted batch job 12"
"""


def test_slurm_gets_one_array_of_jobs_with_their_parameters(
    bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--epochs", 1, "--on", "slurm")
    assert "--on slurm: Could not detect" in bench(*words, "--time", 5).err
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", "#!/bin/sh\n")):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    assert "how long may a job take?" in bench(*words).err
    (tmp_path / "slurm.toml").write_text('slurm_account = "vision"\nmem_gb = 8\ntimeout_min = 5\n')
    done = bench(*words, "--parameters", "slurm.toml", "--partition", "gpu", "--gpus", 1, "--time", 90)
    assert done.status == 0, done.err
    assert "2 jobs on slurm" in done.out
    assert "scancel 12 stops them" in done.out
    sent = (tmp_path / "sent.sh").read_text()
    for line in ("array=0-1%2", "partition=gpu", "gpus-per-node=1", "time=90", "account=vision", "mem=8GB"):
        assert f"#SBATCH --{line}\n" in sent
    (tools / "squeue").write_text("#!/bin/sh\ncat waiting\n")
    (tools / "squeue").chmod(0o755)
    for waiting, said in (("12_0\n12_1\n", "nothing to hand over"), ("12_1\n7\n", "1 job on slurm")):
        (tmp_path / "waiting").write_text(waiting)
        again = bench(*words, "--time", 90)
        assert f"already submitted as job 12, which scancel 12 stops: {waiting.count('12_')} of the runs" in again.err
        assert said in again.out
    for task in range(2):
        (pickled,) = (tmp_path / "results/.jobs").glob(f"12_{task}*.pkl")
        DelayedSubmission.load(pickled).result()
    assert "2 runs (2 done)" in bench(*words).out

    (tmp_path / "slurm.toml").write_text('slurm_acount = "vision"\n')
    wrong = bench("--epochs", 1, "--out", "other", *words[2:], "--time", 1, "--parameters", "slurm.toml")
    assert wrong.status == 2
    assert "Unknown argument 'acount'" in wrong.err
    assert "no place for jobs named 'slrum'; did you mean 'slurm'?" in bench("--on", "slrum").err
    assert "--time is for jobs that are handed over" in bench("--time", "5").err

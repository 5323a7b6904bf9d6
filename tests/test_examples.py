"""The scripts and run files in examples/."""

import os
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from promptkit.config import read_run_file, resolve
from promptkit.registry import installed

Command = Callable[..., "Finished"]

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_run_files_resolve() -> None:
    files = sorted(EXAMPLES.glob("*.toml"))
    assert files
    for file in files:
        tables = read_run_file(file)
        config = resolve(installed(), tables["recipe"], tables).to_tables()
        for slot, table in tables.items():
            if isinstance(table, dict):
                assert table.items() <= config[slot].items()


def test_the_imagenet_run_file_trains_where_there_is_less(promptkit: Command, images: Path) -> None:
    tiny = ("--backbone", "tiny", "--weights", "none", "--workers", "0", "--epochs", "1", "--batch-size", "8")
    done = promptkit(
        "train", "--config", EXAMPLES / "imagenet.toml", "--data", images, *tiny, "--device", "cpu", "--out", "run"
    )
    assert done.status == 0, done.err


@pytest.mark.parametrize("file", sorted((EXAMPLES / "reproduce").glob("*.toml")), ids=lambda file: file.name)
def test_published_tables_can_be_planned(file: Path, promptkit: Command, images: Path) -> None:
    tiny = ("--backbone", "tiny", "--weights", "none", "--workers", 0, "--seeds", 1)
    done = promptkit("bench", "few-shot", "--plan", "--data", images, "--learners", file, "--shots", 1, *tiny)
    assert done.status == 0, done.err
    learners = tomllib.loads(file.read_text())
    assert f"few-shot: {len(learners)} runs" in done.out
    assert f"examples/reproduce/{file.name}" in (EXAMPLES.parent / "docs/reproduce.md").read_text()


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.sh")), ids=lambda script: script.name)
def test_scripts_are_bash(script: Path) -> None:
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


def test_slurm_starts_one_torchrun_on_each_machine(tmp_path: Path) -> None:
    """With stand-ins for SLURM and torchrun that say how they were called."""
    stand_ins = {
        "scontrol": "printf 'first\\nsecond\\n'",
        "srun": 'for rank in 0 1; do SLURM_PROCID=$rank "$@"; done',
        "torchrun": 'echo "$@"',
    }
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "n[0-1]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4"}
    done = subprocess.run(
        ["bash", EXAMPLES / "slurm.sh", "--data", "with a space"],
        env={**os.environ, **slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        cwd=EXAMPLES.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        f"--nnodes 2 --node-rank {rank} --nproc-per-node 4 --master-addr first --master-port 29500 "
        "-m promptkit train --config examples/imagenet.toml --data with a space"
        for rank in (0, 1)
    ]

"""Where nothing can be written: one message that names the file, and what was saved before stays."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from promptkit.features.shards import ShardWriter
from promptkit.runs import tensorfile
from promptkit.runs.checkpoint import LOG, SETTINGS, STATE, WEIGHTS, read_metadata, read_tensors
from promptkit.runs.folder import RunFolder
from promptkit.runs.lock import LOCK, is_locked

Command = Callable[..., "Finished"]
Warm = Callable[..., "list[Finished]"]


def is_whole(run: Path) -> bool:
    return bool(read_tensors(run)) and read_metadata(run).epoch > 0


def assert_equal(one: Path, other: Path) -> None:
    learned = read_tensors(other)
    assert learned.keys() == read_tensors(one).keys()
    for name, tensor in read_tensors(one).items():
        assert torch.equal(tensor, learned[name]), name


LIMITS = """
import resource
out, *words = sys.argv[1:]
found = []
small, large = [(400, 0, 3), (2500, 0, 3), (2500, 0, 1), (9000, 0, 1)], [(10**6, 1, 3)]
for limit, cache, epochs in [(0, 1, 3), (3000, 1, 3), *small, (20000, 0, 3), *large]:
    name = f"{limit}-{cache}-{epochs}"
    os.environ["PROMPTKIT_CACHE"] = f"{out}/cache{name}"
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(write, 2)
        os.dup2(write, 1)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")  # the old ones take what is there for a file
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        sys.argv = ["promptkit", *words, "--cached-views", str(cache), "--epochs", str(epochs)]
        sys.argv += ["--out", f"{out}/run{name}"]
        try:
            promptkit.cli.main()
        except SystemExit as end:
            os._exit(int(end.code or 0))
    os.close(write)
    with os.fdopen(read) as said:
        found.append((name, said.read(), finish(child)))
print(json.dumps(found))
"""


def test_a_limit_on_files_stops_every_kind_of_file_with_one_message(warm: Warm, images: Path, tmp_path: Path) -> None:
    """The system's limit on a file's size, at sizes between which run file, cache, log, state and learner lie."""
    (done,) = warm(
        tmp_path,
        *("train", "gopro", "--data", images, "--backbone", "tiny", "--weights", "none", "--workers", "0"),
        *("--shots", "4", "--domains", "photo", "--set", "train.optimizer=adamw"),
        cwd=tmp_path,
        code=LIMITS,
    )
    assert done.status == 0, done.err
    named = set()
    for name, said, status in json.loads(done.out.splitlines()[-1]):
        assert "Traceback" not in said, said
        errors = [line for line in said.splitlines() if line.startswith("error:")]
        assert (status, len(errors)) in ((0, 0), (2, 1)), (name, status, said)
        for line in errors:
            assert "File too large" in line
            named.add(re.search(r"(\S+) can't be written|(features) can't be kept", line)[0].split("/")[-1])
        for path in (tmp_path / f"run{name}").glob("*.safetensors"):
            assert tensorfile.read_tensors(path)
        assert not [path for path in (tmp_path / f"run{name}").glob(".*") if path.name != LOCK]
        assert not list((tmp_path / f"cache{name}").rglob(".*"))
        if not errors:
            assert is_whole(tmp_path / f"run{name}")
    kinds = [f"{name} can't be written" for name in (SETTINGS, STATE, WEIGHTS)]
    assert named == {*kinds, "features can't be kept"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "promptkit", disk], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("may not mount; limits on files stand in, above")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        for size in (4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass


@pytest.mark.parametrize("written", ["log", "save_state", "save"])
def test_a_disk_that_fills_up_loses_nothing(
    written: str, small_disk: Path, train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("coop", "--out", "whole", "--epochs", 3)
    write = getattr(RunFolder, written)
    calls: list[Path] = []

    def write_where_nothing_fits(folder: RunFolder, *arguments: Any) -> None:
        calls.append(folder.path)
        if len(calls) == 2:
            fill(small_disk)
        write(folder, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, written, write_where_nothing_fits)
        done = train("coop", "--out", "disk/run", "--epochs", 3)
    assert done.status == 2
    assert re.search(r"error: disk/run/\S+ can't be written: No space left on device", done.err), done.err
    assert is_whole(small_disk / "run")
    (small_disk / "filler").unlink()
    assert train("coop", "--out", "disk/run", "--epochs", 3, "--resume").status == 0
    assert_equal(small_disk / "run", tmp_path / "whole")
    assert len((small_disk / "run" / LOG).read_text().splitlines()) == 3


def test_a_disk_that_fills_up_under_a_feature_cache(
    small_disk: Path, train: Command, promptkit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("coop", "--out", "run", "--no-cache")
    monkeypatch.setenv("PROMPTKIT_CACHE", str(small_disk))
    create = ShardWriter.__init__

    def create_and_fill(writer: ShardWriter, *arguments: Any) -> None:
        create(writer, *arguments)
        fill(small_disk)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "__init__", create_and_fill)
        done = train("coop", "--out", "cached", "--cached-views", 1)
        assert done.status == 2
        assert "features can't be kept in disk/features: No space left on device".replace("disk", str(small_disk)) in (
            done.err
        )
        (small_disk / "filler").unlink()
        assert not list((small_disk / "features").iterdir())
        done = promptkit("eval", "run")
    assert done.status == 0
    assert "No space left on device; evaluated without keeping features" in done.err
    assert list((small_disk / "features").iterdir()) == []


# Permission


def as_owner() -> list[str]:
    """A prefix that makes even root ask for permission."""
    if os.geteuid():
        return []
    if not shutil.which("setpriv"):
        pytest.skip("root may write everywhere")
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 90
    while not path.exists():
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_permission_taken_away_during_a_run_loses_nothing(
    train: Command, promptkit: Command, images: Path, tmp_path: Path
) -> None:
    words = ["--data", str(images), "--epochs", "40", "--domains", "photo", "--shots", "2"]
    words += ["--device", "cpu", "--no-cache"]
    tiny = ["--backbone", "tiny", "--weights", "none", "--workers", "0"]
    process = subprocess.Popen(
        [*as_owner(), sys.executable, "-m", "promptkit", "train", "coop", *tiny, *words, "--out", "run"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for(tmp_path / "run" / WEIGHTS, process)
        (tmp_path / "run").chmod(0o555)
        _, err = process.communicate(timeout=90)
    finally:
        process.kill()
        process.communicate()
        (tmp_path / "run").chmod(0o755)
    assert process.returncode == 2, err
    assert "Traceback" not in err
    assert re.search(r"error: run/\S+ can't be written: Permission denied", err), err
    assert is_whole(tmp_path / "run")
    assert not is_locked(tmp_path / "run")
    assert promptkit("train", "--out", "run", "--resume").status == 0
    train("coop", *words, "--out", "whole")
    assert_equal(tmp_path / "run", tmp_path / "whole")


def test_a_cache_and_folders_that_may_not_be_written(train: Command, cache: Path, tmp_path: Path, images: Path) -> None:
    """One process for all: what it prints comes after the name of the case."""
    train("coop", "--out", "run", "--no-cache")
    (tmp_path / "run/log.jsonl").chmod(0o444)
    (cache / "features").mkdir()
    closed = tmp_path / "closed"
    closed.mkdir()
    for folder in (closed, cache / "features"):
        folder.chmod(0o555)
    hidden = tmp_path / "hidden"
    (hidden / "run").mkdir(parents=True)
    hidden.chmod(0)
    tiny = ["--backbone", "tiny", "--weights", "none", "--workers", "0", "--epochs", "1", "--data", str(images)]
    commands = {
        "cache": ["train", "coop", *tiny, "--out", "new", "--cached-views", "1"],
        "eval": ["eval", "run"],
        "out": ["train", "coop", *tiny, "--out", "closed"],
        "below": ["train", "coop", *tiny, "--out", "closed/run"],
        "hidden": ["train", "coop", *tiny, "--out", "hidden/run", "--resume"],
        "json": ["eval", "run", "--no-cache", "--json", "closed/figures.json"],
    }
    code = """
        import json, subprocess, sys
        import promptkit.cli
        for name, words in json.loads(sys.argv[1]).items():
            sys.argv = ["promptkit", *words]
            try:
                promptkit.cli.main()
            except SystemExit as end:
                print(f"{name} {end.code}", file=sys.stderr)
    """
    script = "\n".join(line[8:] for line in code.splitlines())
    try:
        done = subprocess.run(
            [*as_owner(), sys.executable, "-c", script, json.dumps(commands)],
            cwd=tmp_path, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    finally:
        for folder in (closed, cache / "features", hidden):
            folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr
    said = dict(zip(commands, re.split(r"^\w+ \d$", done.stderr, flags=re.MULTILINE), strict=False))
    assert re.findall(r"^(\w+) (\d)$", done.stderr, re.MULTILINE) == [
        ("cache", "2"), ("eval", "0"), ("out", "2"), ("below", "2"), ("hidden", "2"), ("json", "2"),
    ]  # fmt: skip
    assert "features: Permission denied" in said["cache"]
    assert "Permission denied; evaluated without keeping features" in said["eval"]
    assert "error: closed can't be written: Permission denied" in said["out"]
    assert "error: closed/run can't be written: Permission denied" in said["below"]
    assert "error: hidden/run" in said["hidden"]
    assert "error: closed/figures.json can't be written: Permission denied" in said["json"]
    assert "domain" in done.stdout.splitlines()[-8] or "accuracy" in done.stdout  # the figures are not lost


@pytest.mark.parametrize("name", [LOCK, SETTINGS, LOG, WEIGHTS, STATE])
def test_a_folder_in_the_place_of_a_file_is_named(name: str, train: Command, tmp_path: Path) -> None:
    (tmp_path / "run" / name / "inner").mkdir(parents=True)
    done = train("coop", "--out", "run", "--force")
    assert done.status == 2
    assert f"error: run/{name} can't be written: Is a directory" in done.err
    assert "hint:" in done.err


def test_what_stands_in_the_way_of_the_end_is_named(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = RunFolder.save

    def save_and_block(folder: RunFolder, *arguments: Any) -> None:
        save(folder, *arguments)
        folder.state.unlink(missing_ok=True)
        folder.state.mkdir()

    monkeypatch.setattr(RunFolder, "save", save_and_block)
    done = train("coop", "--out", "run", "--epochs", "1")
    assert done.status == 2
    assert f"error: run/{STATE} can't be written" in done.err
    assert is_whole(tmp_path / "run")


def test_figures_that_cannot_be_written_are_shown(train: Command, promptkit: Command, tmp_path: Path) -> None:
    train("coop", "--out", "run")
    for path, cause in (("nowhere/figures.json", "No such file"), (".", "Is a directory"), ("/dev/full", "No space")):
        done = promptkit("eval", "run", "--json", path)
        assert done.status == 2
        assert f"error: {path} can't be written: {cause}" in done.err
        assert "accuracy" in done.out
    figures, before, nothing = tmp_path / "figures.json", tmp_path / "before.json", tmp_path / "nothing.json"
    figures.write_text("{}")
    os.link(figures, before)
    nothing.symlink_to("/dev/null")
    for path in (figures, nothing):
        assert promptkit("eval", "run", "--json", path).status == 0
    assert json.loads(figures.read_text())["runs"]
    assert (before.read_text(), nothing.is_symlink()) == ("{}", True), "written whole beside it; a device is no file"

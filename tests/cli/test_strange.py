"""What nobody should type or have: each is answered in one message, soon and in little memory."""

import errno
import multiprocessing.process
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptkit.config import read_run_file
from promptkit.errors import ConfigError

Command = Callable[..., "Finished"]

HUGE = 10**30
BENCH = ("bench", "few-shot", "--learners", "zeroshot", "--backbone", "tiny", "--weights", "none", "--shots", 1)


def one_message(done: "Finished", *said: str) -> None:
    assert done.status == 2, done.err
    assert done.err.count("error:") == 1
    assert "report it" not in done.err
    for part in said:
        assert part in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--batch-size", HUGE), f"train.batch_size={HUGE}: expected int, at least 1, at most 2147483647"),
        (("--seed", HUGE), "train.seed="),
        (("--workers", 5000), "train.workers=5000: expected int, at least -1, at most 512"),
        (("--cached-views", HUGE), "train.cached_views="),
        (("--memory-gb", "1e300"), "backbone.memory_gb=1e+300"),
        (("--lr", "1e308"), "expected float, at least 0, at most 3.4e+38"),
        (("--set", f"data.split_seed={HUGE}"), "data.split_seed="),
        (("--set", "prompts.n_ctx=2000000000"), "there is not enough memory"),
        (("--set", "prompts.ctx_init=\udcff"), r"prompts.ctx_init='\udcff': expected text in UTF-8"),
        (("--weights", "\udcff"), r"backbone.weights='\udcff': expected text in UTF-8"),
        (("--out", "a\udcff"), r"a\udcff can't be written: its name is not in UTF-8"),
        (("--templates", "pipe"), "pipe can't be read: it is not a file"),
        (("--templates", "/dev/zero"), "/dev/zero can't be read: it is not a file"),
        (("--config", "pipe"), "pipe is no run file: it is not a file"),
    ],
)
def test_a_setting_that_no_machine_can_take(
    words: tuple[object, ...], said: str, train: Command, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    one_message(train("coop", "--out", "run", *words), said)


@pytest.mark.parametrize(
    "content",
    [
        ".".join("a" * 25_000) + " = 1",
        "[" + " . ".join("a" * 25_000) + "]",
        "x = {\"a\" ." + ".".join(["''"] * 25_000) + " = 1}",
        "x = " + "[" * 100_000,
        "x = " + "9" * 5_000,
    ],
)  # fmt: skip
def test_a_run_file_that_would_take_all_memory(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(f'recipe = "coop"\n{content}\n')
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"run\.toml is no run file"):
        read_run_file(tmp_path / "run.toml")
    assert time.monotonic() - began < 5


def test_dots_in_the_texts_of_a_run_file_are_no_parts_of_keys(tmp_path: Path) -> None:
    text = f'# {"a." * 20}\nrecipe = "coop"\n[prompts]\ntemplate = """\n{"a.b" * 20} {{}}\\"""" \nother = \'{"x." * 20}\'\n'
    (tmp_path / "run.toml").write_text(text)
    assert read_run_file(tmp_path / "run.toml")["prompts"]["template"].count(".") == 20


def test_names_that_are_no_text(train: Command, promptkit: Command, images: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(images, tmp_path / "data"))
    picture = next(data.rglob("*.png"))
    picture.rename(picture.with_name("\udcff.png"))
    done = train("coop", "--data", data, "--out", "run", "--strict")
    assert done.status == 0, done.err
    done = promptkit("eval", "run", "--keep", "--split", "all")
    assert done.status == 0, done.err
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        done = promptkit("predict", "run", data, "--out", name)
        assert done.status == 0, done.err
    one_message(promptkit("export", "run", "a\udcff"), "its name is not in UTF-8")
    data.rename(tmp_path / "\udcff")
    one_message(train("coop", "--data", "\udcff", "--out", "other"), r"data.path='\udcff': expected text in UTF-8")
    (tmp_path / "\udcff").rename(data)
    for domain in ("cartoon", "photo"):
        (data / domain / "circle").rename(data / domain / "\udcff")
    one_message(promptkit("data", "data"), r"data: the name '\udcff' is not in UTF-8")


def test_seeds_that_are_none_are_said_before_anything_is_drawn(promptkit: Command, tmp_path: Path) -> None:
    one_message(promptkit("demo", "--seeds", HUGE, "--out", "demo"), "expected whole numbers below 10^18")
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("out", ["file", "file/inside", "/proc/nothing", "a\udcff"])
def test_a_bench_that_cannot_write_says_so_before_it_does_anything(
    out: str, promptkit: Command, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    done = promptkit(*BENCH, "--data", images, "--out", out)
    one_message(done, "can't be written", "choose another --out")
    assert "runs" not in done.out


def test_a_working_folder_that_is_gone(promptkit: Command, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    try:
        one_message(promptkit("runs"), "the folder that promptkit was started in is no longer there")
    finally:
        os.chdir(tmp_path)


def test_no_home(train: Command, promptkit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("PROMPTKIT_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    done = train("coop", "--out", "run")
    assert done.status == 0, done.err
    done = promptkit("eval", "run")
    assert done.status == 0, done.err
    assert "you have no home folder; evaluated without keeping features" in done.err
    one_message(promptkit("cache", "list"), "you have no home folder", "PROMPTKIT_CACHE names a folder")


def test_workers_that_the_machine_does_not_start(train: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
    done = train("coop", "--out", "run", "--workers", 3)
    one_message(done, "3 processes to prepare pictures can't be started: Resource temporarily unavailable", "--workers")

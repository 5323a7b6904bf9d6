"""The feature store: what was put is read, from any process; never anything else, and nothing half written."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from promptkit.errors import ConfigError, OutputError
from promptkit.features import shards
from promptkit.features.folder import LIMIT, cached_files, delete_leftovers
from promptkit.features.shards import DamagedShardError, Shard, ShardWriter, delete_unused
from promptkit.features.store import FeatureKey, FeatureStore, image_digest

Command = Callable[..., "Finished"]

KEY = FeatureKey({"part": "pooled"}, {"backbone": "tiny (none)", "data": "/somewhere", "views": "evaluation"})


def names(count: int, first: int = 0) -> list[bytes]:
    return [number.to_bytes(16, "little") for number in range(first, first + count)]


def rows_of(images: list[bytes], width: int = 6) -> np.ndarray:
    """A row that tells which image it is of."""
    number = np.array([int.from_bytes(image, "little") for image in images], np.float32)
    return number[:, None] + np.arange(width, dtype=np.float32) / 8


def keep(images: list[bytes], key: FeatureKey = KEY) -> FeatureStore:
    store = FeatureStore(key)
    store.put(images, rows_of(images))
    store.flush()
    return store


@pytest.fixture(autouse=True)
def forgetful() -> None:
    """As in a new process, nothing was checked."""
    shards._checked.clear()


def age(path: Path, days: float) -> None:
    os.utime(path, (time.time() - days * 86400,) * 2)


def test_what_was_put_is_read_in_any_order_from_several_shards() -> None:
    for first in (0, 10, 20):
        keep(names(10, first))
    images = names(30)
    store = FeatureStore(KEY)
    assert store.missing(names(34)) == [30, 31, 32, 33]
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))[:17]
    found = store.located(images).read(order)
    assert torch.equal(found, torch.from_numpy(rows_of(images)[order.numpy()]))
    assert store.located(images).read(torch.empty(0, dtype=torch.int64)).shape == (0, 6)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files as Linux does")
def test_more_shards_than_files_may_be_open_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    for first in range(60):
        keep(names(1, first))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(os.listdir("/proc/self/fd")) + 20
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, before[1]))
        store = FeatureStore(KEY)
        assert store.missing(names(60)) == []
        assert torch.equal(store.located(names(60)).read(torch.arange(60)), torch.from_numpy(rows_of(names(60))))
        del store
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, before[1]))
        monkeypatch.setattr("promptkit.features.store.allow_files", lambda count: None)
        with pytest.raises(OutputError, match="more files than may be open at once"):
            FeatureStore(KEY).missing(names(60))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_another_key_has_rows_of_its_own() -> None:
    keep(names(3))
    assert FeatureStore(FeatureKey({"part": "patches"})).missing(names(3)) == [0, 1, 2]


def test_unreadable_images_are_kept_with_their_reason() -> None:
    store = FeatureStore(KEY)
    store.put(names(2), rows_of(names(2)), {names(1, 7)[0]: "größtenteils leer"})
    store.flush()
    again = FeatureStore(KEY)
    assert again.missing([*names(2), *names(1, 7)]) == []
    assert again.unreadable == {names(1, 7)[0]: "größtenteils leer"}
    only = FeatureStore(KEY)
    only.put([], np.empty((0, 0), np.float32), {names(1, 8)[0]: "empty"})
    only.flush()
    assert FeatureStore(KEY).missing(names(1, 8)) == []


def test_an_image_is_known_by_path_size_and_times_and_place(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"a")
    first = image_digest(path)
    assert image_digest(path) == first
    assert image_digest(path, 0) != image_digest(path, 1)
    known = path.stat()
    path.write_bytes(b"b")
    os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))
    assert image_digest(path) != first


def test_a_shard_is_a_safetensors_file(cache: Path) -> None:
    keep(names(4))
    (path,) = (cache / "features").iterdir()
    assert np.array_equal(load_file(path)["rows"], rows_of(names(4)))


@given(data=st.data())
def test_any_change_is_found_or_changes_nothing(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("shards")
    writer = ShardWriter(folder, "x", KEY.about)
    writer.put(names(3), rows_of(names(3)))
    writer.unreadable = {names(1, 5)[0]: "empty"}
    good = writer.finish()
    content = bytearray(good.path.read_bytes())
    header = len(bytes(content[: shards._HEADER]).rstrip())
    for _ in range(data.draw(st.integers(1, 3))):
        begin, end = data.draw(st.sampled_from([(0, 8), (0, header), (shards._HEADER, len(content))]))
        content[data.draw(st.integers(begin, end - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.none() | st.integers(0, len(content) - 1))
    path = folder / "changed"
    path.write_bytes(bytes(content[:cut]))
    try:
        found = Shard(path)
        found.check()
    except DamagedShardError:
        return
    assert (found.rows == good.rows).all()
    assert found.contents == good.contents


@pytest.mark.parametrize("kind", ["fifo", "folder", "broken link", "device"])
def test_what_is_no_file_does_not_hang(kind: str, no_file: Callable[[Path, str], Path], cache: Path) -> None:
    keep(names(2))
    (path,) = (cache / "features").iterdir()
    path.unlink()
    no_file(path, kind)
    assert FeatureStore(KEY).missing(names(2)) == [0, 1]
    assert len(cached_files()) == 1
    keep(names(2))
    assert FeatureStore(KEY).missing(names(2)) == []


def test_a_damaged_shard_is_dropped_with_one_warning_and_the_others_serve(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep(names(4))
    (bad,) = (cache / "features").iterdir()
    keep(names(4, 4))
    content = bytearray(bad.read_bytes())
    content[shards._HEADER + 5] ^= 1
    bad.write_bytes(content)
    shards._checked.clear()
    assert FeatureStore(KEY).missing(names(8)) == [0, 1, 2, 3]
    assert FeatureStore(KEY).missing(names(8)) == [0, 1, 2, 3]
    assert [record.getMessage().count("damaged") for record in caplog.records] == [1]
    assert not bad.exists()


def start(code: str, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, words)],
        stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, ""])},
    )  # fmt: skip


FILL = """
    import sys
    import numpy as np
    from promptkit.features import store
    store.SHARD_BYTES = 1000
    opened = store.FeatureStore(store.FeatureKey({"part": "pooled"}))
    print("ready", flush=True)
    sys.stdin.readline()
    first = int(sys.argv[1])
    while True:
        images = [n.to_bytes(16, "little") for n in range(first, first + 20)]
        if opened.missing(images):
            opened.put(images, np.array([[n + i / 8 for i in range(6)] for n in range(first, first + 20)], np.float32))
        first += 20
        if len(sys.argv) > 2 and first >= int(sys.argv[2]):
            break
    opened.flush()
"""


def test_two_processes_fill_one_store_at_once() -> None:
    both = [start(FILL, 0, 400), start(FILL, 200, 600)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in both:
        process.communicate(timeout=60)
        assert process.returncode == 0
    images = names(600)
    store = FeatureStore(KEY)
    assert store.missing(images) == []
    assert torch.equal(store.located(images).read(torch.arange(600)), torch.from_numpy(rows_of(images)))


def test_a_kill_in_the_middle_of_writing_leaves_whole_shards_and_the_rest_goes(cache: Path) -> None:
    whole = 0
    for trial in range(2):
        process = start(FILL, 0)
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("\n")
        process.stdin.flush()
        deadline = time.monotonic() + 30
        while len(cached_files()) <= whole + trial and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for file in cached_files():
            if file.is_whole:
                Shard(file.path).check()
        whole = sum(file.is_whole for file in cached_files())
    assert whole
    (cache / "features" / f".left{shards.SUFFIX}").write_bytes(b"half")
    delete_leftovers()
    assert all(file.is_whole for file in cached_files())


def test_what_is_written_or_read_is_not_deleted(cache: Path, promptkit: Callable[..., "Finished"]) -> None:
    writer = ShardWriter(cache / "features", "x", {})
    killed = cache / "features" / f".y{shards.SUFFIX}"
    for left in (killed, killed.with_name(f"{killed.name}.0{shards.MARK}")):
        left.touch()
    assert "1 are in use by running processes and stay" in promptkit("cache", "clear").out
    assert {path.name for path in writer.folder.iterdir()} == {writer.fresh.name, Path(writer.mark.lock_file).name}
    writer.put(names(1), rows_of(names(1)))
    shard = writer.finish()
    assert not delete_unused(shard.path)
    del shard
    assert delete_unused(writer.path)
    assert not cached_files()


def test_the_least_recently_used_go_when_the_limit_is_reached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for first in (0, 10, 20):
        keep(names(10, first))
    old, middle, new = sorted(cached_files(), key=lambda file: min(Shard(file.path).contents.images))
    for file, days in ((old, 3), (middle, 2), (new, 1)):
        age(file.path, days)
    used = FeatureStore(KEY)
    assert used.missing(names(10)) == []  # the oldest is in use, and was used last
    monkeypatch.setenv(LIMIT, str(3.5 * old.size / 1e9))
    keep(names(10, 30))
    assert old.path.exists()
    assert not middle.path.exists()
    assert new.path.exists()
    monkeypatch.setenv(LIMIT, "1e-9")
    keep(names(10, 40))
    assert old.path.exists()
    assert not new.path.exists()


@pytest.mark.parametrize("text", ["much", "-1", "0", "nan", "inf"])
def test_a_limit_that_is_no_number_is_an_error(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, text)
    with pytest.raises(ConfigError, match="expected a number of gigabytes"):
        keep(names(1))


def test_cache_clears_by_age_backbone_and_data(promptkit: Command) -> None:
    for number, (backbone, data) in enumerate(
        (("ViT-B-16 (openai)", "/a/x"), ("ViT-B-16 (openai)", "/b"), ("RN50 (openai)", "/b"))
    ):
        keep(names(2), FeatureKey({"number": number}, {"backbone": backbone, "data": data, "views": "evaluation"}))
    listed = promptkit("cache", "list").out
    assert all(word in listed for word in ("ViT-B-16 (openai)", "RN50 (openai)", "/a/x", "/b", "3 shards"))
    assert "deleted 0 shards" in promptkit("cache", "clear", "--older-than", 1).out
    assert "deleted 0 shards" in promptkit("cache", "clear", "--backbone", "ViT-B").out
    assert "deleted 1 shards" in promptkit("cache", "clear", "--data", "/a").out
    assert "deleted 1 shards" in promptkit("cache", "clear", "--backbone", "RN50").out
    (left,) = cached_files()
    age(left.path, 2)
    used = FeatureStore(FeatureKey({"number": 1}))
    assert used.missing(names(2)) == []
    age(left.path, 2)
    assert "1 are in use by running processes and stay" in promptkit("cache", "clear", "--older-than", 1).out
    del used
    assert "deleted 1 shards" in promptkit("cache", "clear", "--older-than", 1).out


def test_a_hostile_shard_is_listed(promptkit: Command, cache: Path) -> None:
    about = {"backbone": "[/red]", "views": {"a": 1}, "data": "[link=file:///etc]x"}
    keep(names(1), FeatureKey({}, about))
    (cache / "features" / f"x{shards.SUFFIX}").write_bytes(b"{" * 40_000)
    done = promptkit("cache", "list")
    assert done.status == 0, done.err
    assert "[/red]" in done.out
    assert "damaged, or half written" in done.out

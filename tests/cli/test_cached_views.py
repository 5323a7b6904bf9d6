"""Feature caches, as a user meets them: the same figures for less work, and never a stale one."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from torch import Tensor

from promptkit import hookimpl
from promptkit.backbones.base import FeatureSpec, Intermediates
from promptkit.components import ContextPrompts, PromptGenerator
from promptkit.tensors import ImageFeatures
from promptkit.testing import registered

Command = Callable[..., "Finished"]


def files(cache: Path) -> list[Path]:
    return sorted((cache / "features").iterdir()) if (cache / "features").exists() else []


def assert_same(one: Path, other: Path) -> None:
    a, b = (load_file(run / "learner.safetensors") for run in (one, other))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.fixture(autouse=True)
def small_feature_caches_are_said_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptkit.features.cache.LARGE", 0)


@pytest.fixture
def copied(images: Path, tmp_path: Path) -> Path:
    """Pictures that a test may change."""
    return Path(shutil.copytree(images, tmp_path / "copied"))


@pytest.mark.parametrize("recipe", ["coop", "gopro"])
def test_as_many_versions_as_epochs_give_the_run_without_a_feature_cache(
    recipe: str, train: Command, tmp_path: Path
) -> None:
    assert train(recipe, "--out", "plain", "--batch-size", 5).status == 0
    done = train(recipe, "--out", "cached", "--batch-size", 5, "--cached-views", 2)
    assert done.status == 0, done.err
    assert "keeping the features of 32 pictures: " in done.err
    assert_same(tmp_path / "plain", tmp_path / "cached")
    train(recipe, "--out", "cycled", "--batch-size", 5, "--cached-views", 1)
    with pytest.raises(AssertionError):  # the second epoch's views are others
        assert_same(tmp_path / "plain", tmp_path / "cycled")


def test_a_feature_cache_is_read_again_and_another_seed_or_view_misses(train: Command, cache: Path) -> None:
    words = ("--cached-views", 1, "--epochs", 1)
    train("gopro", "--out", "a", *words)
    before = files(cache)
    assert "keeping" not in train("gopro", "--out", "b", *words).err
    assert files(cache) == before
    for changed in (("--seed", 2), ("--set", "views.severity=3"), ("--cached-views", 2)):
        known = files(cache)
        assert train("gopro", "--out", "c", "--force", *words, *changed).status == 0
        assert len(files(cache)) > len(known), changed
    needs_less = train("gopro", "--out", "c", "--force", *words, "--set", "prompts=coop")
    assert needs_less.status == 0
    assert "keeping" not in needs_less.err


def test_a_second_evaluation_opens_no_image(
    train: Command, promptkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("gopro", "--out", "gopro")
    train("coop", "--out", "coop")
    first = promptkit("eval", "gopro", "coop", "--json", "first.json")
    assert first.err.count("keeping the features of 12 pictures") == 2  # one cache for each of the two domains
    plain = promptkit("eval", "gopro", "coop", "--json", "plain.json", "--no-cache")
    monkeypatch.setattr("promptkit.data.loading.try_image", lambda *_: pytest.fail("a picture was opened"))
    assert promptkit("eval", "gopro", "coop", "--json", "second.json").status == plain.status == 0
    contents = {(tmp_path / f"{name}.json").read_text() for name in ("first", "plain", "second")}
    assert len(contents) == 1
    assert promptkit("eval", "gopro", "--domains", "photo").status == 0  # a cache serves each domain alone


def test_a_subset_costs_no_tower_pass_and_a_new_image_one(
    train: Command, promptkit: Command, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    encode = FeatureSpec.encode

    def counted(spec: FeatureSpec, pixels: Tensor) -> ImageFeatures:
        seen.append(len(pixels))
        return encode(spec, pixels)

    train("gopro", "--out", "gopro", "--data", copied)
    train("coop", "--out", "coop", "--data", copied)
    monkeypatch.setattr(FeatureSpec, "encode", counted)
    evaluate = ("eval", "gopro", "--data", copied)
    assert promptkit(*evaluate, "--split", "all").status == 0
    before = sum(seen)
    assert before > 0
    assert promptkit(*evaluate, "--split", "test").status == 0
    assert promptkit(*evaluate, "--split", "train", "--domains", "photo").status == 0
    assert promptkit("eval", "coop", "--data", copied, "--split", "all").status == 0  # needs less than what is kept
    assert sum(seen) == before
    shutil.copy(copied / "photo/star/000.png", copied / "photo/star/new.png")
    assert promptkit(*evaluate, "--split", "all").status == 0
    assert sum(seen) == before + 1


def test_a_changed_image_is_seen(train: Command, promptkit: Command, copied: Path) -> None:
    train("coop", "--out", "run", "--data", copied)
    evaluate = ("eval", "run", "--data", copied, "--split", "all", "--domains", "photo")
    assert "keeping" in promptkit(*evaluate).err
    assert "keeping" not in promptkit(*evaluate).err
    changed = copied / "photo/star/000.png"
    status = changed.stat()
    content = bytearray(changed.read_bytes())
    content[-20] ^= 1
    changed.write_bytes(content)
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))  # size and time are as before
    assert "1 picture left out" in promptkit(*evaluate).err


def test_unreadable_images_are_recorded(train: Command, promptkit: Command, copied: Path, tmp_path: Path) -> None:
    (copied / "photo/star/000.png").write_bytes(b"no picture")
    train("coop", "--out", "run", "--data", copied)
    evaluate = ("eval", "run", "--data", copied, "--split", "all", "--json")
    for name in ("first", "second"):
        done = promptkit(*evaluate, f"{name}.json")
        assert done.status == 0, done.err
        assert "1 picture left out" in done.err
    assert (tmp_path / "first.json").read_text() == (tmp_path / "second.json").read_text()
    assert json.loads((tmp_path / "second.json").read_text())["runs"]["run"]["photo"]["n"] == 31
    assert promptkit("eval", "run", "--data", copied, "--split", "all", "--strict").status == 2


def test_unreadable_images_leave_the_same_batches(train: Command, copied: Path, tmp_path: Path) -> None:
    for number in range(3):
        (copied / f"photo/star/{number:03}.png").write_bytes(b"no picture")
    words = ("--data", copied, "--shots", 0, "--batch-size", 4)
    train("coop", "--out", "plain", *words)
    assert "left out" in train("coop", "--out", "cached", "--cached-views", 2, *words).err
    assert_same(tmp_path / "plain", tmp_path / "cached")


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-7], lambda b: b[:-40] + b"\xff" + b[-39:], lambda b: b"", lambda b: b * 2]
)
def test_a_damaged_feature_cache_is_computed_again(
    damage: Callable[[bytes], bytes], train: Command, promptkit: Command, cache: Path, tmp_path: Path
) -> None:
    train("coop", "--out", "run", "--domains", "photo")
    promptkit("eval", "run", "--domains", "photo", "--json", "first.json")
    for path in files(cache):
        content = damage(path.read_bytes())
        path.unlink()
        path.write_bytes(content)
    done = promptkit("eval", "run", "--domains", "photo", "--json", "second.json")
    assert done.status == 0, done.err
    assert "are damaged" in done.err
    assert (tmp_path / "first.json").read_text() == (tmp_path / "second.json").read_text()
    assert "are damaged" not in promptkit("eval", "run", "--domains", "photo").err


def test_no_room_stops_a_feature_cache_but_no_evaluation(
    train: Command, promptkit: Command, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("coop", "--out", "run", "--no-cache")
    assert not files(cache)
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    done = promptkit("eval", "run")
    assert done.status == 0
    assert "1.0 kB left; evaluated without keeping features" in done.err
    done = train("coop", "--out", "cached", "--cached-views", 1)
    assert done.status == 2
    assert "promptkit cache clear makes room" in done.err
    assert not files(cache)


def test_an_interrupted_feature_cache_leaves_nothing(
    train: Command, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from promptkit.features.shards import ShardWriter

    monkeypatch.setattr(ShardWriter, "finish", lambda *_: signal.raise_signal(signal.SIGINT))
    done = train("coop", "--out", "run", "--cached-views", 1)
    assert done.status == 130, done.err
    assert not files(cache)


def test_cache_lists_and_clears(train: Command, promptkit: Command, cache: Path) -> None:
    assert "0 shards of features, 0 B" in promptkit("cache", "list").out
    train("gopro", "--out", "run", "--cached-views", 1)
    listed = promptkit("cache", "list").out
    assert "image, moco, augmix" in listed
    assert "evaluation" in listed
    count = len(files(cache))
    assert f"{count} shards of features" in listed
    assert f"deleted {count} shards of features" in promptkit("cache", "clear").out
    assert not files(cache)


def test_a_feature_cache_without_a_cache_is_a_contradiction(train: Command) -> None:
    done = train("coop", "--out", "run", "--cached-views", 1, "--no-cache")
    assert done.status == 2
    assert "leave one of the two out" in done.err


class Reading(ContextPrompts):
    """Reads the image tower through a method, which may depend on anything that the object holds."""

    @dataclass(frozen=True)
    class Options:
        n_ctx: int = 2
        ctx_init: str = ""

    def intermediates(self) -> Intermediates:
        return Intermediates(self.reduced)

    def reduced(self, tokens: Tensor) -> Tensor:
        return tokens.mean(1)


class TappingPlugin:
    @hookimpl
    def register_prompts(self, register: Callable[[str, type[PromptGenerator]], None]) -> None:
        register("reading", Reading)


def test_what_a_method_of_an_object_makes_is_not_kept(train: Command, cache: Path) -> None:
    with registered(TappingPlugin()):
        done = train("coop", "--out", "run", "--set", "prompts=reading", "--cached-views", 1)
        assert done.status == 2
        assert "can't be kept" in done.err
        assert train("coop", "--out", "run", "--set", "prompts=reading").status == 0
    assert not files(cache)


def test_profile_says_where_the_time_went(train: Command) -> None:
    done = train("gopro", "--out", "run", "--profile")
    assert done.status == 0
    (line,) = (line for line in done.out.splitlines() if line.startswith("time  "))
    shares = [int(word.rstrip("%")) for word in line.split() if word.endswith("%")]
    assert len(shares) == 5
    assert 95 <= sum(shares) <= 105
    assert "is the slowest part" in done.out or "are the slowest part" in done.out
    assert "slowest part" not in train("gopro", "--out", "other").out


def test_memory_and_dtype_from_the_command_line(train: Command, promptkit: Command, tmp_path: Path) -> None:
    train("gopro", "--out", "plain")
    train("gopro", "--out", "small", "--memory-gb", 0.003)
    assert_same(tmp_path / "plain", tmp_path / "small")
    assert "memory_gb = 0.003" in (tmp_path / "small/run.toml").read_text()
    train("gopro", "--out", "again", "--set", "backbone.checkpoint=on")
    assert_same(tmp_path / "plain", tmp_path / "again")
    assert 'checkpoint = "on"' in (tmp_path / "again/run.toml").read_text()
    done = train("gopro", "--out", "wrong", "--set", "backbone.checkpoint=always")
    assert "backbone.checkpoint='always': expected auto|on|off" in done.err
    assert train("gopro", "--out", "half", "--backbone-dtype", "bf16").status == 0
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "plain", tmp_path / "half")
    assert promptkit("eval", "half", "--backbone-dtype", "fp8").status == 2

"""A cache as nobody wrote it: what was asked for comes out, or one error; never anything else."""

import json
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from promptkit.data.cachefile import CacheContent, CacheWriter, DamagedCacheError, Field, read_about, read_cache

Command = Callable[..., "Finished"]

LEAD = (2, 1, 3)
REASONS = [("b.png", "empty"), ("ü.png", "damaged")]


def cached(path: Path) -> Path:
    fields = {"pooled": Field((4,)), "intermediates.0": Field((2, 2)), "intermediates.1": Field((1,))}
    writer = CacheWriter(path, {"backbone": "tiny", "images": 3}, fields, LEAD)
    writer.open()
    rng = np.random.default_rng(0)
    for version in range(2):
        for name, field in fields.items():
            writer.put(name, version, 0, 0, rng.normal(size=(3, *field.shape)).astype(np.float32))
    writer.readable[1] = 0
    writer.finish(REASONS)
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cached(tmp_path_factory.mktemp("cache") / "good.safetensors")


def same(one: CacheContent, other: CacheContent) -> bool:
    return (
        one.fields.keys() == other.fields.keys()
        and all(torch.equal(one.fields[name], other.fields[name]) for name in one.fields)
        and torch.equal(one.readable, other.readable)
        and one.unreadable == other.unreadable
    )


def test_what_was_written_is_read(good: Path) -> None:
    content = read_cache(good, LEAD)
    assert {name: tuple(tensor.shape) for name, tensor in content.fields.items()} == {
        "pooled": (2, 1, 3, 4),
        "intermediates.0": (2, 1, 3, 2, 2),
        "intermediates.1": (2, 1, 3, 1),
    }
    assert content.readable.tolist() == [True, False, True]
    assert content.unreadable == REASONS
    assert read_about(good) == {"backbone": "tiny", "images": 3}


@pytest.mark.parametrize("lead", [(1, 1, 3), (2, 2, 3), (2, 1, 4), (2, 3, 1)])
def test_a_feature_cache_of_other_images_is_none(good: Path, lead: tuple[int, int, int]) -> None:
    with pytest.raises(DamagedCacheError, match="something else"):
        read_cache(good, lead)


@given(data=st.data())
def test_any_change_is_found_or_changes_nothing(good: Path, data: st.DataObject) -> None:
    content = bytearray(good.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        end = data.draw(st.sampled_from([8, header, len(content)]))
        content[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.none() | st.integers(0, len(content) - 1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cache.safetensors"
        path.write_bytes(bytes(content[:cut]))
        assert isinstance(read_about(path), dict)
        try:
            found = read_cache(path, LEAD)
        except DamagedCacheError:
            return
        assert same(found, read_cache(good, LEAD))


def test_every_cut_is_found(good: Path, tmp_path: Path) -> None:
    content = good.read_bytes()
    for size in range(len(content)):
        (tmp_path / "cut").write_bytes(content[:size])
        with pytest.raises(DamagedCacheError):
            read_cache(tmp_path / "cut", LEAD)


def checksummed(tensors: dict[str, torch.Tensor], about: str = "{}") -> bytes:
    """What someone who knows the checksum could write."""
    plain = save(tensors)
    data = plain[8 + int.from_bytes(plain[:8], "little") :]
    return save(tensors, {"promptkit": about, "checksum": str(zlib.crc32(data))})


def letters(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


SOUND = {
    "pooled": torch.zeros(*LEAD, 4),
    "readable": torch.ones(3, dtype=torch.uint8),
    "unreadable": letters('[["a", "b"]]'),
}


@pytest.mark.parametrize(
    "change",
    [
        {"pooled": None},
        {"pooled": torch.zeros(2, 1, 3, 4, dtype=torch.float64)},
        {"pooled": torch.zeros(3)},
        {"pooled": torch.tensor(1.0)},
        {"pooled": None, "patches": torch.zeros(*LEAD, 2, 4)},
        {"readable": None},
        {"readable": torch.ones(4, dtype=torch.uint8)},
        {"readable": torch.ones(3)},
        {"unreadable": None},
        {"intermediates.1": torch.zeros(*LEAD, 1)},
        {"intermediates.x": torch.zeros(*LEAD, 1)},
        {"../../x": torch.zeros(*LEAD, 1)},
        *(
            {"unreadable": letters(text)}
            for text in ("", "{}", "3", "[3]", '["ab"]', '[["a"]]', '[["a", 3]]', "[" * 100_000, '[["a", "b"]]x', "NaN")
        ),
        {"unreadable": torch.zeros(4)},
        {"unreadable": torch.full((4,), 255, dtype=torch.uint8)},
    ],
    ids=lambda change: next(
        f"{name} {'' if tensor is None else tuple(tensor.shape)}" for name, tensor in change.items()
    ),
)
def test_a_feature_cache_that_holds_something_else_is_none(
    change: dict[str, torch.Tensor | None], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_bytes(checksummed(SOUND))
    if change != {"pooled": None}:
        assert read_cache(tmp_path / "cache", LEAD).unreadable == [("a", "b")]
    tensors = {name: tensor for name, tensor in {**SOUND, **change}.items() if tensor is not None}
    if change == {"pooled": None}:  # not one picture was readable
        tensors["intermediates.0"] = torch.zeros(*LEAD, 1)
    (tmp_path / "cache").write_bytes(checksummed(tensors))
    with pytest.raises(DamagedCacheError):
        read_cache(tmp_path / "cache", LEAD)


@given(st.text(max_size=40) | st.sampled_from(["[" * 100_000, "9" * 10_000, "[1]", '{"a": 1, "a": 2}', "1e999"]))
def test_whatever_a_feature_cache_says_of_itself_is_read_as_a_table(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cache"
        path.write_bytes(checksummed(SOUND, text.encode(errors="replace").decode()))
        assert isinstance(read_about(path), dict)


@pytest.mark.parametrize("kind", ["fifo", "folder", "broken link", "device", "huge"])
def test_what_is_no_file_does_not_hang(kind: str, no_file: Callable[[Path, str], Path], tmp_path: Path) -> None:
    path = no_file(tmp_path / "cache", kind)
    assert read_about(path) == {}
    with pytest.raises(DamagedCacheError):
        read_cache(path, LEAD)


@pytest.mark.parametrize("kind", ["fifo", "broken link", "folder"])
def test_an_evaluation_goes_on_whatever_lies_in_the_place_of_a_feature_cache(
    kind: str, no_file: Callable[[Path, str], Path], train: Command, promptkit: Command, cache: Path
) -> None:
    train("coop", "--out", "run", "--domains", "photo")
    promptkit("eval", "run", "--domains", "photo", "--json", "first.json")
    for path in (cache / "features").iterdir():
        path.unlink()
        no_file(path, kind)
    done = promptkit("eval", "run", "--domains", "photo", "--json", "second.json")
    assert done.status == 0, done.err
    assert Path("first.json").read_text() == Path("second.json").read_text()


def test_a_hostile_feature_cache_is_listed(promptkit: Command, cache: Path) -> None:
    (cache / "features").mkdir()
    about = json.dumps({"backbone": "[/red]", "views": {"a": 1}, "folder": "[link=file:///etc]x"})
    (cache / "features/x.safetensors").write_bytes(checksummed(SOUND, about))
    done = promptkit("cache", "list")
    assert done.status == 0, done.err
    assert "[/red]" in done.out

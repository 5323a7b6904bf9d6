"""The demo's pictures: a function of the seed, and classes and domains that can be told apart."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from promptkit.data.layouts import read_dataset
from promptkit.demo.images import CLASSES, DOMAINS, draw, generator


def pixels(name: str, domain: str, number: int, seed: int = 0) -> NDArray[np.float32]:
    image, _ = draw(name, domain, 64, generator(seed, name, domain, number))
    assert image.mode == "RGB"
    return np.asarray(image, np.float32)


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_image_is_a_function_of_its_seed(domain: str):
    for name in CLASSES:
        first = pixels(name, domain, 0)
        assert first.shape == (64, 64, 3)
        np.testing.assert_array_equal(first, pixels(name, domain, 0))
        for other in (pixels(name, domain, 1), pixels(name, domain, 0, seed=1)):
            assert np.abs(first - other).mean() > 1


def test_another_process_draws_the_same():
    """Nothing depends on the hash seed, or on what was drawn before."""
    code = (
        "from promptkit.demo.images import draw, generator; import hashlib;"
        "print(hashlib.sha256(draw('cat', 'photo', 64, generator(3, 'cat', 'photo', 5))[0].tobytes()).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": hashing},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hashing in ("1", "2")
    ]
    assert runs[0] == runs[1]


def test_domains_differ_as_their_names_say():
    """Sketches have no colour and much paper; cartoons are flatter than paintings."""
    drawn = {domain: np.stack([pixels(name, domain, 0) for name in CLASSES]) for domain in DOMAINS}
    colourful = {domain: np.ptp(x, axis=-1).mean() for domain, x in drawn.items()}
    assert all(colourful["sketch"] < 15 < 25 < colourful[domain] for domain in DOMAINS if domain != "sketch")
    assert np.median(drawn["sketch"]) > 200
    flat = {domain: (np.abs(np.diff(x, axis=2)).sum(-1) < 1).mean() for domain, x in drawn.items()}
    assert flat["cartoon"] > 0.5 > 0.1 > flat["painting"]


def test_classes_can_be_told_apart():
    """Sketches are little but shape: their blurred lines, with no learning, tell classes at several times chance."""

    def seen(number: int) -> NDArray[np.float32]:
        dark = np.stack([255 - pixels(name, "sketch", number)[..., 0] for name in CLASSES]).clip(30) - 30
        rows, columns = (dark.sum(axis)[:, :, None] * np.arange(64)[None, :, None] for axis in (2, 1))
        total = dark.sum((1, 2))[:, None]
        middle = np.concatenate([rows.sum(1), columns.sum(1)], 1) / total
        centred = np.stack(
            [np.roll(x, np.round(31.5 - m).astype(int), (0, 1)) for x, m in zip(dark, middle, strict=True)]
        )
        cells = centred.reshape(len(CLASSES), 16, 4, 16, 4).mean((2, 4)).reshape(len(CLASSES), -1)
        unit: NDArray[np.float32] = cells / np.linalg.norm(cells, axis=1, keepdims=True)
        return unit

    means = np.mean([seen(number) for number in range(40)], 0)
    right = [(seen(number) @ means.T).argmax(1) == np.arange(len(CLASSES)) for number in range(40, 46)]
    assert np.mean(right) > 5 / len(CLASSES)


def test_demo_data_is_an_ordinary_folder(promptkit: Callable[..., object], tmp_path: Path):
    done = promptkit("demo-data", "pictures", "--per-class", 1, "--size", 32)
    assert "next: promptkit train coop --backbone demo --data pictures " in done.out
    assert done.status == 0, done.err
    assert f"{len(CLASSES) * len(DOMAINS)} pictures" in done.out
    dataset = read_dataset(tmp_path / "pictures", [])
    assert dataset.classnames == CLASSES
    assert dataset.domains == DOMAINS
    assert len(dataset.items) == len(CLASSES) * len(DOMAINS)

    kept, lost = (tmp_path / "pictures" / "photo" / name / "000.png" for name in ("cat", "star"))
    before = lost.read_bytes()
    kept.write_bytes(b"mine")
    lost.unlink()
    assert promptkit("demo-data", "pictures", "--per-class", 1, "--size", 32).status == 0
    assert kept.read_bytes() == b"mine"
    assert lost.read_bytes() == before


def test_demo_data_where_nothing_can_be_written(promptkit: Callable[..., object], tmp_path: Path):
    (tmp_path / "file").write_text("")
    done = promptkit("demo-data", "file", "--per-class", 1)
    assert done.status == 2
    assert "can't be written" in done.err

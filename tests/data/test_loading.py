"""Items -> batches: the same ones whatever the workers do."""

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from promptkit.backbones.base import ImageSpec
from promptkit.components import NoOptions, PlainViews, Views
from promptkit.data import loading
from promptkit.data.images import Unreadable
from promptkit.data.layouts import Item, read_dataset
from promptkit.data.loading import default_workers, eval_loader, train_loader
from promptkit.errors import DataError
from promptkit.settings import LoaderSettings

REAL = Path(__file__).parents[2].parent / "shared/data"
SPEC = ImageSpec((8, 8), (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))


class Cut(Views):
    """A corner of the picture, and noise that tells which generator made it."""

    names = ("image", "noise")

    def __call__(self, image, rng):
        y, x = rng.integers(0, image.shape[0] - 8), rng.integers(0, image.shape[1] - 8)
        cut = image[y : y + 8, x : x + 8].transpose(2, 0, 1)
        return {"image": cut.astype(np.float32) / 255, "noise": rng.random((3, 2, 2), dtype=np.float32)}


VIEWS = Cut(NoOptions(), SPEC)
PLAIN = PlainViews(NoOptions(), SPEC)


@pytest.fixture
def items(tmp_path, noise):
    """Ten pictures of three classes."""
    found = []
    for i in range(10):
        path = tmp_path / f"{i}.png"
        noise(20 + i, 16, seed=i).save(path)
        found.append(Item(path, i % 3, "", "train"))
    return found


def epoch(loader, number=0):
    """Everything that a loader gives in an epoch, as plain values."""
    loader.set_epoch(number)
    return [
        (loaded.index.tolist(), loaded.batch.label.tolist(), {k: v.tolist() for k, v in loaded.batch.views.items()})
        for loaded in loader
    ]


def spoil(items, *places):
    for place in places:
        items[place].path.write_bytes(b"")


# Training


def test_batches(items):
    loaded = next(iter(train_loader(items, VIEWS, LoaderSettings(batch_size=4), seed=1)))
    assert {name: tuple(view.shape) for name, view in loaded.batch.views.items()} == {
        "image": (4, 3, 8, 8),
        "noise": (4, 3, 2, 2),
    }
    assert loaded.batch.label.tolist() == [items[i].label for i in loaded.index]
    assert loaded.batch.label.dtype == torch.int64
    first = loaded.index[0].item()
    rng = np.random.default_rng((1, 0, first))
    expected = VIEWS(np.asarray(Image.open(items[first].path)), rng)
    assert all((loaded.batch.views[name][0].numpy() == expected[name]).all() for name in VIEWS.names)


def test_order_and_views_depend_on_seed_and_epoch_alone(items):
    loader = train_loader(items, VIEWS, LoaderSettings(batch_size=4), seed=1)
    first, second = epoch(loader, 0), epoch(loader, 1)
    assert first != second
    torch.manual_seed(123)
    assert epoch(loader, 0) == first
    assert epoch(train_loader(items, VIEWS, LoaderSettings(batch_size=4), seed=1), 1) == second
    assert epoch(train_loader(items, VIEWS, LoaderSettings(batch_size=4), seed=2), 0) != first


def test_a_image_looks_different_in_every_epoch(items):
    loader = train_loader(items[:2], VIEWS, LoaderSettings(batch_size=1, workers=2), seed=1)
    seen = {(index[0], str(views["noise"])) for number in range(3) for index, _, views in epoch(loader, number)}
    assert len(seen) == 6


def test_global_generators_are_left_alone(items):
    before = torch.get_rng_state()
    epoch(train_loader(items, VIEWS, LoaderSettings(batch_size=4, workers=1), seed=1))
    assert (torch.get_rng_state() == before).all()


def test_workers_change_nothing_and_hear_of_new_epochs(items):
    spoil(items, 3)
    alone = train_loader(items, VIEWS, LoaderSettings(batch_size=3, workers=0), seed=1)
    expected = [epoch(alone, number) for number in (0, 1, 7)]
    assert len(set(map(str, expected))) == 3
    for workers in (1, 2, 3):
        loader = train_loader(items, VIEWS, LoaderSettings(batch_size=3, workers=workers), seed=1)
        assert loader.persistent_workers
        assert [epoch(loader, number) for number in (0, 1, 7)] == expected


def test_an_epoch_left_half_way_does_not_spill_into_the_next(items):
    loader = train_loader(items, VIEWS, LoaderSettings(batch_size=2, workers=2), seed=1)
    expected = epoch(loader, 1)
    loader.set_epoch(0)
    next(iter(loader))
    assert epoch(loader, 1) == expected


@pytest.mark.parametrize(("batch_size", "sizes"), [(4, [4, 4]), (5, [5, 5]), (10, [10]), (11, [10])])
def test_last_short_batch(items, batch_size, sizes):
    loader = train_loader(items, VIEWS, LoaderSettings(batch_size=batch_size), seed=1)
    assert [len(loaded.index) for loaded in loader] == sizes
    assert len(loader) == len(sizes)


def test_unreadable_images_are_carried_along(items):
    spoil(items, 0, 5)
    loaded = next(iter(train_loader(items, VIEWS, LoaderSettings(batch_size=10), seed=1)))
    assert len(loaded.batch.label) == len(loaded.index) == 8
    assert loaded.batch.label.tolist() == [items[i].label for i in loaded.index]
    assert set(loaded.unreadable) == {Unreadable(items[i].path, "the file is empty") for i in (0, 5)}


@pytest.mark.parametrize("workers", [0, 2])
def test_strict_loading_stops(items, workers):
    spoil(items, 0)
    message = f"{items[0].path} can't be read: the file is empty"
    # Kept in a variable, the error would be part of a cycle, which torch's workers take seconds to be collected from.
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        list(train_loader(items, VIEWS, LoaderSettings(batch_size=5, workers=workers, strict=True), seed=1))


def test_no_items():
    for make in (
        lambda: train_loader([], VIEWS, LoaderSettings(batch_size=2), seed=1),
        lambda: eval_loader([], PLAIN, LoaderSettings(batch_size=2)),
    ):
        with pytest.raises(DataError, match="no pictures to load"):
            make()


def test_errors_in_views_are_not_taken_for_bad_images(items):
    class Broken(Cut):
        def __call__(self, image, rng):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(train_loader(items, Broken(NoOptions(), SPEC), LoaderSettings(batch_size=2), seed=1))


# Evaluation


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_are_open_clips(items, interpolation, resize_mode):
    spec = ImageSpec((8, 8), SPEC.mean, SPEC.std, interpolation, resize_mode)
    config = PreprocessCfg(8, "RGB", SPEC.mean, SPEC.std, interpolation, resize_mode)
    transform = image_transform_v2(config, is_train=False)
    (loaded,) = eval_loader(items, PlainViews(NoOptions(), spec), LoaderSettings(batch_size=10))
    expected = torch.stack([transform(Image.open(item.path)) for item in items])
    assert loaded.batch.views.keys() == {"image"}
    assert torch.equal(loaded.batch.views["image"], expected)


def test_evaluation_is_in_order_and_complete(items):
    spoil(items, 4, 5)
    for workers in (0, 1, 3):
        parts = list(eval_loader(items, PLAIN, LoaderSettings(batch_size=4, workers=workers)))
        assert [part.index.tolist() for part in parts] == [[0, 1, 2, 3], [6, 7], [8, 9]]
        assert [part.batch.label.tolist() for part in parts] == [[0, 1, 2, 0], [0, 1], [2, 0]]
        assert [[bad.path for bad in part.unreadable] for part in parts] == [[], [items[4].path, items[5].path], []]


def test_entirely_unreadable_batch(items):
    spoil(items, 0, 1)
    first, second = eval_loader(items[:4], PLAIN, LoaderSettings(batch_size=2, workers=1))
    assert first.batch is None
    assert first.index.tolist() == []
    assert len(first.unreadable) == 2
    assert second.batch is not None


# Workers


def test_default_workers(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    assert [default_workers(n) for n in (1, 63, 64, 10**6)] == [0, 0, 8, 8]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3))
    assert default_workers(1000) == 3


class Threads(Views):
    def __call__(self, image, rng):
        import cv2

        counts = (cv2.getNumThreads(), torch.get_num_threads(), signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
        return {"image": np.full((3, 1, 1), [[[float(count)]] for count in counts], np.float32)}


def test_workers_keep_to_one_thread_and_leave_ctrl_c_alone(items):
    loader = train_loader(items, Threads(NoOptions(), SPEC), LoaderSettings(batch_size=10, workers=1), seed=1)
    assert next(iter(loader)).batch.views["image"][0].flatten().tolist() == [1, 1, 1]


@pytest.mark.skipif(os.name != "posix", reason="sends a Ctrl-C to a process group")
def test_ctrl_c_prints_no_worker_traces(items):
    script = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        import numpy as np
        from promptkit.backbones.base import ImageSpec
        from promptkit.components import NoOptions, PlainViews, Views
        from promptkit.data.layouts import Item
        from promptkit.data.loading import train_loader
        from promptkit.settings import LoaderSettings

        class Slow(Views):
            def __call__(self, picture, rng):
                time.sleep(0.2)
                return {{"image": np.zeros((3, 1, 1), np.float32)}}

        items = [Item(Path({str(items[0].path)!r}), 0, "", None)] * 100
        views = Slow(NoOptions(), ImageSpec((1, 1), (0, 0, 0), (1, 1, 1)))
        try:
            for _ in train_loader(items, views, LoaderSettings(batch_size=1, workers=2), seed=1):
                print("going", flush=True)
        except KeyboardInterrupt:
            print("stopped", flush=True)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Started in a shell's background, the tests ignore Ctrl-C, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "going\n"
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert out.endswith("stopped\n")
    assert err == ""


def test_pinning_reaches_the_tensors(items, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.shape) or tensor)
    (loaded,) = eval_loader(items[:2], PLAIN, LoaderSettings(batch_size=2))
    assert torch.equal(loaded.pin_memory().batch.views["image"], loaded.batch.views["image"])
    assert pinned == [(2, 3, 8, 8), (2,)]
    assert loading.collate([Unreadable(Path("a"), "")]).pin_memory().batch is None


@pytest.mark.skipif(not (REAL / "coop/caltech-101").is_dir(), reason="no shared/data/coop/caltech-101")
def test_real_images():
    dataset = read_dataset(REAL / "coop/caltech-101/101_ObjectCategories", classes=["anchor", "wild cat"])
    spec = ImageSpec((224, 224), SPEC.mean, SPEC.std)
    loaded = list(eval_loader(dataset.items, PlainViews(NoOptions(), spec), LoaderSettings(batch_size=16, workers=0)))
    assert sum(len(part.index) for part in loaded) == 40
    transform = image_transform_v2(PreprocessCfg(224, "RGB", SPEC.mean, SPEC.std), is_train=False)
    assert torch.equal(loaded[0].batch.views["image"][0], transform(Image.open(dataset.items[0].path)))

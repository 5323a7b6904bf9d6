"""The three views: what they are made of, and that nothing but the generator makes them differ."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from promptkit_gopro.views import VIEWS, GOProViews

from promptkit.backbones.base import ImageSpec

SPEC = ImageSpec((32, 32), mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))


def values(view: np.ndarray) -> np.ndarray:
    """Back from a normalised view (3 H W) to a picture (H W 3) of values 0 to 255."""
    return 255 * (view.transpose(1, 2, 0) * SPEC.std + SPEC.mean)


@pytest.fixture(scope="module")
def views() -> GOProViews:
    return GOProViews(GOProViews.Options(), SPEC)


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def test_names_and_shapes(views: GOProViews, noise: np.ndarray):
    made = views(noise, np.random.default_rng(0))
    assert tuple(made) == VIEWS == ("image", "moco", "augmix")
    for view in made.values():
        assert view.shape == (3, 32, 32)
        assert view.dtype == np.float32


def test_only_the_generator_makes_them_differ(views: GOProViews, noise: np.ndarray):
    first, again, other = (views(noise, np.random.default_rng(seed)) for seed in (1, 1, 2))
    copied = pickle.loads(pickle.dumps(views))(noise, np.random.default_rng(1))
    for name in VIEWS:
        np.testing.assert_array_equal(first[name], again[name])
        np.testing.assert_array_equal(first[name], copied[name])
        assert not np.array_equal(first[name], other[name])


def test_all_views_show_this_image_normalised_by_the_spec(views: GOProViews):
    """A flat picture of one colour survives crops and flips, so that only the values can change."""
    flat = np.full((40, 50, 3), (200, 100, 50), np.uint8)
    made = [views(flat, np.random.default_rng(seed)) for seed in range(40)]
    np.testing.assert_allclose(values(made[0]["image"]), flat[:32, :32], atol=1e-3)
    moco = np.mean([values(one["moco"]) for one in made], axis=(0, 1, 2))
    assert np.abs(moco - (200, 100, 50)).max() < 30


def test_moco_draws_jitter_and_grey_at_their_rates(views: GOProViews):
    flat = np.full((40, 50, 3), (200, 100, 50), np.uint8)
    made = np.stack([values(views(flat, np.random.default_rng(seed))["moco"])[16, 16] for seed in range(600)])
    grey = np.ptp(made, axis=1) < 0.5
    untouched = np.abs(made - (200, 100, 50)).max(1) < 0.5
    assert grey.mean() == pytest.approx(0.2, abs=0.04)
    assert untouched.mean() == pytest.approx(0.2 * 0.8, abs=0.04)


def test_moco_blurs_and_image_only_flips(noise: np.ndarray):
    """Where crops keep the whole picture, what is left of its noise tells how far it is blurred."""
    square = noise[:32, :32]
    views = GOProViews(GOProViews.Options(min_scale=1.0), SPEC)
    made = [views(square, np.random.default_rng(seed)) for seed in range(40)]
    flips = 0
    for one in made:
        image = values(one["image"]).round().astype(np.uint8)
        flipped = np.array_equal(image, square[:, ::-1])
        assert flipped or np.array_equal(image, square)
        flips += flipped
    assert 10 <= flips <= 30
    left = np.array([values(one["moco"]).std() for one in made]) / square.std()
    assert np.median(left) < 0.5


def test_importing_the_plugin_is_light():
    code = "import promptkit_gopro, sys; assert not {'albumentations', 'open_clip', 'cv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})

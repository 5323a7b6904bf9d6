"""AugMix against its definition: the draws, the operations (Pillow's, as in the published code), the mixture."""

import numpy as np
import pytest
from PIL import Image, ImageOps
from promptkit_gopro.augmix import OPERATIONS, AugMix

NAMES = [operation.__name__ for operation in OPERATIONS]


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Smooth, 60 by 80, not using the full range."""
    y, x = np.mgrid[0:60, 0:80]
    channels = [np.sin(x / 9 + 2 * c) + np.cos(y / (7 + c)) for c in range(3)]
    return (128 + 50 * np.stack(channels, -1)).round().astype(np.uint8)


def seeded(seed: int, **settings: float) -> AugMix:
    transform = AugMix(**settings)
    transform.set_random_seed(seed)
    return transform


def run(name: str, picture: np.ndarray, level: float) -> np.ndarray:
    return OPERATIONS[NAMES.index(name)](picture, level)


def test_weights_are_dirichlet_and_the_clean_share_is_beta():
    transform = seeded(0)
    draws = [transform.get_params() for _ in range(4000)]
    weights = np.stack([draw["weights"] for draw in draws])
    assert weights.shape == (4000, 3)
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_allclose(weights.mean(0), 1 / 3, atol=0.015)
    np.testing.assert_allclose(weights.var(0), 1 / 18, atol=0.004)
    clean = np.sort([draw["clean"] for draw in draws])
    # Beta(1, 1) is uniform: the largest gap between the two distribution functions.
    assert np.abs(clean - np.linspace(0, 1, 4000)).max() < 0.03


def test_depths_operations_and_levels_are_uniform():
    transform = seeded(0, severity=4.0)
    chains = [chain for _ in range(3000) for chain in transform.get_params()["chains"]]
    np.testing.assert_allclose(
        np.bincount([len(chain) for chain in chains]) / len(chains), [0, *[1 / 3] * 3], atol=0.02
    )
    steps = [step for chain in chains for step in chain]
    np.testing.assert_allclose(np.bincount([index for index, _ in steps]) / len(steps), 1 / 9, atol=0.01)
    levels = np.array([level for _, level in steps])
    assert np.abs(levels).min() >= 0.1
    assert np.abs(levels).max() <= 4
    assert np.abs(levels).mean() == pytest.approx(2.05, abs=0.05)
    assert (levels > 0).mean() == pytest.approx(0.5, abs=0.02)


def test_chains_and_depth_are_settings():
    draws = [seeded(seed, chains=2, depth=5).get_params() for seed in range(200)]
    assert {len(draw["weights"]) for draw in draws} == {2}
    assert {len(chain) for draw in draws for chain in draw["chains"]} == {1, 2, 3, 4, 5}


def test_mixture_is_the_formula(picture: np.ndarray):
    transform = seeded(3, severity=6.0)
    result = transform(image=picture)["image"]
    draw = transform.params
    mixed = np.zeros(picture.shape)
    for chain, weight in zip(draw["chains"], draw["weights"], strict=True):
        changed = picture
        for index, level in chain:
            changed = OPERATIONS[index](changed, level)
        mixed += weight * changed
    expected = draw["clean"] * picture + (1 - draw["clean"]) * mixed
    assert np.abs(result - expected).max() <= 0.501


@pytest.mark.parametrize("severity", [0.0, 0.05, 1.0, 10.0])
def test_shape_and_type_are_kept_and_the_picture_is_left_alone(picture: np.ndarray, severity: float):
    before = picture.copy()
    for seed in range(20):
        result = seeded(seed, severity=severity)(image=picture)["image"]
        assert result.shape == picture.shape
        assert result.dtype == np.uint8
    np.testing.assert_array_equal(picture, before)


def test_deviation_grows_with_severity(picture: np.ndarray):
    deviations = [
        np.mean(
            [np.abs(seeded(s, severity=n)(image=picture)["image"] - picture.astype(float)).mean() for s in range(150)]
        )
        for n in (0.0, 1.0, 3.0, 6.0, 10.0)
    ]
    assert deviations == sorted(deviations)
    assert deviations[-1] > 1.5 * deviations[0]


def test_all_randomness_is_the_generators(picture: np.ndarray):
    first = [seeded(seed)(image=picture)["image"] for seed in range(5)]
    again = [seeded(seed)(image=picture)["image"] for seed in range(5)]
    np.testing.assert_array_equal(first, again)
    assert len({one.tobytes() for one in first}) == 5


@pytest.mark.parametrize("name", ["rotate", "solarize", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_level_zero_changes_nothing(picture: np.ndarray, name: str):
    np.testing.assert_array_equal(run(name, picture, 0.0), picture)


@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
@pytest.mark.parametrize("value", [0, 77, 255])
def test_a_constant_picture_has_no_contrast_to_stretch(name: str, value: int):
    constant = np.full((16, 16, 3), value, np.uint8)
    np.testing.assert_array_equal(run(name, constant, 5.0), constant)


def histograms() -> list[np.ndarray]:
    """Pictures whose levels are spread in many ways: smooth, noise, few levels, one level, a picture of 7 pixels."""
    rng = np.random.default_rng(0)
    dark = (255 * rng.random((50, 40, 3)) ** 4).astype(np.uint8)
    few = rng.choice(np.array([3, 90, 91, 250], np.uint8), (31, 17, 3), p=[0.6, 0.2, 0.15, 0.05])
    return [dark, few, rng.integers(0, 256, (1, 7, 3), np.uint8), np.full((9, 9, 3), 200, np.uint8)]


@pytest.mark.parametrize("number", range(4))
def test_equalize_is_pillows(picture: np.ndarray, number: int):
    for one in (picture, histograms()[number]):
        np.testing.assert_array_equal(run("equalize", one, 1.0), ImageOps.equalize(Image.fromarray(one)))


def pillows(name: str, picture: np.ndarray, level: float) -> np.ndarray:
    """What `augmentations.py` of AugMix computes with Pillow at a level of either sign."""
    image, size = Image.fromarray(picture), picture.shape[1::-1]
    shear, x, y = level * 0.3 / 10, int(level * (size[0] / 3) / 10), int(level * (size[1] / 3) / 10)
    affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    compute = {
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "posterize": lambda: ImageOps.posterize(image, 4 - int(abs(level) * 4 / 10)),
        "solarize": lambda: ImageOps.solarize(image, 256 - int(abs(level) * 256 / 10)),
        "rotate": lambda: image.rotate(int(level * 3), resample=bilinear),
        "shear_x": lambda: image.transform(size, affine, (1, shear, 0, 0, 1, 0), bilinear),
        "shear_y": lambda: image.transform(size, affine, (1, 0, 0, shear, 1, 0), bilinear),
        "translate_x": lambda: image.transform(size, affine, (1, 0, x, 0, 1, 0)),
        "translate_y": lambda: image.transform(size, affine, (1, 0, 0, 0, 1, y)),
    }
    return np.asarray(compute[name]())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [-9.0, -2.5, 0.3, 6.0, 9.9])
def test_every_operation_is_pillows(picture: np.ndarray, name: str, level: float):
    """Exact where only values change, but for the rounding of autocontrast; else up to the border and to rounding."""
    apart = np.abs(run(name, picture, level) - pillows(name, picture, level).astype(float)).max(-1)
    if name in ("equalize", "posterize", "solarize"):
        assert not apart.any()
    elif name == "autocontrast":
        assert apart.max() <= 1
    else:
        assert np.median(apart) <= 1
        assert np.quantile(apart, 0.95) <= 2

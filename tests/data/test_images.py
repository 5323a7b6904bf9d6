"""Pictures of every odd kind -> RGB arrays, or a reason."""

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from promptkit.data.images import Unreadable, open_image, try_image
from promptkit.errors import DataError

REAL = Path(__file__).parents[2].parent / "shared/data"


def png_header(width, height):
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_rgb_is_untouched_and_writable(tmp_path, noise):
    noise().save(tmp_path / "a.png")
    image = open_image(tmp_path / "a.png")
    assert (image == np.asarray(noise())).all()
    assert image.dtype == np.uint8
    image[0] = 0


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "png"), ("LA", "png"), ("RGBA", "png"), ("P", "png"), ("1", "png"), ("CMYK", "jpg"), ("L", "jpg")],
)
def test_modes(tmp_path, noise, mode, suffix):
    file = tmp_path / f"a.{suffix}"
    noise().convert(mode).save(file)
    assert (open_image(file) == np.asarray(Image.open(file).convert("RGB"))).all()


def test_alpha_is_dropped_not_blended(tmp_path):
    Image.new("RGBA", (4, 4), (200, 100, 50, 0)).save(tmp_path / "a.png")
    assert (open_image(tmp_path / "a.png") == (200, 100, 50)).all()


def test_palette_with_transparency(tmp_path, noise):
    palette = noise().convert("P")
    palette.info["transparency"] = bytes(range(256))
    palette.save(tmp_path / "a.png", transparency=bytes(range(256)))
    assert (open_image(tmp_path / "a.png") == np.asarray(noise().convert("P").convert("RGB"))).all()


def test_cmyk_red_stays_red(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    red, green, blue = open_image(tmp_path / "a.jpg").mean((0, 1))
    assert red > 200
    assert max(green, blue) < 60


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (open_image(tmp_path / "a.gif") == (255, 0, 0)).all()


@pytest.mark.parametrize(("orientation", "turn"), [(3, 180), (6, 270), (8, 90)])
def test_exif_orientation(tmp_path, noise, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise().save(tmp_path / "a.png", exif=exif)
    noise(64, 48).save(tmp_path / "a.jpg", exif=exif)
    assert (open_image(tmp_path / "a.png") == np.asarray(noise().rotate(turn, expand=True))).all()
    assert open_image(tmp_path / "a.jpg").shape[:2] == ((48, 64) if turn == 180 else (64, 48))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 257, 32896, 65535]], np.uint16), [0, 1, 128, 255]),
        (np.array([[0, 65535, -5, 32768]], np.int32), [0, 255, 0, 128]),
        (np.array([[0, 2_000_000, 400_000, 65535]], np.int32), [0, 255, 51, 8]),
        (np.array([[0, 0.5, 1, np.nan]], np.float32), [0, 128, 255, 0]),
        (np.array([[0, 100, 255, -1]], np.float32), [0, 100, 255, 0]),
        (np.array([[0, 257, 65535, 1]], np.float32), [0, 1, 255, 0]),
        (np.zeros((1, 4), np.float32), [0, 0, 0, 0]),
    ],
)
def test_deep_grey_is_scaled(tmp_path, values, expected):
    Image.fromarray(values).save(tmp_path / "a.tif")
    image = open_image(tmp_path / "a.tif")
    assert image[0, :, 0].tolist() == expected
    assert (image == image[:, :, :1]).all()
    if values.dtype == np.uint16:
        Image.fromarray(values).save(tmp_path / "a.png")
        assert (open_image(tmp_path / "a.png") == image).all()


@pytest.mark.parametrize(
    ("size", "min_side", "expected"),
    [
        ((800, 640), 40, (80, 100)),  # 1/8
        ((800, 640), 41, (160, 200)),  # 1/4: at 1/8 the short side would keep 80, less than 82
        ((800, 640), 161, (640, 800)),
        ((800, 640), None, (640, 800)),
    ],
)
def test_jpegs_may_be_decoded_smaller(tmp_path, size, min_side, expected):
    Image.linear_gradient("L").resize(size).convert("RGB").save(tmp_path / "a.jpg", quality=95)
    image = open_image(tmp_path / "a.jpg", min_side)
    assert image.shape == (*expected, 3)
    smaller = Image.open(tmp_path / "a.jpg").resize(expected[::-1], Image.Resampling.BOX)
    assert np.abs(image.astype(int) - np.asarray(smaller)).max() < 8


def damaged(noise, folder, kind):
    file = folder / f"{kind}.jpg"
    if kind == "empty":
        file.touch()
    elif kind == "text":
        file.write_text("this is no picture\n" * 50)
    elif kind == "truncated":
        noise(64, 64).save(file)
        file.write_bytes(file.read_bytes()[:-500])
    elif kind == "truncated-png":
        noise(64, 64).save(file, "PNG")
        file.write_bytes(file.read_bytes()[:-5000])
    elif kind == "bomb":
        file.write_bytes(png_header(60_000, 60_000))
    elif kind == "strip":
        file.write_bytes(png_header(100_000, 1))
    elif kind == "no-pixels":
        file.write_bytes(png_header(10, 10))
    elif kind == "postscript":
        file.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    elif kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    return file


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("empty", "the file is empty"),
        ("text", "not a picture in a known format (JPEG, PNG"),
        ("truncated", "truncated"),
        ("truncated-png", "truncated"),
        ("bomb", "more than 178,956,970 pixels"),
        ("strip", "100000 x 1 pixels are too narrow a strip"),
        ("no-pixels", "truncated"),
        ("postscript", "not a picture in a known format"),
        ("folder", "not a file"),
        ("pipe", "not a file"),
        ("missing", "No such file or directory"),
    ],
)
def test_unreadable(tmp_path, noise, kind, reason):
    file = damaged(noise, tmp_path, kind)
    result = try_image(file)
    assert isinstance(result, Unreadable)
    assert result.path == file
    assert reason in result.reason
    with pytest.raises(DataError) as caught:
        open_image(file)
    assert caught.value.message == f"{file} can't be read: {result.reason}"


def test_sizes_that_pil_only_warns_of(tmp_path, monkeypatch, noise):
    noise(40, 40).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert open_image(tmp_path / "a.png").shape == (40, 40, 3)
    noise(50, 50).save(tmp_path / "b.png")
    with pytest.raises(DataError, match="pixels"):
        open_image(tmp_path / "b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "c.png").write_bytes(png_header(20_000, 20_000))
    with pytest.raises(DataError, match="more than 178,956,970 pixels"):
        open_image(tmp_path / "c.png")


def test_warning_filters_are_left_alone(tmp_path, noise):
    noise().save(tmp_path / "a.png")
    before = list(warnings.filters)
    open_image(tmp_path / "a.png")
    assert warnings.filters == before


@pytest.mark.skipif(not (REAL / "pacs-mini").is_dir(), reason="no shared/data/pacs-mini")
def test_real_images():
    files = sorted((REAL / "pacs-mini").rglob("*.*"))[::40]
    assert {open_image(file, 224).shape for file in files} == {(227, 227, 3)}

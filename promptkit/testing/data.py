"""Tiny pictures of shapes in several styles, drawn from a seed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "cross", "square", "star", "stripes", "triangle", "ring", "arrow")
"""The classes that `write_images` can draw."""
STYLES = ("photo", "cartoon", "sketch", "painting")
"""The domains that `write_images` can draw in."""


def write_images(
    folder: Path,
    classes: Sequence[str] = SHAPES[:4],
    domains: Sequence[str] = STYLES[:2],
    per_class: int = 8,
    size: int = 64,
    seed: int = 0,
) -> Path:
    """Draw `<domain>/<class>/<number>.png`, or `<class>/<number>.png` where `domains` is empty.

    `classes` are SHAPES and `domains` STYLES. The same seed draws the same pictures. Returns the folder.
    """
    for domain in domains or ("",):
        for name in classes:
            target = folder / domain / name
            target.mkdir(parents=True, exist_ok=True)
            for number in range(per_class):
                key = (seed, number, SHAPES.index(name), STYLES.index(domain) if domain else len(STYLES))
                draw_image(name, domain or "photo", size, np.random.default_rng(key)).save(target / f"{number:03}.png")
    return folder


def draw_image(shape: str, style: str, size: int, rng: np.random.Generator) -> Image.Image:
    """One shape, anywhere, in any colour.

    Filled on a noisy ground (photo), outlined and flat (cartoon), in black lines on white (sketch), or in coarse strokes
    (painting).
    """
    ground, ink = (tuple(int(x) for x in rng.integers(low, high, 3)) for low, high in ((120, 256), (0, 120)))
    if style == "sketch":
        ground, ink = (255, 255, 255), (0, 0, 0)
    image = Image.new("RGB", (size, size), ground)
    draw = ImageDraw.Draw(image)
    radius = float(rng.uniform(0.22, 0.4)) * size
    x, y = (float(rng.uniform(radius, size - radius)) for _ in range(2))
    _shape(draw, shape, x, y, radius, ink, filled=style in ("photo", "painting"), width=max(1, size // 20))
    pixels = np.asarray(image).astype(np.float32)
    if style == "photo":
        pixels += rng.normal(0, 14, pixels.shape)
    if style == "painting":
        strokes = rng.normal(0, 40, (size // 4 + 1, size // 4 + 1, 3)).repeat(4, 0).repeat(4, 1)
        pixels += strokes[:size, :size]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _shape(
    draw: ImageDraw.ImageDraw,
    shape: str,
    x: float,
    y: float,
    r: float,
    ink: tuple[int, ...],
    *,
    filled: bool,
    width: int,
) -> None:
    box = (x - r, y - r, x + r, y + r)
    fill = ink if filled else None
    turns = {"triangle": 3, "star": 5}
    if shape == "circle":
        draw.ellipse(box, fill=fill, outline=ink, width=width)
    elif shape == "ring":
        draw.ellipse(box, outline=ink, width=max(width, int(r / 3)))
    elif shape == "square":
        draw.rectangle(box, fill=fill, outline=ink, width=width)
    elif shape == "cross":
        draw.line((x - r, y - r, x + r, y + r), fill=ink, width=2 * width)
        draw.line((x - r, y + r, x + r, y - r), fill=ink, width=2 * width)
    elif shape == "stripes":
        for offset in np.linspace(-r, r, 4):
            draw.line((x - r, y + offset, x + r, y + offset), fill=ink, width=width)
    elif shape == "arrow":
        draw.line((x - r, y, x + r, y), fill=ink, width=2 * width)
        draw.polygon([(x + r, y), (x, y - r / 2), (x, y + r / 2)], fill=fill, outline=ink)
    elif shape in turns:
        corners = 2 * turns[shape] if shape == "star" else turns[shape]
        reach = [r if shape == "triangle" or i % 2 == 0 else r / 2.5 for i in range(corners)]
        angles = [2 * np.pi * i / corners - np.pi / 2 for i in range(corners)]
        points = [(x + d * np.cos(a), y + d * np.sin(a)) for d, a in zip(reach, angles, strict=True)]
        draw.polygon(points, fill=fill, outline=ink)
    else:
        raise ValueError(f"no shape named {shape!r}; known: {', '.join(SHAPES)}")

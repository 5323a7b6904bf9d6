"""Pictures of things in several styles, each a function of its class, its domain and a seed."""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from promptkit.demo.objects import CLASSES, COLOURS, OBJECTS
from promptkit.demo.shapes import Colour, Part, Points
from promptkit.demo.styles import DOMAINS, STYLES
from promptkit.errors import OutputError

__all__ = ["CLASSES", "DOMAINS", "HELD_OUT_CLASSES", "HELD_OUT_DOMAIN", "draw", "generator", "write_images"]

HELD_OUT_CLASSES, HELD_OUT_DOMAIN = CLASSES[4::5], "sketch"
"""What the demo's CLIP has never seen."""


def draw(name: str, domain: str, size: int, rng: np.random.Generator) -> tuple[Image.Image, str]:
    """One picture (size x size) of a class in a domain's style, and the name of the thing's colour."""
    make, colours = OBJECTS[name]
    colour = str(rng.choice(colours))
    red, green, blue = np.array(COLOURS[colour]) * rng.uniform(0.85, 1.1) + rng.normal(0, 10, 3)
    tint: Colour = (float(red), float(green), float(blue))
    canvas = STYLES[domain](_pose(make(rng, tint), 2 * size, rng), 2 * size, rng)
    return canvas.resize((size, size), Image.Resampling.BOX), colour


def _pose(parts: Sequence[Part], canvas: int, rng: np.random.Generator) -> list[Part]:
    """Turned, sheared, maybe mirrored, and put somewhere on the canvas."""
    turn, shear = np.radians(rng.normal(0, 13)), rng.normal(0, 0.08)
    half = canvas / 2
    scale = half * rng.uniform(0.52, 0.92)
    rotation: Points = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    stretch = np.array([[rng.uniform(0.85, 1.1) * rng.choice((-1, 1)), shear], [0, rng.uniform(0.9, 1.1)]])
    room = half - 0.85 * scale
    offset = half + rng.uniform(-room, room, 2)
    return [part.moved(scale * rotation @ stretch, offset) for part in parts]


def generator(seed: int, name: str, domain: str, number: int) -> np.random.Generator:
    """The randomness of one picture. It does not depend on what else is drawn."""
    return np.random.default_rng((seed, number, zlib.crc32(f"{domain}/{name}".encode())))


def write_images(
    folder: Path,
    per_class: int = 24,
    size: int = 64,
    seed: int = 0,
    on_image: Callable[[], None] = lambda: None,
) -> int:
    """Write `<domain>/<class>/<number>.png`, and return how many were not there already and had to be drawn.

    The same seed and size draw the same pictures. One that is there already stays. Raises OutputError where the folder
    can't be written.
    """
    drawn = 0
    for domain in DOMAINS:
        for name in CLASSES:
            target = folder / domain / name
            try:
                target.mkdir(parents=True, exist_ok=True)
                for number in range(per_class):
                    path = target / f"{number:03}.png"
                    if not path.exists():
                        part = target / f".{number:03}.png"  # half a picture would stay for ever
                        draw(name, domain, size, generator(seed, name, domain, number))[0].save(part)
                        part.replace(path)
                        drawn += 1
                    on_image()
            except OSError as error:
                raise OutputError(
                    f"{target} can't be written: {error.strerror or error}", "choose another folder"
                ) from None
    return drawn

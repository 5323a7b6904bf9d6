"""The domains: for each a function that renders the same parts as a photo, a painting, a cartoon or a sketch.

Parts come in pixels of a canvas of twice the picture's size, which is reduced at the end.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from promptkit.demo.shapes import Colour, Part, Points, ellipse, polygon, radial, shade, smooth_stroke

Pixels = NDArray[np.float32]
"""A canvas (S S 3), 0 to 255."""
Style = Callable[[Sequence[Part], int, np.random.Generator], Image.Image]


def photo(parts: Sequence[Part], size: int, rng: np.random.Generator) -> Image.Image:
    """Round, lit and textured things with a soft shadow, in front of a ground out of focus; then the camera's grain."""
    pixels = _landscape(size, rng)
    blurred = _image(pixels)
    _fill(ImageDraw.Draw(blurred), _clutter(size, rng), jitter=0, rng=rng)
    pixels = _pixels(blurred.filter(ImageFilter.GaussianBlur(size * rng.uniform(0.02, 0.045))))

    shadow = _mask(parts, (size, size)).filter(ImageFilter.GaussianBlur(size * 0.03))
    shift = (int(rng.uniform(-0.06, 0.06) * size), int(rng.uniform(0.02, 0.06) * size))
    pixels *= 1 - 0.5 * np.roll(_grey(shadow), shift, (1, 0))[..., None] / 255

    light = np.array([rng.uniform(-0.7, 0.7), -rng.uniform(0.4, 0.8), 0.75])
    light /= np.linalg.norm(light)
    texture = 1 + 0.13 * _noise(size, (6, 14, 40), rng)
    for part in parts:
        _light(part, pixels, texture, light)
    warmth = 1 + rng.normal(0, 0.05, 3)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    pixels *= (warmth * rng.uniform(0.85, 1.12) * (1 - 0.16 * (x**2 + y**2)[..., None])).astype(np.float32)
    camera = _pixels(_image(pixels).filter(ImageFilter.GaussianBlur(size * 0.006)))
    return _image(camera + rng.normal(0, rng.uniform(3, 9), (size, size, 1)).astype(np.float32))


def _light(part: Part, pixels: Pixels, texture: NDArray[np.float32], light: Points) -> None:
    """Put a part onto the picture as if it bulged towards the light."""
    size = len(pixels)
    margin = 3 + part.width
    left, top = (part.points.min(0) - margin).clip(0, size).astype(int).tolist()
    right, bottom = (part.points.max(0) + margin + 1).clip(0, size).astype(int).tolist()
    if right - left < 2 or bottom - top < 2:
        return
    where = slice(top, bottom), slice(left, right)
    drawn = _mask([Part(part.points - (left, top), part.colour, part.width)], (right - left, bottom - top))
    mask = _grey(drawn) / 255
    height = _grey(drawn.filter(ImageFilter.GaussianBlur(size * (0.012 if part.width else 0.05)))) * (size * 0.11 / 255)
    down, across = np.gradient(height)
    lit = (0.8 * light[2] - light[0] * across - light[1] * down) / np.sqrt(across**2 + down**2 + 0.64)
    lit = lit.clip(0).astype(np.float32)
    colour = np.array(part.colour, np.float32) * (0.42 + 0.68 * lit * texture[where])[..., None]
    if not part.width:
        colour += 64 * (lit**24)[..., None]
    pixels[where] += mask[..., None] * (colour - pixels[where])


def painting(parts: Sequence[Part], size: int, rng: np.random.Generator) -> Image.Image:
    """Brush strokes along a flow, coarse on the ground and finer on the thing, in mixed colours on canvas."""
    flat = _image(_landscape(size, rng))
    draw = ImageDraw.Draw(flat)
    _fill(draw, _clutter(size, rng), jitter=15, rng=rng)
    for part in parts:
        _fill(draw, [part], jitter=10, rng=rng)
        if not part.width:  # a lighter middle, so that the edge reads as a shadow
            centre = part.points.mean(0)
            inner = centre + 0.62 * (part.points - centre) - (0.02 * size, 0.025 * size)
            _fill(draw, [Part(inner, shade(part.colour, 1.35))], jitter=8, rng=rng)

    wet = flat.copy()
    draw = ImageDraw.Draw(wet)
    colours = np.asarray(flat)
    flow = np.pi * (_noise(size, (2, 3), rng) + rng.uniform(0, 1))
    thing = np.argwhere(np.asarray(_mask(parts, (size, size))))[:, ::-1]
    for count, long, wide in ((260, 0.1, 0.045), (450, 0.045, 0.018)):
        fine = wide < 0.03
        at = (rng.choice(thing, count) if fine else rng.integers(0, size, (count, 2))).astype(float)
        row, column = at[:, 1].astype(int), at[:, 0].astype(int)
        angle = flow[row, column] + rng.normal(0, 0.25, count)
        reach = size * long * rng.uniform(0.3, 0.6, count)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        ink = (colours[row, column] + rng.normal(0, 9, (count, 3)) + rng.normal(0, 8, (count, 1))).clip(0, 255)
        widths = (size * wide * rng.uniform(0.6, 1.2, count)).astype(int).clip(1)
        ends = np.concatenate([at - reach, at + reach], 1).tolist()
        for end, colour, width in zip(ends, ink.astype(int).tolist(), widths.tolist(), strict=True):
            draw.line(end, fill=tuple(colour), width=width)
    weave = 1 + 0.06 * _noise(size, (size // 2,), rng)
    return _image(_pixels(wet) * weave[..., None])


def cartoon(parts: Sequence[Part], size: int, rng: np.random.Generator) -> Image.Image:
    """Flat, bright colours inside bold outlines on a plain or patterned ground."""
    ground = shade(_random_colour(rng), rng.uniform(1.6, 4))
    image = Image.new("RGB", (size, size), _ink(ground))
    draw = ImageDraw.Draw(image)
    pattern = rng.integers(4)
    if pattern == 0:
        line = int(size * rng.uniform(0.55, 0.85))
        draw.rectangle((0, line, size, size), fill=_ink(shade(_random_colour(rng), 1.5)))
    elif pattern == 1:
        step = int(size / rng.integers(4, 8))
        for x in range(-size, size, 2 * step):
            draw.line((x, size, x + size, 0), fill=_ink(shade(ground, 0.9)), width=step)
    elif pattern == 2:
        reach = size * rng.uniform(0.36, 0.48)
        draw.ellipse((size / 2 - reach,) * 2 + (size / 2 + reach,) * 2, fill=_ink(shade(_random_colour(rng), 1.8)))
    outline, width = _ink((25, 22, 30)), max(2, int(size * rng.uniform(0.018, 0.032)))
    for part in [*_clutter(size, rng)[: rng.integers(3)], *parts]:
        vivid = _vivid(part.colour)
        if part.width:
            draw.line(_flat(part.points), fill=outline, width=int(part.width + 1.6 * width), joint="curve")
            draw.line(_flat(part.points), fill=_ink(vivid), width=max(1, int(part.width)), joint="curve")
        else:
            draw.polygon(_flat(part.points), fill=_ink(vivid))
            draw.line(_flat(_closed(part.points)), fill=outline, width=width, joint="curve")
    return image


def sketch(parts: Sequence[Part], size: int, rng: np.random.Generator) -> Image.Image:
    """Pencil lines on paper, drawn twice with an unsteady hand, and some hatching."""
    paper = rng.uniform(228, 254)
    image = Image.new("RGB", (size, size), _ink((paper, paper, paper - rng.uniform(0, 10))))
    draw = ImageDraw.Draw(image)
    lead = rng.uniform(35, 90)
    for part in _clutter(size, rng)[: rng.integers(4)]:
        draw.line(_flat(_unsteady(_closed(part.points), size, rng)), fill=_ink((lead + 95,) * 3), width=1)
    hatch = Image.new("L", (size, size), 0)
    lines = ImageDraw.Draw(hatch)
    step, slope = size * rng.uniform(0.03, 0.05), rng.uniform(0.5, 1.1)
    for x in np.arange(-size, size, step):
        lines.line((x, size, x + slope * size, 0), fill=int(rng.uniform(110, 190)), width=1)
    tone = Image.new("RGB", (size, size), _ink((lead,) * 3))
    for part in parts:
        pencil, width = _ink((lead + rng.uniform(-20, 20),) * 3), max(1, round(size * rng.uniform(0.008, 0.018)))
        if part.width:
            wide = part.width > size * 0.035
            if wide:
                draw.line(_flat(part.points), fill=pencil, width=int(part.width + 2 * width), joint="curve")
                draw.line(
                    _flat(part.points), fill=_ink((paper,) * 3), width=max(1, int(part.width - width)), joint="curve"
                )
            else:
                draw.line(_flat(_unsteady(part.points, size, rng)), fill=pencil, width=width, joint="curve")
            continue
        draw.polygon(_flat(part.points), fill=_ink((paper,) * 3))
        if sum(part.colour) < 330 or rng.random() < 0.2:
            image.paste(
                tone, (0, 0), Image.fromarray(np.minimum(np.asarray(_mask([part], (size, size))), np.asarray(hatch)))
            )
        for _ in range(2):
            draw.line(_flat(_unsteady(_closed(part.points), size, rng)), fill=pencil, width=width, joint="curve")
    return _image(_pixels(image) + rng.normal(0, 4, (size, size, 1)).astype(np.float32))


STYLES: dict[str, Style] = {"cartoon": cartoon, "painting": painting, "photo": photo, "sketch": sketch}
DOMAINS = tuple(STYLES)


def _landscape(size: int, rng: np.random.Generator) -> Pixels:
    """Far and near ground in two colours that run into each other, with soft texture."""
    far, near = (np.array(shade(_random_colour(rng), rng.uniform(0.5, 2.2))) for _ in range(2))
    horizon, soft = rng.uniform(0.3, 0.8), rng.uniform(0.02, 0.3)
    y = np.linspace(0, 1, size)
    mix = 1 / (1 + np.exp((horizon - y) / soft))
    rows = far + mix[:, None] * (near - far)
    texture = 22 * _noise(size, (4, 9, 24), rng)[..., None]
    pixels: Pixels = (rows[:, None] + texture).astype(np.float32)
    return pixels


def _clutter(size: int, rng: np.random.Generator) -> list[Part]:
    """Up to five meaningless things anywhere."""
    parts = []
    for _ in range(rng.integers(0, 6)):
        colour, (x, y), r = _random_colour(rng), rng.uniform(0, size, 2), size * rng.uniform(0.04, 0.16)
        kind = rng.integers(4)
        if kind == 0:
            parts.append(ellipse(colour, x, y, r, r * rng.uniform(0.4, 1), turn=rng.uniform(0, 180)))
        elif kind == 1:
            parts.append(polygon(colour, *(np.array([x, y]) + rng.uniform(-r, r, (4, 2))).tolist()))
        elif kind == 2:
            parts.append(
                radial(colour, x, y, r, r * rng.uniform(0.5, 0.9), int(rng.integers(3, 7)), rng.uniform(0, 90))
            )
        else:
            steps = (np.array([x, y]) + rng.normal(0, r, (4, 2)).cumsum(0)).tolist()
            parts.append(smooth_stroke(colour, size * rng.uniform(0.015, 0.04), *steps))
    return parts


def _noise(size: int, cells: Sequence[int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Smooth noise (S S) about -1 to 1: octaves of random cells, finer ones weaker."""
    total = np.zeros((size, size), np.float32)
    for octave, count in enumerate(cells):
        grid = Image.fromarray(rng.uniform(-1, 1, (count + 1, count + 1)).astype(np.float32))
        total += np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC)) / (1 + octave)
    return total


def _random_colour(rng: np.random.Generator) -> Colour:
    red, green, blue = rng.uniform(30, 230, 3)
    return red, green, blue


def _vivid(colour: Colour) -> Colour:
    """Further from grey."""
    grey = sum(colour) / 3
    red, green, blue = (min(255.0, max(0.0, grey + 1.35 * (value - grey) + 12)) for value in colour)
    return red, green, blue


def _unsteady(points: Points, size: int, rng: np.random.Generator) -> Points:
    wobble = rng.normal(0, size * 0.008, points.shape)
    wobble[-1] = wobble[0]
    return points + wobble + rng.normal(0, size * 0.004, 2)


def _closed(points: Points) -> Points:
    return np.concatenate([points, points[:2]])


def _flat(points: Points) -> list[float]:
    flat: list[float] = points.ravel().tolist()
    return flat


def _fill(draw: ImageDraw.ImageDraw, parts: Sequence[Part], jitter: float, rng: np.random.Generator) -> None:
    for part in parts:
        colour = _ink(tuple(np.array(part.colour) + rng.normal(0, jitter, 3))) if jitter else _ink(part.colour)
        if part.width:
            draw.line(_flat(part.points), fill=colour, width=max(1, round(part.width)), joint="curve")
        else:
            draw.polygon(_flat(part.points), fill=colour)


def _mask(parts: Sequence[Part], shape: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", shape, 0)
    draw = ImageDraw.Draw(mask)
    for part in parts:
        if part.width:
            draw.line(_flat(part.points), fill=255, width=max(1, round(part.width)), joint="curve")
        else:
            draw.polygon(_flat(part.points), fill=255)
    return mask


def _ink(colour: Sequence[float]) -> tuple[int, int, int]:
    red, green, blue = (int(min(255, max(0, value))) for value in colour)
    return red, green, blue


def _grey(image: Image.Image) -> NDArray[np.float32]:
    return np.asarray(image).astype(np.float32)


def _pixels(image: Image.Image) -> Pixels:
    return np.asarray(image).astype(np.float32)


def _image(pixels: NDArray[np.floating]) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))

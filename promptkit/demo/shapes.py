"""What pictures are drawn from: outlines and strokes as points in a square from -1 to 1, x to the right, y down."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""N points, (N 2)."""
Colour = tuple[float, float, float]
"""Red, green and blue, 0 to 255."""


@dataclass(frozen=True)
class Part:
    """One piece of an object: a filled outline, or, with a width, an open stroke of that width."""

    points: Points
    colour: Colour
    width: float = 0.0

    def moved(self, matrix: Points, offset: Points) -> "Part":
        """Under an affine map; a stroke's width grows with the map's scale."""
        scale = float(abs(np.linalg.det(matrix)) ** 0.5)
        return replace(self, points=self.points @ matrix.T + offset, width=self.width * scale)


def polygon(colour: Colour, *corners: tuple[float, float]) -> Part:
    return Part(np.array(corners, float), colour)


def stroke(colour: Colour, width: float, *points: tuple[float, float]) -> Part:
    return Part(np.array(points, float), colour, width)


def box(colour: Colour, left: float, top: float, right: float, bottom: float) -> Part:
    return polygon(colour, (left, top), (right, top), (right, bottom), (left, bottom))


def ellipse(
    colour: Colour, x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360, turn: float = 0
) -> Part:
    """The arc from start to stop, in degrees clockwise from the right, closed by its chord; the whole turned by `turn`."""
    return Part(_arc(x, y, rx, ry, start, stop, turn), colour)


def arc(colour: Colour, width: float, x: float, y: float, rx: float, ry: float, start: float, stop: float) -> Part:
    return Part(_arc(x, y, rx, ry, start, stop, 0), colour, width)


def _arc(x: float, y: float, rx: float, ry: float, start: float, stop: float, turn: float) -> Points:
    angles = np.radians(np.linspace(start, stop, 28))
    local = np.stack([rx * np.cos(angles), ry * np.sin(angles)], 1)
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    turned: Points = local @ np.array([[cos, sin], [-sin, cos]]) + (x, y)
    return turned


def smooth(colour: Colour, *corners: tuple[float, float]) -> Part:
    """A closed Catmull-Rom curve through the corners."""
    return Part(_curve(np.array(corners, float), closed=True), colour)


def smooth_stroke(colour: Colour, width: float, *points: tuple[float, float]) -> Part:
    """An open Catmull-Rom curve through the points."""
    return Part(_curve(np.array(points, float), closed=False), colour, width)


def _curve(points: Points, closed: bool, steps: int = 7) -> Points:
    around = np.concatenate([points[-1:], points, points[:2]] if closed else [points[:1], points, points[-1:]])
    before, here, there, after = (around[i : len(around) - 3 + i, None] for i in range(4))
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    curve = here + 0.5 * t * (
        there - before + t * (2 * before - 5 * here + 4 * there - after + t * (3 * (here - there) + after - before))
    )
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


def radial(colour: Colour, x: float, y: float, outer: float, inner: float, tips: int, turn: float = -90) -> Part:
    """A star."""
    angles = np.radians(turn + 180 * np.arange(2 * tips) / tips)
    reach = np.where(np.arange(2 * tips) % 2 == 0, outer, inner)
    return Part(np.stack([x + reach * np.cos(angles), y + reach * np.sin(angles)], 1), colour)


def shade(colour: Colour, factor: float) -> Colour:
    """Darker below 1; above, nearer to white."""
    if factor <= 1:
        red, green, blue = (factor * value for value in colour)
    else:
        red, green, blue = (255 - (255 - value) / factor for value in colour)
    return red, green, blue

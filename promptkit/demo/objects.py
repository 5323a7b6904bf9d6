"""The classes: for each a function that draws one example, in a colour, with proportions that vary."""

from collections.abc import Callable

import numpy as np

from promptkit.demo.shapes import (
    Colour,
    Part,
    arc,
    box,
    ellipse,
    polygon,
    radial,
    shade,
    smooth,
    smooth_stroke,
    stroke,
)

COLOURS: dict[str, Colour] = {
    "red": (210, 45, 40),
    "orange": (240, 140, 40),
    "yellow": (240, 210, 60),
    "green": (70, 155, 65),
    "blue": (55, 105, 200),
    "purple": (135, 75, 165),
    "pink": (235, 130, 170),
    "brown": (135, 88, 52),
    "white": (236, 234, 228),
    "grey": (135, 138, 142),
    "black": (48, 48, 54),
}

WOOD: Colour = (150, 100, 60)
STEEL: Colour = (150, 155, 165)
GLASS: Colour = (185, 215, 230)
DARK: Colour = (45, 42, 48)
LEAF: Colour = (75, 145, 60)
PALE: Colour = (240, 235, 220)

Draw = Callable[[np.random.Generator, Colour], list[Part]]


def airplane(rng: np.random.Generator, ink: Colour) -> list[Part]:
    long, sweep = rng.uniform(0.85, 1.0), rng.uniform(0.1, 0.35)
    tail = polygon(shade(ink, 0.75), (-long, -0.5), (-long + 0.2, -0.5), (-long + 0.42, -0.08), (-long + 0.1, -0.08))
    far = polygon(shade(ink, 0.7), (0.15, -0.1), (-0.15, -0.1), (-0.2 - sweep, -0.6), (-0.02 - sweep, -0.6))
    body = smooth(ink, (-long, -0.1), (-0.3, -0.19), (0.6, -0.19), (long, 0.02), (0.6, 0.19), (-0.4, 0.16))
    near = polygon(shade(ink, 0.8), (0.2, 0.06), (-0.2, 0.06), (-0.3 - sweep, 0.72), (-0.08 - sweep, 0.72))
    windows = [ellipse(DARK, x, -0.05, 0.05, 0.05) for x in np.linspace(-0.4, 0.4, 5)]
    return [tail, far, body, *windows, near, polygon(GLASS, (0.6, -0.13), (0.78, -0.1), (0.8, 0), (0.6, -0.01))]


def apple(rng: np.random.Generator, ink: Colour) -> list[Part]:
    wide, low = rng.uniform(0.68, 0.85), rng.uniform(0.7, 0.85)
    fruit = smooth(
        ink,
        (0, -0.36),
        (0.4 * wide, -0.55),
        (wide, -0.2),
        (0.85 * wide, 0.4),
        (0.4 * wide, low),
        (0, low - 0.1),
        (-0.4 * wide, low),
        (-0.85 * wide, 0.4),
        (-wide, -0.2),
        (-0.4 * wide, -0.55),
    )
    bend = rng.uniform(-0.15, 0.15)
    stem = smooth_stroke(WOOD, 0.09, (0, -0.32), (0.02, -0.6), (bend, -0.85))
    blade = ellipse(LEAF, 0.27, -0.72, 0.25, 0.11, turn=rng.uniform(-35, -5))
    return [fruit, stem, blade] if rng.random() < 0.85 else [fruit, stem]


def balloon(rng: np.random.Generator, ink: Colour) -> list[Part]:
    r, bend = rng.uniform(0.48, 0.6), rng.uniform(-0.25, 0.25)
    string = smooth_stroke(DARK, 0.035, (0, 0.28), (bend, 0.5), (-bend, 0.75), (bend / 2, 1.0))
    skin = smooth(
        ink,
        (0, 0.25),
        (0.7 * r, -0.02),
        (r, -0.4),
        (0.62 * r, -0.85),
        (0, -1),
        (-0.62 * r, -0.85),
        (-r, -0.4),
        (-0.7 * r, -0.02),
    )
    knot = polygon(shade(ink, 0.75), (0, 0.2), (0.1, 0.36), (-0.1, 0.36))
    return [string, knot, skin, ellipse(shade(ink, 2.2), -0.35 * r, -0.65, 0.09, 0.15, turn=25)]


def banana(rng: np.random.Generator, ink: Colour) -> list[Part]:
    fat = rng.uniform(0.24, 0.34)
    outer = [(0.85 * np.cos(a), 0.95 * np.sin(a) - 0.35) for a in np.radians(np.linspace(12, 168, 9))]
    inner = [(0.78 * np.cos(a), (0.95 - 2 * fat) * np.sin(a) - 0.35) for a in np.radians(np.linspace(168, 12, 9))]
    return [
        polygon(ink, *outer, *inner),
        smooth_stroke(shade(ink, 0.7), 0.04, *[(0.8 * x, 0.72 * y - 0.07) for x, y in outer[1:-1]]),
        stroke(shade(ink, 0.5), 0.13, (0.8, -0.2), (0.86, -0.42)),
        stroke(DARK, 0.1, (-0.8, -0.18), (-0.84, -0.24)),
    ]


def bicycle(rng: np.random.Generator, ink: Colour) -> list[Part]:
    r, high = rng.uniform(0.36, 0.43), rng.uniform(0.45, 0.6)
    back, front, y = -0.55, 0.55, 0.4
    seat, bar, crank = (-0.25, y - high), (0.4, y - high - 0.02), (-0.08, y)
    wheels = [arc(DARK, 0.08, x, y, r, r, 0, 360) for x in (back, front)]
    spokes = [
        stroke(STEEL, 0.02, (x - r * np.cos(a), y - r * np.sin(a)), (x + r * np.cos(a), y + r * np.sin(a)))
        for x in (back, front)
        for a in np.radians([20, 80, 140])
    ]
    frame = stroke(ink, 0.08, (back, y), seat, bar, crank, (back, y))
    return [
        *spokes,
        *wheels,
        frame,
        stroke(ink, 0.07, crank, (seat[0] - 0.05, seat[1] - 0.13)),
        stroke(ink, 0.07, (front, y), (bar[0] - 0.06, bar[1] - 0.2)),
        stroke(DARK, 0.1, (seat[0] - 0.2, seat[1] - 0.15), (seat[0] + 0.12, seat[1] - 0.15)),
        smooth_stroke(
            DARK, 0.07, (bar[0] - 0.1, bar[1] - 0.2), (bar[0] + 0.12, bar[1] - 0.22), (bar[0] + 0.14, bar[1] - 0.08)
        ),
        ellipse(STEEL, *crank, 0.09, 0.09),
    ]


def boat(rng: np.random.Generator, ink: Colour) -> list[Part]:
    high, lean = rng.uniform(0.75, 0.98), rng.uniform(0.5, 0.75)
    return [
        stroke(WOOD, 0.07, (0, 0.35), (0, -high)),
        polygon(PALE, (0.06, -high + 0.03), (0.06, 0.18), (lean, 0.18)),
        polygon(shade(ink, 1.5), (-0.06, -high + 0.25), (-0.06, 0.18), (-lean + 0.08, 0.18)),
        polygon(ink, (-0.9, 0.3), (0.9, 0.3), (0.6, 0.75), (-0.6, 0.75)),
        stroke(shade(ink, 0.6), 0.06, (-0.84, 0.42), (0.84, 0.42)),
    ]


def bottle(rng: np.random.Generator, ink: Colour) -> list[Part]:
    wide, neck, shoulder = rng.uniform(0.28, 0.38), rng.uniform(0.1, 0.14), rng.uniform(-0.35, -0.1)
    body = polygon(
        ink,
        (-neck, -0.85),
        (neck, -0.85),
        (neck, shoulder - 0.2),
        (0.75 * wide, shoulder - 0.06),
        (wide, shoulder + 0.12),
        (wide, 0.88),
        (0.9 * wide, 0.95),
        (-0.9 * wide, 0.95),
        (-wide, 0.88),
        (-wide, shoulder + 0.12),
        (-0.75 * wide, shoulder - 0.06),
        (-neck, shoulder - 0.2),
    )
    cap = box(shade(ink, 0.55), -neck - 0.03, -1, neck + 0.03, -0.82)
    return [body, cap, box(PALE, -wide, 0.15, wide, 0.6), stroke(shade(ink, 0.6), 0.06, (-0.15, 0.37), (0.15, 0.37))]


def butterfly(rng: np.random.Generator, ink: Colour) -> list[Part]:
    span, other = rng.uniform(0.8, 1.0), shade(ink, 0.72)
    parts: list[Part] = []
    for side in (-1, 1):
        parts += [
            smooth(
                other,
                (0, 0.05),
                (0.5 * side * span, 0.12),
                (0.68 * side * span, 0.5),
                (0.4 * side, 0.78),
                (0.1 * side, 0.4),
            ),
            smooth(
                ink,
                (0, -0.05),
                (0.35 * side, -0.65),
                (0.85 * side * span, -0.8),
                (side * span, -0.35),
                (0.6 * side, 0.08),
            ),
            ellipse(PALE, 0.62 * side * span, -0.42, 0.13, 0.13),
            ellipse(PALE, 0.42 * side, 0.42, 0.09, 0.09),
            smooth_stroke(DARK, 0.03, (0, -0.4), (0.1 * side, -0.7), (0.24 * side, -0.85)),
        ]
    return [*parts, ellipse(DARK, 0, 0.08, 0.075, 0.5), ellipse(DARK, 0, -0.42, 0.1, 0.1)]


def cactus(rng: np.random.Generator, ink: Colour) -> list[Part]:
    wide = rng.uniform(0.17, 0.23)
    green = shade(ink, 0.95)
    left, right = rng.uniform(-0.3, 0.1, 2)
    arms = [
        smooth_stroke(green, 0.2, (0, left + 0.25), (-0.42, left + 0.22), (-0.5, left), (-0.5, left - 0.35)),
        smooth_stroke(green, 0.2, (0, right + 0.3), (0.42, right + 0.28), (0.5, right + 0.05), (0.5, right - 0.3)),
    ]
    trunk = smooth(green, (-wide, 0.6), (-wide, -0.7), (0, -0.98), (wide, -0.7), (wide, 0.6))
    ribs = [stroke(shade(green, 0.65), 0.03, (x * wide, -0.7), (x * wide, 0.5)) for x in (-0.4, 0.4)]
    pot = polygon((190, 100, 60), (-0.42, 0.5), (0.42, 0.5), (0.3, 0.98), (-0.3, 0.98))
    return [*arms, trunk, *ribs, pot, box((170, 85, 50), -0.47, 0.45, 0.47, 0.6)]


def car(rng: np.random.Generator, ink: Colour) -> list[Part]:
    roof, back = rng.uniform(-0.55, -0.42), rng.uniform(-0.75, -0.6)
    cabin = polygon(shade(ink, 0.9), (back, 0.0), (back + 0.22, roof), (0.25, roof), (0.55, 0.0))
    body = smooth(ink, (-0.95, 0.02), (0.55, -0.06), (0.92, 0.08), (0.97, 0.36), (-0.97, 0.36))
    windows = [
        polygon(GLASS, (back + 0.12, -0.02), (back + 0.28, roof + 0.09), (-0.2, roof + 0.09), (-0.2, -0.02)),
        polygon(GLASS, (-0.1, -0.02), (-0.1, roof + 0.09), (0.2, roof + 0.09), (0.42, -0.02)),
    ]
    wheels = [ellipse(colour, x, 0.38, r, r) for x in (-0.52, 0.52) for colour, r in ((DARK, 0.22), (STEEL, 0.1))]
    return [cabin, body, *windows, *wheels, ellipse((250, 235, 150), 0.88, 0.14, 0.07, 0.07)]


def cat(rng: np.random.Generator, ink: Colour) -> list[Part]:
    wide, ear = rng.uniform(0.72, 0.85), rng.uniform(0.85, 1.0)
    parts: list[Part] = []
    for side in (-1, 1):
        parts += [
            polygon(ink, (0.2 * side, -0.4), (0.72 * side, -ear), (0.85 * wide * side, 0.05)),
            polygon((235, 160, 165), (0.38 * side, -0.45), (0.64 * side, -ear + 0.18), (0.7 * side, -0.2)),
        ]
    parts.append(ellipse(ink, 0, 0.15, wide, 0.68))
    for side in (-1, 1):
        parts += [
            ellipse((200, 220, 110), 0.32 * side, 0.02, 0.16, 0.13),
            ellipse(DARK, 0.32 * side, 0.02, 0.06, 0.12),
            smooth_stroke(DARK, 0.05, (0, 0.35), (0.1 * side, 0.46), (0.24 * side, 0.42)),
            *(
                stroke(
                    PALE if sum(ink) < 350 else DARK,
                    0.03,
                    (0.28 * side, 0.34 + 0.04 * i),
                    (0.95 * side, 0.26 + 0.13 * i),
                )
                for i in range(3)
            ),
        ]
    return [*parts, polygon((225, 120, 130), (-0.1, 0.24), (0.1, 0.24), (0, 0.36))]


def chair(rng: np.random.Generator, ink: Colour) -> list[Part]:
    high, seat = rng.uniform(-0.98, -0.8), rng.uniform(0.05, 0.2)
    legs = [
        stroke(shade(ink, f), 0.11, top, foot)
        for f, top, foot in (
            (0.6, (-0.25, seat), (-0.25, 0.75)),
            (0.6, (0.6, seat), (0.62, 0.72)),
            (0.8, (-0.5, seat + 0.1), (-0.52, 0.97)),
            (0.8, (0.42, seat + 0.15), (0.42, 0.97)),
        )
    ]
    posts = [stroke(ink, 0.11, (x, seat), (x - 0.06, high + 0.06)) for x in (-0.48, -0.2)]
    back = polygon(ink, (-0.6, high), (-0.16, high - 0.02), (-0.12, seat - 0.35), (-0.56, seat - 0.3))
    top = polygon(
        shade(ink, 1.25), (-0.56, seat + 0.12), (-0.25, seat - 0.08), (0.68, seat - 0.08), (0.48, seat + 0.14)
    )
    return [*legs, *posts, back, top]


def clock(rng: np.random.Generator, ink: Colour) -> list[Part]:
    r = rng.uniform(0.8, 0.95)
    ticks = [
        stroke(DARK, 0.05, (0.64 * r * np.cos(a), 0.64 * r * np.sin(a)), (0.76 * r * np.cos(a), 0.76 * r * np.sin(a)))
        for a in np.radians(np.arange(0, 360, 30))
    ]
    minute, hour = np.radians(rng.uniform(0, 360, 2))
    return [
        ellipse(ink, 0, 0, r, r),
        ellipse(PALE, 0, 0, 0.82 * r, 0.82 * r),
        *ticks,
        stroke(DARK, 0.08, (0, 0), (0.38 * np.cos(hour), 0.38 * np.sin(hour))),
        stroke(DARK, 0.055, (0, 0), (0.58 * np.cos(minute), 0.58 * np.sin(minute))),
        ellipse(DARK, 0, 0, 0.08, 0.08),
    ]


def cup(rng: np.random.Generator, ink: Colour) -> list[Part]:
    wide, taper = rng.uniform(0.5, 0.62), rng.uniform(0.75, 1.0)
    parts = [
        arc(shade(ink, 0.85), 0.13, wide - 0.02, 0.12, 0.34, 0.32, -90, 90),
        polygon(
            ink,
            (-wide, -0.4),
            (wide, -0.4),
            (taper * wide, 0.72),
            (0.85 * taper * wide, 0.8),
            (-0.85 * taper * wide, 0.8),
            (-taper * wide, 0.72),
        ),
        ellipse(shade(ink, 1.4), 0, -0.4, wide, 0.17),
        ellipse((95, 60, 40), 0, -0.38, 0.84 * wide, 0.12),
    ]
    steam = [
        smooth_stroke((215, 215, 220), 0.05, (x, -0.6), (x + 0.1, -0.72), (x - 0.04, -0.84), (x + 0.06, -0.98))
        for x in (-0.2, 0.15)
    ]
    return parts + steam if rng.random() < 0.5 else parts


def fish(rng: np.random.Generator, ink: Colour) -> list[Part]:
    fat, tail = rng.uniform(0.36, 0.5), rng.uniform(0.35, 0.5)
    return [
        polygon(shade(ink, 0.75), (-0.5, 0), (-0.98, -tail), (-0.82, 0), (-0.98, tail)),
        polygon(shade(ink, 0.75), (-0.25, -0.8 * fat), (0.15, -fat - 0.28), (0.35, -0.8 * fat)),
        smooth(ink, (-0.62, 0), (-0.1, -fat), (0.5, -0.85 * fat), (0.95, 0.02), (0.5, 0.85 * fat), (-0.1, fat)),
        smooth_stroke(shade(ink, 0.6), 0.05, (0.42, -0.28), (0.3, 0), (0.42, 0.28)),
        polygon(shade(ink, 0.7), (0.18, 0.06), (-0.14, 0.3), (-0.1, 0.0)),
        ellipse(PALE, 0.62, -0.1, 0.1, 0.1),
        ellipse(DARK, 0.64, -0.1, 0.05, 0.05),
    ]


def flower(rng: np.random.Generator, ink: Colour) -> list[Part]:
    petals, y, turn = int(rng.integers(5, 9)), -0.4, rng.uniform(0, 90)
    angles = [turn + 360 * i / petals for i in range(petals)]
    length = rng.uniform(0.26, 0.32)
    return [
        smooth_stroke(LEAF, 0.08, (0, y), (rng.uniform(-0.1, 0.1), 0.3), (0, 1.0)),
        ellipse(LEAF, 0.26, 0.5, 0.27, 0.11, turn=-30),
        ellipse(LEAF, -0.26, 0.66, 0.27, 0.11, turn=30),
        *(
            ellipse(ink, 0.33 * np.cos(np.radians(a)), y + 0.33 * np.sin(np.radians(a)), length, 0.62 * length, turn=a)
            for a in angles
        ),
        ellipse((245, 205, 70) if ink[1] < 190 else (120, 75, 40), 0, y, 0.19, 0.19),
    ]


def guitar(rng: np.random.Generator, ink: Colour) -> list[Part]:
    wide, waist = rng.uniform(0.42, 0.5), rng.uniform(0.26, 0.32)
    body = smooth(
        ink,
        (0, -0.12),
        (0.75 * wide, -0.02),
        (waist, 0.28),
        (wide, 0.62),
        (0.6 * wide, 0.95),
        (0, 1.0),
        (-0.6 * wide, 0.95),
        (-wide, 0.62),
        (-waist, 0.28),
        (-0.75 * wide, -0.02),
    )
    return [
        body,
        ellipse(DARK, 0, 0.32, 0.14, 0.14),
        box(shade(WOOD, 0.6), -0.075, -0.8, 0.075, 0.25),
        polygon(DARK, (-0.12, -1), (0.12, -1), (0.1, -0.76), (-0.1, -0.76)),
        stroke(DARK, 0.07, (-0.18, 0.68), (0.18, 0.68)),
        stroke(PALE, 0.025, (0, -0.8), (0, 0.68)),
    ]


def hammer(rng: np.random.Generator, ink: Colour) -> list[Part]:
    long, thick = rng.uniform(0.85, 1.0), rng.uniform(0.09, 0.13)
    return [
        polygon(ink, (-0.8 * thick, -0.5), (0.8 * thick, -0.5), (1.1 * thick, long), (-1.1 * thick, long)),
        polygon(STEEL, (0.5, -0.83), (0.5, -0.42), (-0.2, -0.48), (-0.2, -0.77)),
        smooth(STEEL, (-0.15, -0.78), (-0.5, -0.78), (-0.78, -0.5), (-0.55, -0.6), (-0.15, -0.5)),
        box(shade(STEEL, 0.7), 0.42, -0.87, 0.6, -0.38),
    ]


def hat(rng: np.random.Generator, ink: Colour) -> list[Part]:
    high, wide = rng.uniform(-0.75, -0.5), rng.uniform(0.46, 0.56)
    crown = smooth(
        ink,
        (-wide, 0.3),
        (-0.9 * wide, high),
        (-0.3 * wide, high - 0.12),
        (0, high),
        (0.3 * wide, high - 0.12),
        (0.9 * wide, high),
        (wide, 0.3),
    )
    band = polygon(shade(ink, 0.4), (-wide - 0.01, 0.08), (wide + 0.01, 0.08), (wide, 0.32), (-wide, 0.32))
    brim = smooth(
        shade(ink, 0.85),
        (-1, 0.28),
        (-0.5, 0.26),
        (0, 0.34),
        (0.5, 0.26),
        (1, 0.28),
        (0.5, 0.56),
        (0, 0.6),
        (-0.5, 0.56),
    )
    return [crown, band, brim]


def house(rng: np.random.Generator, ink: Colour) -> list[Part]:
    wide, top, eaves = rng.uniform(0.6, 0.75), rng.uniform(-0.95, -0.75), rng.uniform(-0.25, -0.1)
    roof = (165, 65, 50) if ink[0] < 180 else (95, 75, 80)
    parts = [
        box(shade(roof, 0.7), 0.3 * wide, top, 0.6 * wide, eaves),
        box(ink, -wide, eaves, wide, 0.85),
        polygon(roof, (-wide - 0.2, eaves), (0, top), (wide + 0.2, eaves)),
        box(shade(WOOD, 0.7), -0.15, 0.3, 0.15, 0.85),
    ]
    for x in (-0.62 * wide, 0.62 * wide):
        parts += [
            box(GLASS, x - 0.14, eaves + 0.2, x + 0.14, eaves + 0.48),
            stroke(DARK, 0.03, (x, eaves + 0.2), (x, eaves + 0.48)),
        ]
    return parts


def key(rng: np.random.Generator, ink: Colour) -> list[Part]:
    r, teeth = rng.uniform(0.26, 0.34), int(rng.integers(2, 4))
    return [
        arc(ink, 0.15, -0.6, 0, r, r, 0, 360),
        stroke(ink, 0.13, (-0.6 + r, 0), (0.95, 0)),
        *(stroke(ink, 0.12, (0.9 - 0.22 * i, 0), (0.9 - 0.22 * i, rng.uniform(0.22, 0.36))) for i in range(teeth)),
    ]


def lamp(rng: np.random.Generator, ink: Colour) -> list[Part]:
    top, foot, low = rng.uniform(0.25, 0.38), rng.uniform(0.35, 0.48), rng.uniform(-0.15, 0.0)
    return [
        stroke(shade(WOOD, 0.8), 0.1, (0, low), (0, 0.85)),
        ellipse(shade(WOOD, 0.8), 0, 0.9, foot, 0.12),
        ellipse((255, 245, 190), 0, low, 0.16, 0.14),
        polygon(ink, (-top, -0.9), (top, -0.9), (0.68, low), (-0.68, low)),
        stroke(shade(ink, 0.6), 0.05, (-0.66, low - 0.05), (0.66, low - 0.05)),
    ]


def leaf(rng: np.random.Generator, ink: Colour) -> list[Part]:
    wide = rng.uniform(0.42, 0.6)
    vein = shade(ink, 0.55)
    blade = smooth(
        ink,
        (0, -0.98),
        (0.6 * wide, -0.5),
        (wide, 0.05),
        (0.6 * wide, 0.5),
        (0, 0.68),
        (-0.6 * wide, 0.5),
        (-wide, 0.05),
        (-0.6 * wide, -0.5),
    )
    ribs = [
        stroke(vein, 0.03, (0, y), (side * wide * reach, y - 0.25))
        for y, reach in ((0.35, 0.7), (0.05, 0.78), (-0.25, 0.6))
        for side in (-1, 1)
    ]
    return [blade, *ribs, smooth_stroke(vein, 0.06, (0, -0.85), (0, 0.6), (rng.uniform(-0.15, 0.15), 1.0))]


def moon(rng: np.random.Generator, ink: Colour) -> list[Part]:
    thin = rng.uniform(0.25, 0.5)
    outer = [(0.9 * np.cos(a), 0.9 * np.sin(a)) for a in np.radians(np.linspace(60, 300, 20))]
    inner = [(0.45 - thin * np.cos(a), 0.78 * np.sin(a)) for a in np.radians(np.linspace(-88, 88, 16))]
    craters = [ellipse(shade(ink, 0.8), x, y, 0.08, 0.08) for x, y in ((-0.65, -0.2), (-0.6, 0.25), (-0.4, -0.55))]
    return [polygon(ink, *outer, *inner), *craters[: int(rng.integers(0, 4))]]


def mushroom(rng: np.random.Generator, ink: Colour) -> list[Part]:
    wide, high, stem = rng.uniform(0.75, 0.92), rng.uniform(-0.9, -0.7), rng.uniform(0.17, 0.25)
    cap = smooth(ink, (-wide, 0.1), (-0.75 * wide, -0.45), (0, high), (0.75 * wide, -0.45), (wide, 0.1), (0, 0.22))
    dots = [ellipse(PALE, x, y, r, r) for x, y, r in ((0, -0.5, 0.13), (-0.42, -0.18, 0.11), (0.42, -0.2, 0.12))]
    return [smooth(PALE, (-stem, 0.05), (-1.35 * stem, 0.9), (1.35 * stem, 0.9), (stem, 0.05)), cap, *dots]


def snowman(rng: np.random.Generator, ink: Colour) -> list[Part]:
    r = rng.uniform(0.46, 0.54)
    snow: Colour = (240, 243, 248)
    return [
        ellipse(snow, 0, 0.5, r, 0.94 * r),
        *(stroke(WOOD, 0.05, (side * 0.25, 0.0), (side * 0.85, -0.25)) for side in (-1, 1)),
        ellipse(snow, 0, -0.15, 0.7 * r, 0.66 * r),
        ellipse(snow, 0, -0.58, 0.5 * r, 0.5 * r),
        stroke(ink, 0.1, (-0.28, -0.38), (0.28, -0.38)),
        box(DARK, -0.2, -1, 0.2, -0.76),
        stroke(DARK, 0.07, (-0.34, -0.76), (0.34, -0.76)),
        *(ellipse(DARK, x, -0.62, 0.035, 0.035) for x in (-0.1, 0.1)),
        polygon((240, 130, 40), (0, -0.58), (0.26, -0.52), (0, -0.49)),
        *(ellipse(DARK, 0, y, 0.04, 0.04) for y in (-0.15, 0.05, 0.4)),
    ]


def star(rng: np.random.Generator, ink: Colour) -> list[Part]:
    return [radial(ink, 0, 0, 0.98, rng.uniform(0.36, 0.48), 5)]


def sun(rng: np.random.Generator, ink: Colour) -> list[Part]:
    rays, r, turn = int(rng.integers(8, 13)), rng.uniform(0.45, 0.55), rng.uniform(0, 40)
    parts = [
        polygon(
            shade(ink, 0.9),
            (0.98 * np.cos(a), 0.98 * np.sin(a)),
            ((r + 0.08) * np.cos(a + 0.16), (r + 0.08) * np.sin(a + 0.16)),
            ((r + 0.08) * np.cos(a - 0.16), (r + 0.08) * np.sin(a - 0.16)),
        )
        for a in np.radians(turn + 360 * np.arange(rays) / rays)
    ]
    return [*parts, ellipse(ink, 0, 0, r, r)]


def tree(rng: np.random.Generator, ink: Colour) -> list[Part]:
    trunk = polygon(WOOD, (-0.1, 0.1), (0.1, 0.1), (0.17, 0.98), (-0.17, 0.98))
    puffs = [(-0.4, -0.1, 0.36), (0.4, -0.1, 0.36), (-0.22, -0.5, 0.36), (0.25, -0.52, 0.34), (0, -0.2, 0.42)]
    return [
        trunk,
        *(ellipse(shade(ink, rng.uniform(0.82, 1.0)), x, y, r * rng.uniform(0.9, 1.15), r) for x, y, r in puffs),
    ]


def umbrella(rng: np.random.Generator, ink: Colour) -> list[Part]:
    high, wide = rng.uniform(-0.85, -0.65), rng.uniform(0.85, 0.98)
    edge = [(wide * (1 - i / 4), 0.02 if i % 2 == 0 else -0.1) for i in range(9)]
    dome = [(wide * np.cos(a), high * np.sin(a)) for a in np.radians(np.linspace(180, 0, 18))]
    ribs = [smooth_stroke(shade(ink, 0.6), 0.035, (0, high), (0.32 * s, -0.4), (0.48 * s, 0.0)) for s in (-1, 1)]
    return [
        stroke(shade(WOOD, 0.7), 0.07, (0, high - 0.12), (0, 0.8)),
        arc(shade(WOOD, 0.7), 0.08, 0.14, 0.78, 0.14, 0.17, 0, 180),
        polygon(ink, *dome, *edge),
        *ribs,
    ]


ANY = tuple(COLOURS)
MADE = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "grey", "black")

OBJECTS: dict[str, tuple[Draw, tuple[str, ...]]] = {
    "airplane": (airplane, ("white", "grey", "red", "blue", "yellow")),
    "apple": (apple, ("red", "green", "yellow")),
    "balloon": (balloon, MADE[:7]),
    "banana": (banana, ("yellow", "green")),
    "bicycle": (bicycle, MADE),
    "boat": (boat, MADE),
    "bottle": (bottle, ("green", "brown", "blue", "white", "red")),
    "butterfly": (butterfly, ("orange", "blue", "purple", "yellow", "pink", "red")),
    "cactus": (cactus, ("green",)),
    "car": (car, MADE),
    "cat": (cat, ("orange", "grey", "black", "white", "brown")),
    "chair": (chair, ANY),
    "clock": (clock, ANY),
    "cup": (cup, MADE),
    "fish": (fish, ("orange", "blue", "grey", "red", "yellow", "purple", "green")),
    "flower": (flower, ("red", "yellow", "pink", "purple", "white", "blue", "orange")),
    "guitar": (guitar, ("brown", "red", "orange", "black", "blue")),
    "hammer": (hammer, ("brown", "red", "yellow", "blue", "black", "orange")),
    "hat": (hat, ANY),
    "house": (house, ("white", "yellow", "red", "brown", "blue", "pink", "grey")),
    "key": (key, ("yellow", "grey", "brown", "black")),
    "lamp": (lamp, ANY[:10]),
    "leaf": (leaf, ("green", "yellow", "orange", "red", "brown")),
    "moon": (moon, ("yellow", "white", "grey")),
    "mushroom": (mushroom, ("red", "brown", "orange", "purple")),
    "snowman": (snowman, ("red", "green", "blue", "purple", "orange")),
    "star": (star, ("yellow", "red", "orange", "blue", "white")),
    "sun": (sun, ("yellow", "orange", "red")),
    "tree": (tree, ("green", "yellow", "orange", "red")),
    "umbrella": (umbrella, ANY),
}
"""Class name -> how to draw it, and the colours it comes in."""
CLASSES = tuple(OBJECTS)

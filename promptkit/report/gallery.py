"""Pictures in a page: thumbnails, and which of them are worth a look."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from promptkit.components import Views
from promptkit.data.images import Unreadable, try_image
from promptkit.report.answers import Answers, best, disagreements, drawn, worst

SIDE = 112
"""Pixels of a thumbnail."""
SHOWN = 240
"""Thumbnails in a gallery, at most."""


@dataclass(frozen=True)
class Shown:
    """One picture of the gallery."""

    kind: str
    run: str
    domain: str
    label: str
    path: str
    source: str
    """The thumbnail as a data URL; empty where the picture can't be read."""
    answers: Sequence[tuple[str, str, float, bool]]
    """Run, class, confidence, whether that is right; of one run, or of all where they disagree."""


KINDS = ("worst errors", "best", "at random", "disagreements")


def gallery(several: Sequence[Answers]) -> list[Shown]:
    """Of each run the worst, the best, and some at random; and where runs disagree."""
    share = SHOWN // (3 * len(several) + (len(several) > 1))
    found = []
    for answers in several:
        for kind, choose in zip(KINDS, (worst, best, drawn), strict=False):
            found += [_shown(kind, answers, int(row), [_answer(answers, int(row))]) for row in choose(answers, share)]
    if len(several) > 1:
        for rows in disagreements(several, share):
            said = [_answer(answers, row) for answers, row in zip(several, rows, strict=True)]
            found.append(_shown(KINDS[3], several[0], rows[0], said, run="all"))
    return found


def _answer(answers: Answers, row: int) -> tuple[str, str, float, bool]:
    name = answers.names[answers.best[row]]
    return answers.run, name, float(answers.confidence[row]), bool(answers.right[row])


def _shown(kind: str, answers: Answers, row: int, said: Sequence[tuple[str, str, float, bool]], run: str = "") -> Shown:
    label = answers.label[row]
    return Shown(
        kind,
        run or answers.run,
        str(answers.domain[row]),
        answers.names[label] if label >= 0 else "",
        answers.paths[row],
        thumbnail(answers.picture(row)),
        said,
    )


@lru_cache(maxsize=4096)
def thumbnail(path: Path) -> str:
    """A small copy as a data URL; empty where the picture can't be read."""
    image = try_image(path, SIDE)
    return "" if isinstance(image, Unreadable) else data_url(image)


def data_url(pixels: np.ndarray) -> str:
    """An RGB picture (H W 3), uint8, made small."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    image.save(out, "WEBP", quality=70)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()


def views_of(views: Views, paths: Sequence[Path], seed: int) -> list[tuple[str, dict[str, str]]]:
    """For each readable picture its thumbnail, and one of each of the views that it is trained in."""
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (views.image.mean, views.image.std))
    found = []
    for number, path in enumerate(paths):
        image = try_image(path)
        if isinstance(image, Unreadable):
            continue
        made = views(image, np.random.default_rng((seed, 1, number)))
        shown = {
            name: data_url(((pixels * std + mean).clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0))
            for name, pixels in made.items()
        }
        found.append((data_url(image), shown))
    return found

"""A page of a data set to look at before a training: its pictures by class and domain, and which of them look odd."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import Image

from promptkit.backbones.prompt_tokenizer import PromptTokenizer
from promptkit.data.images import Unreadable, try_image
from promptkit.data.inspection import odd_names
from promptkit.data.layouts import Dataset, Item
from promptkit.data.loading import default_workers
from promptkit.report.gallery import SHOWN, thumbnail
from promptkit.report.page import template

ALIKE = 0.98
"""Correlation of two pictures' small grey copies, from which on they are near-duplicates."""
SMALL, MEDIUM = 16, 256
"""Sides of the copies that pictures are compared by, and that blur is measured in."""
ONE_COLOUR = 4.0
"""Deviation of grey levels, out of 255, below which a picture is of one colour."""
BLURRED = 0.1
"""Of the median sharpness of the domain."""
LARGER = 4.0
"""How many times the median side a picture may be longer or shorter, and the longer of its sides the shorter."""
CONTEXT = 77
"""Positions of CLIP's text tower."""
LISTED = 60
"""Pictures of a finding that are shown."""
ROWS = 4096
"""That are compared at a time."""


@dataclass(frozen=True, eq=False)
class Look:
    """What is measured of a picture."""

    width: int
    height: int
    small: np.ndarray
    """Grey levels (SMALL * SMALL), of mean 0 and length 1; 0 where they are all the same."""
    spread: float
    sharpness: float
    """The variance of the Laplacian."""


Finding = tuple[tuple[Item, ...], str]
"""Pictures, one or two that look alike, and what is said of them."""


@dataclass(frozen=True)
class Shown:
    """One figure: a picture, or two that look alike."""

    kind: str
    domain: str
    label: str
    pictures: Sequence[tuple[str, str]]
    """Path and thumbnail."""
    note: str = ""


def look(path: Path) -> Look | Unreadable:
    """Measure a picture. PIL decodes without the GIL."""
    pixels = try_image(path, MEDIUM // 2)
    if isinstance(pixels, Unreadable):
        return pixels
    with Image.open(path) as file:
        width, height = file.size
    image = Image.fromarray(pixels).convert("L")
    small = np.asarray(image.resize((SMALL, SMALL), Image.Resampling.BOX), np.float32).ravel()
    small = small - small.mean()
    length = float(np.linalg.norm(small))
    image.thumbnail((MEDIUM, MEDIUM))
    grey = np.asarray(image, np.float32)
    inner = grey[1:-1, 1:-1]
    edges = 4 * inner - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    sharpness = float(edges.var()) if edges.size else 0.0
    return Look(width, height, small / length if length > SMALL else 0 * small, float(grey.std()), sharpness)


def near_duplicates(train: np.ndarray, others: np.ndarray) -> list[tuple[int, int, float]]:
    """Places in train (n d) and others (m d), rows of length 1 or 0, of what is alike, and how much; the most alike first."""
    found = []
    for first in range(0, len(train), ROWS):
        alike = train[first : first + ROWS] @ others.T
        rows, columns = np.nonzero(alike >= ALIKE)
        found += [(first + int(i), int(j), float(alike[i, j])) for i, j in zip(rows, columns, strict=True)]
    return sorted(found, key=lambda pair: -pair[2])


def data_page(dataset: Dataset, tokens: Sequence[int], on_picture: Callable[[int], None] = lambda count: None) -> str:
    """The page, as HTML.

    Args:
        dataset: With a split for each picture.
        tokens: Of each class's name.
        on_picture: Called for every picture that was looked at.
    """
    looks: dict[Item, Look] = {}
    unreadable: list[Unreadable] = []
    with ThreadPoolExecutor(max(1, default_workers(len(dataset.items)))) as pool:
        for item, seen in zip(dataset.items, pool.map(lambda item: look(item.path), dataset.items), strict=True):
            on_picture(1)
            if isinstance(seen, Unreadable):
                unreadable.append(seen)
            else:
                looks[item] = seen
    findings: dict[str, list[Finding]] = {
        "near-duplicates": _duplicates(dataset, looks),
        "of one colour": [((item,), "") for item, seen in looks.items() if seen.spread < ONE_COLOUR],
        "blurred": _blurred(looks),
        "odd sizes": _odd_sizes(looks),
    }
    shown = [_figure(dataset, "a few of each", item) for item in _some(dataset, looks)]
    for kind, found in findings.items():
        shown += [_figure(dataset, kind, *items, note=note) for items, note in found[:LISTED]]
    splits = [name for name in ("train", "val", "test") if any(item.split == name for item in dataset.items)]
    by_split = Counter((item.label, item.split) for item in dataset.items)
    by_domain = Counter((item.label, item.domain) for item in dataset.items)
    page: str = template("data.html.jinja").render(
        title=dataset.root.name or str(dataset.root),
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        dataset=dataset,
        columns=[*splits, *dataset.domains],
        classes=[
            (
                name,
                tokens[label],
                [by_split[label, split] for split in splits] + [by_domain[label, domain] for domain in dataset.domains],
            )
            for label, name in enumerate(dataset.classnames)
        ],
        odd_names=odd_names(dataset.classnames),
        findings={kind: len(found) for kind, found in findings.items()},
        rules={
            "near-duplicates": f"a training picture and one of another split, whose grey copies of {SMALL} x {SMALL} "
            f"pixels correlate by {ALIKE} or more",
            "of one colour": f"grey levels deviate by less than {ONE_COLOUR:.0f} of 255: black, white, empty",
            "blurred": f"the variance of the Laplacian is less than {BLURRED:.0%} of the domain's median",
            "odd sizes": f"the short side is over {LARGER:.0f} times the median, or under 1/{LARGER:.0f}, or the long side "
            f"is over {LARGER:.0f} times the short one",
        },
        listed=LISTED,
        gallery=shown,
        kinds=list(dict.fromkeys(one.kind for one in shown)),
        labels=sorted({one.label for one in shown}),
        unreadable=unreadable,
    )
    return page


def _figure(dataset: Dataset, kind: str, *items: Item, note: str = "") -> Shown:
    first = items[0]
    pictures = [(f"{dataset.relative(item)} ({item.split})", thumbnail(item.path)) for item in items]
    return Shown(kind, first.domain, dataset.classnames[first.label], pictures, note)


def _some(dataset: Dataset, looks: dict[Item, Look]) -> list[Item]:
    """Evenly drawn from every class of every domain: SHOWN in all, or one of each."""
    groups: dict[tuple[int, str], list[Item]] = defaultdict(list)
    for item in looks:
        groups[item.label, item.domain].append(item)
    most = max(1, SHOWN // max(1, len(groups)))
    return [
        items[place]
        for _, items in sorted(groups.items())
        for place in np.unique(np.linspace(0, len(items) - 1, most).astype(int))
    ]


def _duplicates(dataset: Dataset, looks: dict[Item, Look]) -> list[Finding]:
    train, others = ([item for item in looks if (item.split == "train") == wanted] for wanted in (True, False))
    if not train or not others:
        return []
    pairs = near_duplicates(*(np.stack([looks[item].small for item in items]) for items in (train, others)))
    return [
        (
            (train[i], others[j]),
            "" if train[i].label == others[j].label else f"and {dataset.classnames[others[j].label]}",
        )
        for i, j, _ in pairs
    ]


def _blurred(looks: dict[Item, Look]) -> list[Finding]:
    domains: dict[str, list[float]] = defaultdict(list)
    for item, seen in looks.items():
        domains[item.domain].append(seen.sharpness)
    median = {domain: float(np.median(values)) for domain, values in domains.items()}
    found = [
        (seen.sharpness / median[item.domain], item)
        for item, seen in looks.items()
        if seen.spread >= ONE_COLOUR and seen.sharpness < BLURRED * median[item.domain]
    ]
    return [((item,), f"{share:.1%} of the median") for share, item in sorted(found, key=lambda pair: pair[0])]


def _odd_sizes(looks: dict[Item, Look]) -> list[Finding]:
    if not looks:
        return []
    median = float(np.median([min(seen.width, seen.height) for seen in looks.values()]))
    found: list[Finding] = []
    for item, seen in looks.items():
        short, long = sorted((seen.width, seen.height))
        if not median / LARGER < short < median * LARGER or long > LARGER * short:
            found.append(((item,), f"{seen.width} x {seen.height}"))
    return found


def token_counts(names: Sequence[str]) -> list[int]:
    """How many tokens CLIP's tokenizer makes of each name."""
    from open_clip.tokenizer import SimpleTokenizer

    return [len(ids) for ids in PromptTokenizer(SimpleTokenizer(), CONTEXT).encode(names)]

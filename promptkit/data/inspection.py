"""What is wrong with a data set: pictures that can't be read, class names that make poor prompts."""

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from promptkit.backbones.base import Backbone
from promptkit.data.images import Unreadable, try_image
from promptkit.data.layouts import Item
from promptkit.data.loading import default_workers
from promptkit.errors import BackboneError

log = logging.getLogger("promptkit")

LISTED = 10
"""How many groups of classes a warning names."""
ODD = {
    "an identifier of WordNet": re.compile(r"n\d{8}"),
    "no letter in it": re.compile(r"[\W\d_]*"),
    "underscores": re.compile(r".*_.*"),
    "words run together": re.compile(r".*[a-z][A-Z].*"),
    "blanks at its ends": re.compile(r"\s.*|.*\s"),
}


def odd_names(names: Sequence[str]) -> dict[str, list[str]]:
    """What is odd -> the class names it is true of. Names that the tokeniser can't tell apart collide."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        for what, pattern in ODD.items():
            if pattern.fullmatch(name):
                found[what].append(name)
                break
    same: dict[str, list[str]] = defaultdict(list)
    for name in names:
        same[" ".join(re.sub(r"[\W_]+", " ", name.lower()).split())].append(name)
    for group in same.values():
        if len(group) > 1:
            found["the same to a reader"].append(" = ".join(group))
    return dict(found)


def warn_indistinct(backbone: Backbone, names: Sequence[str]) -> None:
    """Name the classes that the text tower can't tell apart, since their names are the same tokens."""
    try:
        ids = backbone.class_tokens(names, 1).ids
    except BackboneError:  # a name that is too long: who asks about it says so
        return
    rows, which = torch.unique(ids, dim=0, return_inverse=True)
    if len(rows) == len(names):
        return
    same: dict[int, list[str]] = defaultdict(list)
    for name, row in zip(names, which.tolist(), strict=True):
        same[row].append(name)
    groups = [" = ".join(map(ascii, group)) for group in same.values() if len(group) > 1]
    more = [f"and {len(groups) - LISTED} more"] if len(groups) > LISTED else []
    log.warning(
        "to the text tower of %s these classes have one name: %s; classnames.json can give them different ones",
        backbone.name,
        ", ".join(groups[:LISTED] + more),
    )


def check_images(
    items: Sequence[Item], on_image: Callable[[], None] = lambda: None, threads: int | None = None
) -> list[Unreadable]:
    """Open every picture, several at a time, and return those that can't be used, in order. PIL decodes without the GIL."""
    found = []
    with ThreadPoolExecutor(threads or max(1, default_workers(len(items)))) as pool:
        for reason in pool.map(lambda item: _problem(item), items):
            on_image()
            if reason is not None:
                found.append(reason)
    return found


def _problem(item: Item) -> Unreadable | None:
    image = try_image(item.path)
    return image if isinstance(image, Unreadable) else None

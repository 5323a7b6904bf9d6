"""Which pictures train, validate and test: pure functions on a Dataset, the same on every machine."""

import random
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from promptkit.data.layouts import Dataset, Item
from promptkit.errors import ConfigError, DataError, UnknownNameError

LISTED = 10
"""How many classes a warning names."""


def split(dataset: Dataset, seed: int) -> Dataset:
    """Give every picture a split, "train", "val" or "test".

    Splits that the data gives are kept, even a lone train or test. Only where it gives a val but no test, as ImageNet
    and Dassl's OfficeHome do, val is the test, and there is no val. Where it gives none, 50/20/30 of every class of
    every domain are drawn, rounded in favour of train, then of test: a class of one picture trains, a class of two
    trains and tests. Each class draws for itself from the seed and its sorted relative paths, so which other domains
    and classes are read changes nothing.
    """
    given = {item.split for item in dataset.items} - {None}
    if given:
        if "val" not in given or "test" in given:
            return dataset
        items = [replace(item, split="test") if item.split == "val" else item for item in dataset.items]
        return replace(dataset, items=tuple(items))
    part: dict[Path, str] = {}
    for (domain, label), items in _groups(dataset.items).items():
        items = sorted(items, key=dataset.relative)
        random.Random(f"{seed}/{domain}/{dataset.classnames[label]}").shuffle(items)
        train, val = (len(items) + 1) // 2, len(items) // 5
        names = ["train"] * train + ["val"] * val + ["test"] * (len(items) - train - val)
        part |= {item.path: name for item, name in zip(items, names, strict=True)}
    return replace(dataset, items=tuple(replace(item, split=part[item.path]) for item in dataset.items))


def few_shot(dataset: Dataset, shots: int, seed: int) -> tuple[Dataset, list[str]]:
    """Sample `shots` training pictures of every class of every domain, and min(shots, 4) to validate; test stays.

    Without domains, or with one, this is the rule of CoOp (`datasets/oxford_pets.py`, Dassl's
    `generate_fewshot_dataset`): a seed gives the published sample. It comes before `class_subset`.

    Also returns warnings: the classes that have fewer pictures than shots, which keep all they have.
    Raises ConfigError when shots is not positive, DataError when there is no training picture.
    """
    if shots < 1:
        raise ConfigError(f"shots={shots}: at least one picture per class is needed")
    train = [item for item in dataset.items if item.split == "train"]
    if not train:
        raise DataError(f"{dataset.root} has no training pictures to take {shots} shots from")
    rng = random.Random(seed)
    sampled = _sample(train, shots, rng)
    sampled += _sample([item for item in dataset.items if item.split == "val"], min(shots, 4), rng)
    sampled += [item for item in dataset.items if item.split == "test"]

    short = [
        f"{domain}/{dataset.classnames[label]} ({len(items)})"
        if domain
        else f"{dataset.classnames[label]} ({len(items)})"
        for (domain, label), items in sorted(_groups(train).items())
        if len(items) < shots
    ]
    more = [f"and {len(short) - LISTED} more"] if len(short) > LISTED else []
    warnings = [f"fewer training pictures than {shots} shots: {', '.join(short[:LISTED] + more)}"] if short else []
    return replace(dataset, items=tuple(sampled)), warnings


def _groups(items: Sequence[Item]) -> dict[tuple[str, int], list[Item]]:
    """By domain and label, in order of first appearance."""
    groups = defaultdict(list)
    for item in items:
        groups[item.domain, item.label].append(item)
    return groups


def _sample(items: Sequence[Item], shots: int, rng: random.Random) -> list[Item]:
    sampled = []
    for group in _groups(items).values():
        sampled += rng.sample(group, shots) if len(group) >= shots else group
    return sampled


def class_subset(dataset: Dataset, which: str) -> Dataset:
    """Keep "all" classes, the "base" half (rounded up), the "new" half, or those that a text file names, one a line.

    Labels are numbered again from 0, in their old order.
    Raises UnknownNameError for another word or a class that the data doesn't have, DataError when fewer than two
    classes are left or the file can't be read.
    """
    names = dataset.classnames
    half = (len(names) + 1) // 2
    halves = {"all": range(len(names)), "base": range(half), "new": range(half, len(names))}
    kept = halves[which] if which in halves else _listed_classes(Path(which), names, halves)
    if len(kept) < 2:
        raise DataError(
            f"{which!r} leaves {len(kept)} of the {len(names)} classes of {dataset.root}; two or more are needed"
        )
    new_label = {label: i for i, label in enumerate(kept)}
    items = [replace(item, label=new_label[item.label]) for item in dataset.items if item.label in new_label]
    return replace(dataset, classnames=tuple(names[label] for label in kept), items=tuple(items))


def _listed_classes(path: Path, names: Sequence[str], words: Collection[str]) -> Sequence[int]:
    if not path.is_file():
        hint = f"give {', '.join(words)} or a text file with one class name a line"
        raise UnknownNameError("choice of classes", str(path), words, hint)
    try:
        listed = {line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()} - {""}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read: {error}", "one class name a line is expected") from error
    for name in sorted(listed - set(names)):
        raise UnknownNameError("class", name, names)
    return [label for label, name in enumerate(names) if name in listed]


def subset(dataset: Dataset, split: str | None = None, domains: Collection[str] = ()) -> Dataset:
    """The pictures of one split, or of all, from the domains that are named, or from all; labels stay.

    Raises UnknownNameError for a domain that the data doesn't have.
    """
    for domain in domains:
        if domain not in dataset.domains:
            raise UnknownNameError("domain", domain, dataset.domains)
    kept = tuple(domain for domain in dataset.domains if domain in domains or not domains)
    items = [item for item in dataset.items if split in (None, item.split) and (item.domain in kept or not domains)]
    return replace(dataset, domains=kept, items=tuple(items))

"""Which images train, validate and test: policies that give every image a split, then shots, domains and classes.

All are functions of a Dataset, the same on every machine.
"""

import logging
import os
import random
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from promptkit.data.catalog import NamedDataset
from promptkit.data.layouts import Dataset, Item, read_dataset
from promptkit.errors import ConfigError, DataError, UnknownNameError
from promptkit.files import text_of
from promptkit.settings import DataSettings

log = logging.getLogger("promptkit")

LISTED = 10
"""How many classes a warning names."""


@dataclass(frozen=True)
class SplitPolicy:
    """How images come by their split. `split` gives every image "train", "val" or "test", from a seed."""

    split: Callable[[Dataset, int], Dataset]
    reads_given: bool = True
    """False: the splits of the data are not even read, so a published split file may be missing."""


def given(dataset: Dataset, seed: int) -> Dataset:
    """Keep the splits that the data gives, even a lone train or test; draw them where it gives none.

    Only where it gives a val but no test, as ImageNet and Dassl's OfficeHome do, val is the test, and there is no val.
    """
    splits = {item.split for item in dataset.items} - {None}
    if not splits:
        return draw(dataset, seed)
    if "val" not in splits or "test" in splits:
        return dataset
    items = [replace(item, split="test") if item.split == "val" else item for item in dataset.items]
    return replace(dataset, items=tuple(items))


def draw(dataset: Dataset, seed: int) -> Dataset:
    """Draw 50/20/30 of every class of every domain, rounded in favour of train, then of test.

    A class of one image trains, a class of two trains and tests. Each class draws for itself from the seed and its
    sorted relative paths, so which other domains and classes are read changes nothing.
    """
    part: dict[Path, str] = {}
    for (domain, label), items in _groups(dataset.items).items():
        items = sorted(items, key=dataset.relative)
        random.Random(f"{seed}/{domain}/{dataset.classnames[label]}").shuffle(items)
        train, val = (len(items) + 1) // 2, len(items) // 5
        names = ["train"] * train + ["val"] * val + ["test"] * (len(items) - train - val)
        part |= {item.path: name for item, name in zip(items, names, strict=True)}
    drawn = tuple(replace(item, split=part[item.path]) for item in dataset.items)
    return replace(dataset, items=drawn, split_source="drawn")


SPLIT_POLICIES = {
    "given": SplitPolicy(given),
    "draw": SplitPolicy(draw, reads_given=False),
}
"""The values of `data.split`. Evaluation takes their names too, for the test images of that policy."""


def open_dataset(
    path: Path, named: NamedDataset | None = None, domains: Sequence[str] = (), policy: str = "given"
) -> Dataset:
    """Read what lies at `path`, or the named data set below it, as its splits are needed by a policy.

    Raises DataError for what can't be read, UnknownNameError for a domain or policy that doesn't exist.
    """
    reads_given = split_policy(policy).reads_given
    if named is None:
        dataset = read_dataset(path, domains)
    else:
        dataset = named.read(path) if reads_given or named.unsplit is None else named.unsplit(path)
        dataset = subset(dataset, domains=domains)
    if not reads_given:
        dataset = replace(dataset, items=tuple(replace(item, split=None) for item in dataset.items))
    has_splits = any(item.split for item in dataset.items)
    source: Literal["published", "given", "drawn"] = "drawn"
    if has_splits:
        source = "published" if named else "given"
    return replace(dataset, split_source=source, found=len(dataset.items))


def select_training(
    dataset: Dataset, settings: DataSettings, seed: int, warn: Callable[[str], object] = log.warning
) -> Dataset:
    """Split a data set, sample the shots of a run from it, and choose its classes, in that order.

    The validation and test images stay in it. Classes that are smaller than the shots, or have no training image, cause
    a warning, which `warn` hears. Raises DataError and UnknownNameError for data that can't be trained on.
    """
    dataset = split_policy(settings.split).split(dataset, settings.split_seed)
    if settings.shots:
        dataset, warnings = few_shot(dataset, settings.shots, seed)
        for warning in warnings:
            warn(warning)
    dataset = class_subset(dataset, settings.classes)
    counts = dict(zip(dataset.classnames, dataset.counts("train"), strict=True))
    lacking = [name for name, count in counts.items() if not count]
    if 0 < len(lacking) < len(counts):
        more = [f"and {len(lacking) - LISTED} more"] if len(lacking) > LISTED else []
        warn(f"classes without a training picture: {', '.join(lacking[:LISTED] + more)}")
    return limited(dataset, settings.limit, seed) if settings.limit else dataset


def select_evaluation(
    dataset: Dataset,
    split: str = "test",
    policy: str = "given",
    split_seed: int = 0,
    domains: Collection[str] = (),
    classes: str = "all",
) -> Dataset:
    """Choose the images of one split (test, val, train, or all), some domains and some classes.

    Raises DataError when fewer than two classes are left, UnknownNameError for a name that doesn't exist.
    """
    if split not in PARTS:
        raise UnknownNameError("split", split, (*PARTS, *SPLIT_POLICIES))
    if split != "all":
        dataset = subset(split_policy(policy).split(dataset, split_seed), split)
    return class_subset(subset(dataset, domains=domains), classes)


def limited(dataset: Dataset, limit: int, seed: int) -> Dataset:
    """Draw at most `limit` images to train on and as many to validate with; the classes and the test images stay."""
    left_out: set[Path] = set()
    for split in ("train", "val"):
        paths = sorted((item.path for item in dataset.items if item.split == split), key=str)
        random.Random(f"{seed}/{split}").shuffle(paths)
        left_out |= {*paths[limit:]}
    return replace(dataset, items=tuple(item for item in dataset.items if item.path not in left_out))


PARTS = ("test", "val", "train", "all")
"""What can be evaluated on."""


def split_policy(name: str) -> SplitPolicy:
    """Raises UnknownNameError."""
    if name not in SPLIT_POLICIES:
        hint = f"data.split is one of {', '.join(SPLIT_POLICIES)}"
        raise UnknownNameError("split policy", name, SPLIT_POLICIES, hint)
    return SPLIT_POLICIES[name]


def few_shot(dataset: Dataset, shots: int, seed: int) -> tuple[Dataset, list[str]]:
    """Sample `shots` training images of every class of every domain, and min(shots, 4) to validate; test stays.

    Without domains, or with one, this is the rule of CoOp (`datasets/oxford_pets.py`, Dassl's
    `generate_fewshot_dataset`): a seed gives the published sample. It comes before `class_subset`.

    Also returns warnings: the classes that have fewer images than shots and keep all they have.
    Raises ConfigError when shots is not positive, DataError when there is no training image.
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
    """Items by domain and label, in order of first appearance."""
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
    halves = {"all": names, "base": names[:half], "new": names[half:]}
    kept = halves[which] if which in halves else read_classes(which, halves)
    for name in kept:
        if name not in names:
            raise UnknownNameError("class", name, names)
    if len(kept) < 2:
        raise DataError(
            f"{which!r} leaves {len(kept)} of the {len(names)} classes of {dataset.root}; two or more are needed"
        )
    return keep_classes(dataset, kept)


def keep_classes(dataset: Dataset, names: Collection[str]) -> Dataset:
    """The images of some classes. Labels are numbered again from 0, in their old order."""
    wanted = frozenset(names)
    kept = [label for label, name in enumerate(dataset.classnames) if name in wanted]
    new_label = {label: i for i, label in enumerate(kept)}
    items = [replace(item, label=new_label[item.label]) for item in dataset.items if item.label in new_label]
    return replace(dataset, classnames=tuple(dataset.classnames[label] for label in kept), items=tuple(items))


def read_classes(file: str, words: Collection[str]) -> tuple[str, ...]:
    """The class names in a text file, one a line, each once.

    Raises UnknownNameError, naming the `words` that might have been meant, where there is no such file; DataError when
    it can't be read.
    """
    path = Path(file)
    if not os.path.isfile(path):  # unlike Path.is_file, never raises
        hint = f"give {', '.join(words)} or a text file with one class name a line"
        raise UnknownNameError("choice of classes", file, words, hint)
    try:
        lines = text_of(path).splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read: {error}", "one class name a line is expected") from error
    return tuple(dict.fromkeys(name for line in lines if (name := line.strip())))


def subset(dataset: Dataset, split: str | None = None, domains: Collection[str] = ()) -> Dataset:
    """Keep the images of one split, or of all, from the named domains, or from all; labels stay.

    Raises UnknownNameError for a domain that the data doesn't have.
    """
    for domain in domains:
        if domain not in dataset.domains:
            raise UnknownNameError("domain", domain, dataset.domains)
    kept = tuple(domain for domain in dataset.domains if domain in domains or not domains)
    items = [item for item in dataset.items if split in (None, item.split) and (item.domain in kept or not domains)]
    return replace(dataset, domains=kept, items=tuple(items))

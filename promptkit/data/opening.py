"""From settings to a Dataset whose pictures all have a split: a folder, a manifest, or a data set by its name."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from promptkit.data import splits
from promptkit.data.layouts import Dataset, read_dataset
from promptkit.registry import Registry


def open_dataset(
    path: Path, registry: Registry, name: str = "", domains: Sequence[str] = (), draw: bool = False
) -> Dataset:
    """What lies at `path`: below it, where a name is given. With `draw` no picture keeps the split that the data gives.

    Raises DataError for what can't be read, UnknownNameError for a name or domain that doesn't exist.
    """
    if not name:
        dataset = read_dataset(path, domains)
    else:
        named = registry.dataset(name)
        dataset = (named.unsplit or named.read)(path) if draw else named.read(path)
        if domains:
            dataset = splits.subset(dataset, domains=domains)
    if draw:
        dataset = replace(dataset, items=tuple(replace(item, split=None) for item in dataset.items))
    return dataset

"""Where an import comes from: what every origin says of its pictures, and what people say of an origin."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from promptkit.data.manifests import SPLITS
from promptkit.errors import DataError, UnknownNameError

Content = bytes | Path | Image.Image
"""A picture as its origin has it: what a file holds, a file, or an opened picture, which is written as PNG."""


@dataclass(frozen=True)
class Wanted:
    """What people say of an origin; "" and () leave it to what is found."""

    image: str = ""
    label: str = ""
    domain: str = ""
    """Columns, or keys of a shard's JSON."""
    splits: Sequence[str] = ()
    config: str = ""
    """Of a data set on the hub that has several."""
    root: Path | None = None
    """Where torchvision keeps the originals."""


@dataclass(frozen=True)
class Example:
    """A picture that an origin has. `number` counts those of its split, from 0."""

    split: str
    number: int
    label: str | None
    """The class's name; None where none is known."""
    domain: str
    content: Callable[[], Content]

    @property
    def place(self) -> str:
        """For people."""
        return f"picture {self.number} of {self.split or 'all'}"


class Origin(ABC):
    """A data set to import."""

    splits: Sequence[str]
    """As it calls them; ("",) where it has none."""
    total: int
    """Its pictures."""

    @abstractmethod
    def __iter__(self) -> Iterator[Example]:
        """Always in the same order."""


def chosen_splits(source: str, there: Iterable[str], wanted: Sequence[str]) -> list[str]:
    """The splits to import. Raises UnknownNameError for one that isn't there, DataError for names that mean nothing here."""
    there = list(there)
    for name in wanted:
        if name not in there:
            raise UnknownNameError("split", name, there)
    chosen = [name for name in there if not wanted or name in wanted]
    strange = [name for name in chosen if name.lower() not in SPLITS]
    if strange and len(chosen) > 1:
        raise DataError(
            f"{source} has splits {', '.join(there)}, of which {', '.join(strange)} is none of {', '.join(SPLITS)}",
            "choose with --splits, such as --splits train,test",
        )
    return chosen


def chosen_column(kind: str, source: str, typed: str, fitting: Sequence[str], there: Sequence[str]) -> str:
    """The column of that kind: the one that is typed, or the only one that fits.

    Raises UnknownNameError for one that isn't there, DataError where none fits, or several.
    """
    if typed:
        if typed not in there:
            raise UnknownNameError("column", typed, there)
        return typed
    if len(fitting) != 1:
        what = f"several columns may be the {kind}: {', '.join(fitting)}" if fitting else f"no column is the {kind}"
        raise DataError(f"{source}: {what}", f"name it with --{kind}; columns: {', '.join(there)}")
    return fitting[0]

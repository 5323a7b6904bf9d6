"""What classes look like, in words: a JSON file of class names with a sentence or several each, as CuPL publishes them."""

from collections.abc import Mapping
from pathlib import Path

from promptkit.errors import DataError
from promptkit.files import checked_json, text_of

MAX_FILE = 12 * 2**20
"""Bytes; they go into the header of what is learned."""


def read_descriptions(path: Path) -> Mapping[str, tuple[str, ...]]:
    """The sentences of each class in the file.

    Raises DataError for a file that can't be read as one, or a class without a sentence.
    """
    try:
        read = checked_json(dict[str, str | list[str]], text_of(path, MAX_FILE))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} holds no descriptions: {error}",
            'it is like: {"cat": ["A cat has whiskers.", "..."], "dog": [...]}',
        ) from None
    found = {name: (said,) if isinstance(said, str) else tuple(said) for name, said in read.items()}
    if empty := [name for name, sentences in found.items() if not all(map(str.strip, sentences or ("",)))]:
        raise DataError(f"{path} has no sentence, or an empty one, for {empty[0]!r}")
    return found

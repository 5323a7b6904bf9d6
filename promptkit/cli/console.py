"""Where commands print. Away from a terminal tables get room, so that a log or a pipe holds them unbroken.

Of several processes that run one command, the first speaks.
"""

import os
from typing import TYPE_CHECKING, Any

from rich import markup
from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress

PIPE_WIDTH = 140

if os.environ.get("COLUMNS", "").strip("0") == "":
    os.environ.pop("COLUMNS", None)  # rich would print nothing into a width of 0


def rank() -> int:
    """Which of several processes this is, as torchrun and accelerate launch say before any has joined."""
    said = os.environ.get("RANK", "")
    return int(said) if said.isdecimal() and "WORLD_SIZE" in os.environ else 0


def escape(text: str) -> str:
    """A name of somebody else's, to be printed: no markup, and control characters, such as escape sequences, made visible."""
    return markup.escape(visible(text))


def visible(text: str, lines: bool = False) -> str:
    """A text with its control characters made visible; with `lines`, line breaks stay."""
    return "".join(x if x.isprintable() or (lines and x == "\n") else ascii(x)[1:-1] for x in text)


class Prose(Console):
    """What is printed with `soft_wrap` is broken between words on a terminal, which would break it inside a number.

    No name, such as wds:x:, is taken for an emoji's.
    """

    def __init__(self, **words: Any) -> None:
        super().__init__(**words, emoji=False)

    def print(self, *objects: Any, soft_wrap: bool | None = None, **words: Any) -> None:
        wanted = self.soft_wrap if soft_wrap is None else soft_wrap
        super().print(*objects, soft_wrap=wanted and not self.is_terminal, **words)


def console() -> Console:
    """For results, on stdout."""
    plain = Prose(highlight=False, quiet=rank() > 0)
    if plain.is_terminal or "COLUMNS" in os.environ:
        return plain
    return Prose(highlight=False, width=PIPE_WIDTH, quiet=rank() > 0)


def progress() -> "Progress":
    """A bar on stderr, in a terminal only."""
    from rich.progress import Progress

    errors = Console(stderr=True)
    return Progress(console=errors, transient=True, disable=not errors.is_terminal)

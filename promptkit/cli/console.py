"""Where commands print. Away from a terminal tables get room, so that a log or a pipe holds them unbroken.

Of several processes that run one command, the first speaks.
"""

import os
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress

PIPE_WIDTH = 140

RANK = int(os.environ.get("RANK", "0"))
"""Which of several processes this is, as torchrun and accelerate launch say."""


def console() -> Console:
    """For results, on stdout."""
    plain = Console(highlight=False, quiet=RANK > 0)
    if plain.is_terminal or "COLUMNS" in os.environ:
        return plain
    return Console(highlight=False, width=PIPE_WIDTH, quiet=RANK > 0)


def progress() -> "Progress":
    """A bar on stderr, in a terminal only."""
    from rich.progress import Progress

    errors = Console(stderr=True)
    return Progress(console=errors, transient=True, disable=not errors.is_terminal)

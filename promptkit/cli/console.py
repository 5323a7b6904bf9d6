"""Where commands print. Away from a terminal tables get room, so that a log or a pipe holds them unbroken.

Of several processes that run one command, the first speaks.
"""

import os

from rich.console import Console

PIPE_WIDTH = 140

RANK = int(os.environ.get("RANK", "0"))
"""Which of several processes this is, as torchrun and accelerate launch say."""


def console() -> Console:
    """For results, on stdout."""
    plain = Console(highlight=False, quiet=RANK > 0)
    if plain.is_terminal or "COLUMNS" in os.environ:
        return plain
    return Console(highlight=False, width=PIPE_WIDTH, quiet=RANK > 0)

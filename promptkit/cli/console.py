"""Where commands print. Away from a terminal tables get room, so that a log or a pipe holds them unbroken."""

import os

from rich.console import Console

PIPE_WIDTH = 140


def console() -> Console:
    """For results, on stdout."""
    plain = Console(highlight=False)
    if plain.is_terminal or "COLUMNS" in os.environ:
        return plain
    return Console(highlight=False, width=PIPE_WIDTH)

"""Tells a Ctrl-C of the user from a KeyboardInterrupt that a plugin raises."""

import signal
from types import FrameType

_pressed: list[int] = []
_remembers = False


def remember() -> None:
    """Keep count of Ctrl-C from now on; for the program, not for a library that runs in somebody else's."""
    global _remembers
    _remembers = True
    _pressed.clear()

    def handle(number: int, frame: FrameType | None) -> None:
        _pressed.append(number)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, handle)


def pressed() -> bool:
    """Did the user press Ctrl-C? Where nobody keeps count, a KeyboardInterrupt is taken to be the user's."""
    return bool(_pressed) or not _remembers

"""Libraries that only some of promptkit needs."""

from importlib.util import find_spec

from promptkit.errors import ConfigError


def needs(what: str, *libraries: str) -> None:
    """Raises ConfigError where libraries are not installed that `what` needs."""
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{what} needs {', '.join(missing)}", f"pip install {' '.join(missing)}")

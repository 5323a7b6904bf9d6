"""What the installed plugins offer, seen from a process of its own: only there is everything that pip changes fresh."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from promptkit.errors import InstallError


@dataclass(frozen=True)
class Offers:
    """What is installed, by package: what each plugin offers, names by kind, or why it can't be loaded."""

    by_package: Mapping[str, Mapping[str, list[str]]]
    broken: Mapping[str, str]


_LOOK = """
import json, sys
from packaging.utils import canonicalize_name
from promptkit.registry import discover
registry = discover()
offers = {}
for entry in registry:
    offers.setdefault(canonicalize_name(entry.package), {}).setdefault(entry.kind, []).append(entry.name)
broken = {canonicalize_name(plugin.package): plugin.cause for plugin in registry.broken}
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump({"by_package": offers, "broken": broken}, file)
"""


def look() -> Offers:
    """Discover plugins as the next command will. Raises InstallError when promptkit itself no longer works."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "found.json")
        done = subprocess.run(
            [sys.executable, "-P", "-c", _LOOK, str(answer)], capture_output=True, text=True, errors="replace"
        )
        if done.returncode:
            cause = (done.stderr.strip().splitlines() or ["it was killed"])[-1]
            raise InstallError(
                f"promptkit itself can't be loaded now: {cause}", "pip check names what doesn't fit together"
            )
        return Offers(**json.loads(answer.read_text(encoding="utf-8")))

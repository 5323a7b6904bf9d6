"""Runs the pip of this Python, and turns its failures into one message."""

import logging
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from promptkit.errors import InstallError, PromptkitError, UnknownNameError
from promptkit.published import PACKAGES

KEPT = ("promptkit", "torch", "torchvision", "open_clip_torch")
"""What installing a plugin never replaces: another torch than the one here may not know the GPU."""

_DECISIVE = (
    r"^\s*(fatal: .+)",  # git's
    r"^WARNING: (Requirement .+ does not exist)",
    r"^Hint: It looks like a path\. (.+)",
    r"^\s*(?:ERROR: )?(.+)\n\s*\[end of output\]",  # the last words of a build
    r"^ERROR: (?!Ignored )(.+)",
    r"^(.+)\s*\Z",
)
"""What says most about a failure, the most telling first."""


def run_pip(*words: str) -> None:
    """Run pip and wait for it; all that it says is logged at debug level. Raises InstallError when it fails."""
    command = [sys.executable, "-P", "-m", "pip", "--no-input", "--disable-pip-version-check", *words]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    logging.getLogger("promptkit").debug(done.stdout)
    if done.returncode:
        raise _failure(words[0], done.stdout or f"exit status {done.returncode}")


def write_constraints(path: Path) -> None:
    """Hold what must stay at the versions that are installed."""
    path.write_text("".join(f"{name}=={version(name)}\n" for name in KEPT if _is_installed(name)), encoding="utf-8")


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _failure(command: str, output: str) -> PromptkitError:
    """pip's decisive line, and what to do about it."""
    if "No module named pip" in output:
        return InstallError(
            f"the Python that runs promptkit has no pip: {sys.executable}",
            f"{sys.executable} -m ensurepip adds it; or use: uv pip {command}",
        )
    if "externally-managed-environment" in output:
        return InstallError(
            f"the system manages the packages of {sys.executable}, and pip leaves them alone",
            "make an environment and install promptkit there: python3 -m venv .venv",
        )
    kept = [name for name in re.findall(r"The user requested \(constraint\) ([\w.-]+)", output) if _is_installed(name)]
    if kept:
        wish = re.search(r"The conflict is caused by:\s+(.+)", output)
        return InstallError(
            f"{wish[1] if wish else 'pip found a conflict'}, but {kept[0]} {version(kept[0])} is installed and stays",
            f"try another version of the plugin; or change {kept[0]} yourself first, with pip",
        )
    if broken := re.search(r"after connection broken by '(.+)': ", output):
        reason = broken[1].rpartition(": ")[2].rstrip("\"')")
        return InstallError(
            f"pip can't reach a package index: {reason}",
            "check the network; a wheel or a folder with all it needs installs without: promptkit install --no-index PATH",
        )
    line = next(found[1] for pattern in _DECISIVE if (found := re.search(pattern, output, re.MULTILINE))).strip()
    if missing := re.search(r"satisfies the requirement ([\w.-]+)\S* \(from versions: none\)", line):
        name = missing[1]
        here = f"the folder of that name is ./{name}; " if Path(name).is_dir() else ""
        return UnknownNameError("package", name, PACKAGES.keys() | PACKAGES.values(), f"{here}pip says: {line}")
    if "setuptools" in line and re.search("install(ing)? build dependencies", output):
        hint = "--no-build-isolation builds with the setuptools that is installed here"
    else:
        hint = "--debug shows all that pip said"
    return InstallError(f"pip {command} failed: {line}", hint)

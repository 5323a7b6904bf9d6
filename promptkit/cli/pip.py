"""Runs the pip of this Python, and turns its failures into one message."""

import json
import logging
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import invalidate_caches
from importlib.metadata import distributions, version
from pathlib import Path

from packaging.utils import canonicalize_name

from promptkit.errors import InstallError, PromptkitError, UnknownNameError
from promptkit.hooks import PROJECT
from promptkit.offered import DISTRIBUTION, PACKAGES

KEPT = (DISTRIBUTION, "torch", "torchvision", "open-clip-torch")
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

_UNREACHED = "satisfies the requirement|No matching distribution|Max retries exceeded"
"""How pip ends where no try reached an index. One that did after some tries leaves their warnings as well."""


@dataclass(frozen=True)
class Arrival:
    """A package that pip has installed, under its canonical name."""

    name: str
    version: str
    replaced: str
    """The version that was there before, if any."""
    asked: bool
    """Or is it there because another one needs it?"""


def pip_install(words: Sequence[str]) -> list[Arrival]:
    """Install what the words name, KEPT aside; they may be options of pip as well.

    Raises as `run_pip` does, and InstallError when pip does not report what it has installed.
    """
    before: dict[str, str] = {}
    for package in distributions():
        if package.name:
            before.setdefault(canonicalize_name(package.name), package.version)
    with tempfile.TemporaryDirectory() as folder:
        constraints, report = Path(folder, "constraints.txt"), Path(folder, "report.json")
        kept = [f"{name}=={version}\n" for name in KEPT if (version := before.get(name))]
        constraints.write_text("".join([*kept, f"{PROJECT}<0\n"]))  # another project's would overwrite this one
        with _left_as_found(words):
            run_pip("install", "--constraint", str(constraints), "--report", str(report), *words)
        if not report.exists():  # help was asked for, or a report elsewhere
            raise InstallError(
                "pip has not reported what it installed, so promptkit can't say what that offers",
                "leave out -h and --report; pip's own help: python -m pip install -h",
            )
        items = json.loads(report.read_text(encoding="utf-8"))["install"]
    invalidate_caches()
    arrivals = []
    for item in items:
        name, version = canonicalize_name(item["metadata"]["name"]), item["metadata"]["version"]
        arrivals.append(Arrival(name, version, before.get(name, ""), item["requested"]))
    return arrivals


@contextmanager
def _left_as_found(words: Sequence[str]) -> Iterator[None]:
    """What building leaves in the folders among the words goes again: Python takes an egg-info for an installed package."""
    editable = "--editable", "-e"
    folders = [Path(word) for before, word in zip(("", *words), words, strict=False) if before not in editable]

    def made() -> set[Path]:
        patterns = "build", "*.egg-info", "*/*.egg-info"
        return {path for folder in folders if folder.is_dir() for pattern in patterns for path in folder.glob(pattern)}

    before = made()
    try:
        yield
    finally:
        for path in made() - before:
            shutil.rmtree(path, ignore_errors=True)


def run_pip(*words: str) -> None:
    """Run pip and wait for it; all that it says is logged at debug level.

    Raises InstallError when it fails, UnknownNameError when there is no such package.
    """
    command = [sys.executable, "-P", "-m", "pip", "--no-input", "--disable-pip-version-check", *words]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    logging.getLogger("promptkit").debug(done.stdout)
    if done.returncode:
        raise _failure(words[0], done.stdout.strip() or f"exit status {done.returncode}")


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
    if re.search(rf"The user requested \(constraint\) {PROJECT}<0", output):
        wish = re.search(rf"(\S+ \S+) depends on {PROJECT}\b", output)
        who = wish[1] if wish else "what was asked for"
        return InstallError(
            f"{who} wants {PROJECT}, another project's package, which would overwrite this one",
            f"a plugin depends on {DISTRIBUTION}; ask its author",
        )
    kept = re.search(rf"The user requested \(constraint\) ({'|'.join(KEPT)})\b", output)
    if kept:
        wish = re.search(r"The conflict is caused by:\s+(.+)", output)
        return InstallError(
            f"{wish[1] if wish else 'pip found a conflict'}, but {kept[1]} {version(kept[1])} is installed and stays",
            f"try another version of the plugin; or change {kept[1]} yourself first, with pip",
        )
    line = next(found[1] for pattern in _DECISIVE if (found := re.search(pattern, output, re.MULTILINE))).strip()
    broken = re.search(r"total=0,.+after connection broken by '(.+)': ", output)
    if broken and re.search(_UNREACHED, line):
        reason = broken[1].rpartition(": ")[2].rstrip("\"')")
        return InstallError(
            f"pip can't reach a package index: {reason}",
            "check the network; a wheel or a folder with all it needs installs without: promptkit install --no-index PATH",
        )
    if missing := re.search(r"satisfies the requirement ([\w.-]+)\S* \(from versions: none\)", line):
        return UnknownNameError("package", missing[1], PACKAGES.keys() | PACKAGES.values(), f"pip says: {line}")
    if "setuptools" in line and re.search("install(ing)? build dependencies", output):
        hint = "--no-build-isolation builds with the setuptools that is installed here"
    else:
        hint = "--debug shows all that pip said"
    return InstallError(f"pip {command} failed: {line}", hint)

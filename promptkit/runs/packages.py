"""What a run was made with: packages, their versions, and the commit of those that are installed in editable form."""

import json
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from urllib.parse import urlsplit
from urllib.request import url2pathname

import open_clip
import torch

import promptkit
from promptkit.config import RunConfig
from promptkit.offered import DISTRIBUTION
from promptkit.registry import SLOT_KINDS, Registry

PATIENCE = 10
"""Seconds that git has, so that a repository on a slow disk holds no run up."""


def packages_of(config: RunConfig, registry: Registry) -> dict[str, str]:
    """The packages that a run's recipe, components, backbone and data set come from, and what computes, by name.

    Each is a version, such as "2.7.0"; of a package that is installed in editable form from a git repository also the
    commit, "0.1.0, git 899989e2cc9c", and "-dirty" behind it where files differ from that.
    """
    named = {SLOT_KINDS[slot]: component.name for slot, component in config.components.items()}
    named |= {"recipe": config.recipe, "backbone": config.backbone.name, "dataset": config.data.dataset}
    entries = [registry.entries[kind][name] for kind, name in named.items() if name in registry.entries[kind]]
    versions = {DISTRIBUTION: promptkit.__version__, "torch": str(torch.__version__)}
    versions |= {"open_clip_torch": open_clip.__version__, **{entry.package: entry.version for entry in entries}}
    found = {name: (version, _commit(name)) for name, version in sorted(versions.items())}
    return {name: f"{version}, git {commit}" if commit else version for name, (version, commit) in found.items()}


def trained_and_tested(trained: Mapping[str, str], tested: Mapping[str, str]) -> dict[str, str]:
    """The packages of a result: those of the training, and where the test was made with another version, both."""
    return {
        name: version if tested.get(name, version) == version else f"{version}; tested with {tested[name]}"
        for name, version in trained.items()
    }


@cache
def _commit(package: str) -> str:
    """Of the repository that an editable package lies in, where git knows it; else ""."""
    try:
        origin = json.loads(distribution(package).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return ""
    if not origin.get("dir_info", {}).get("editable"):
        return ""
    folder = url2pathname(urlsplit(origin["url"]).path)
    words = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

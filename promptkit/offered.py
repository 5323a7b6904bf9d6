"""The names that promptkit is installed under, and the learners that are published with it."""

from pathlib import Path

DISTRIBUTION = "clip-promptkit"
"""On the package index, `promptkit` is somebody else's."""

LEARNERS = {
    "coop": "coop",
    "cocoop": "coop",
    "gopro": "gopro",
    "gopro-reference": "gopro",
    "tpt": "zoo",
    "tda": "zoo",
    "cupl": "zoo",
    "clip-adapter": "zoo",
    "clip-lora": "zoo",
    "kgcoop": "zoo",
    "maple": "zoo",
    "mmrl": "zoo",
    "plot": "zoo",
    "prograd": "zoo",
    "promptsrc": "zoo",
    "rpo": "zoo",
    "tcp": "zoo",
    "tip-adapter": "zoo",
    "vpt": "zoo",
    "coprompt": "zoo",
    "dapl": "zoo",
    "proda": "zoo",
    "promptkd": "zoo",
    "stylip": "zoo",
    "taskres": "zoo",
}
"""By recipe, the folder below plugins/ of the package that offers it."""

PACKAGES = {recipe: f"{DISTRIBUTION}-{folder}" for recipe, folder in LEARNERS.items()}
"""By recipe, the package that offers it."""


def foreign_package() -> str:
    """The `promptkit` of another project, with its version, where it is installed here; else ""."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"promptkit {version('promptkit')}"
    except PackageNotFoundError:
        return ""


def plugin_folder(name: str) -> Path | None:
    """Where the package of ours that a word means (a recipe, a package, gopro, an example such as lasp) lies in the clone
    that this code runs from."""
    clone, folder = Path(__file__).parents[1], LEARNERS.get(name, name.removeprefix(f"{DISTRIBUTION}-"))
    path = clone / "plugins" / folder
    if folder not in LEARNERS.values():
        path = clone / "examples" / name
    inside = folder == Path(folder).name and folder != ".."
    return path if inside and (path / "pyproject.toml").is_file() else None

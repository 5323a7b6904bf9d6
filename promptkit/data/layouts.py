"""What is on disk -> a Dataset: class folders, with or without domains and splits, or a manifest that lists pictures.

Nothing is ever written into the data folder.
"""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from promptkit.data.formats import is_picture, suffix_of, unread, unread_advice
from promptkit.data.manifests import SPLITS, Row, read_manifest
from promptkit.data.manifests import SUFFIXES as MANIFESTS
from promptkit.errors import DataError, UnknownNameError
from promptkit.files import checked_json, is_text, missing, text_of

log = logging.getLogger("promptkit")

NAME_FILES = ("classnames.json", "classnames.txt")
PATTERNS = (("class",), ("split", "class"), ("domain", "class"), ("domain", "split", "class"))


def _pattern(kinds: tuple[str, ...]) -> str:
    return "/".join(f"<{kind}>" for kind in kinds) + "/<image>"


HELP = f"known layouts: {', '.join(map(_pattern, PATTERNS))}, or a manifest (*.csv, *.jsonl)"


@dataclass(frozen=True, slots=True)
class Item:
    """One picture. `domain` is "" where the data has no domains, `split` None where it gives no splits."""

    path: Path
    label: int
    domain: str
    split: str | None


@dataclass(frozen=True)
class Dataset:
    """Pictures with labels. `layout` is one line for people; `classnames[label]` is the name for prompts."""

    root: Path
    layout: str
    classnames: tuple[str, ...]
    domains: tuple[str, ...]
    """Sorted; () where the data has none."""
    items: tuple[Item, ...]
    """Sorted by path, or in the order of the manifest."""
    skipped: int
    """Files that are no images, hidden ones included."""
    split_source: Literal["given", "published", "drawn"] = "given"
    """Whose split it has or will have: a folder's or manifest's, a named data set's, or one that promptkit draws."""
    found: int = 0
    """Pictures that were opened, before splits, shots and classes chose among them (`open_dataset`)."""

    def relative(self, item: Item) -> str:
        """The path below the root with "/" between its parts; a picture from elsewhere keeps its whole path."""
        return item.path.as_posix().removeprefix(self.root.as_posix() + "/")

    def by_domain(self) -> dict[str, list[Item]]:
        """The items of each domain, in their order; all of them under "all" where the data has no domains."""
        items: dict[str, list[Item]] = {domain: [] for domain in self.domains or ("all",)}
        for item in self.items:
            items[item.domain or "all"].append(item)
        return items

    def counts(self, split: str | None = None) -> tuple[int, ...]:
        """Pictures per class, of one split or of all."""
        counts = [0] * len(self.classnames)
        for item in self.items:
            counts[item.label] += split in (None, item.split)
        return tuple(counts)

    def fingerprint(self) -> str:
        """A hash of what is learned from, wherever the root lies: the class names, and of every picture, by its relative
        path, the size (-1 for what is gone), label, domain and split."""
        lines = []
        for item in self.items:
            try:
                size = item.path.stat().st_size
            except OSError:
                size = -1
            lines.append(f"{self.relative(item)}\0{size}\0{item.label}\0{item.domain}\0{item.split}\n")
        names = "\0".join(self.classnames) + "\n"
        return hashlib.sha256((names + "".join(sorted(lines))).encode(errors="surrogateescape")).hexdigest()


def read_dataset(path: Path, domains: Sequence[str] = (), classes: Sequence[str] = ()) -> Dataset:
    """Read a folder of pictures, or a manifest (*.csv, *.jsonl), keeping only the domains and classes that are named.

    A class is named by its folder or by its name for prompts. Labels follow the sorted folder names, from 0. A folder
    without class folders but with exactly one manifest is read through it.

    Raises DataError when there is nothing to read, the layout is unclear, the domains differ in their classes or fewer
    than two classes are left; UnknownNameError for a domain or class that the data doesn't have.
    """
    if os.path.isdir(path):  # unlike Path.is_dir, never raises
        folders, skipped, others = _scan(path)
        if others and not any(folders.values()):
            raise DataError(f"{path} holds no pictures that are read: {unread(others)}", HELP)
        if others:
            count = "1 picture is" if others.total() == 1 else f"{others.total()} pictures are"
            log.warning("%s: %s not read: %s", path, count, unread(others))
        filled = sorted(parts for parts, names in folders.items() if names)
        manifests = [file for file in path.glob("[!.]*") if file.suffix.lower() in MANIFESTS and file.is_file()]
        class_folders = {parts[-1] for parts in filled if parts and parts[-1].lower() not in SPLITS}
        if len(class_folders) < 2 and len(manifests) == 1:
            return read_dataset(manifests[0], domains, classes)
        if len(class_folders) < 2 and manifests:
            listing = _listing({file.name for file in manifests})
            raise DataError(f"{path} holds several manifests and no class folders", f"give one of {listing}")
        kinds = _layout(path, filled)
        rows = _folder_rows(path, kinds, {parts: folders[parts] for parts in filled})
        empty = len(folders) - len(filled)
        layout = _pattern(kinds) + (f", {_many(empty, 'folder')} without pictures" if empty else "")
        return _dataset(path, path, rows, layout, skipped, domains, classes)
    if not os.path.exists(path):
        raise DataError(*missing(path, "folder or manifest"))
    if path.suffix.lower() in MANIFESTS:
        return _dataset(path.parent, path, read_manifest(path), path.name, 0, domains, classes)
    kind = "a picture" if is_picture(path.name) else "neither a folder nor a manifest (*.csv, *.jsonl)"
    raise DataError(f"{path} is {kind}", "give the folder that holds the class folders")


def _scan(root: Path) -> tuple[dict[tuple[str, ...], list[str]], int, Counter[str]]:
    """Folders that hold pictures or no folders, as their parts -> sorted picture names; how many files are no pictures;
    how many are pictures that are not read, by suffix.

    A picture is known by its suffix: no file is looked at, which keeps ImageNet-sized trees quick.
    """
    folders: dict[tuple[str, ...], list[str]] = {}
    skipped, others = 0, Counter[str]()

    def visit(parts: tuple[str, ...], ancestors: frozenset[str]) -> None:
        nonlocal skipped
        images, inner = [], []
        folder = os.path.join(root, *parts)
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        skipped += 1
                    elif _is_dir(entry):
                        inner.append(entry.name)
                    elif is_picture(entry.name):
                        images.append(entry.name)
                    elif unread_advice(suffix := suffix_of(entry.name)):
                        others[suffix] += 1
                    elif parts or entry.name not in NAME_FILES:
                        skipped += 1
        except OSError as error:
            raise DataError(f"{folder} can't be read: {error.strerror}") from error
        if images or (parts and not inner):
            folders[parts] = sorted(images)
        for name in sorted(inner):
            real = os.path.realpath(os.path.join(folder, name))
            # A link to a folder that we are in would go round for ever. One level more than any layout has is enough
            # to see that the pictures lie too deep.
            if real not in ancestors and len(parts) <= max(map(len, PATTERNS)):
                visit((*parts, name), ancestors | {real})

    visit((), frozenset({os.path.realpath(root)}))
    return folders, skipped, others


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _layout(root: Path, filled: list[tuple[str, ...]]) -> tuple[str, ...]:
    """What each level of folders is, decided by where the pictures are and which names the levels share."""
    if not filled:
        raise DataError(f"{root} holds no pictures", HELP)
    shallow, deep = min(filled, key=len), max(filled, key=len)
    if len(shallow) != len(deep):
        where = [str(Path(*parts)) + "/<image>" if parts else "<image>" for parts in (shallow, deep)]
        raise DataError(f"{root} has pictures at different depths: {where[0]} and {where[1]}", HELP)
    if not shallow:
        raise DataError(f"{root} holds pictures, but no class folders", HELP)
    levels = [{parts[depth] for parts in filled} for depth in range(len(shallow))]
    match [_split_names(level) for level in levels]:
        case ["none"] | ["some"]:
            return ("class",)
        case ["all", "none"] | ["all", "some"]:
            return ("split", "class")
        case ["none", "none"] | ["none", "some"]:
            if len(levels[0]) > 1 and len(levels[1]) == len(filled):
                raise DataError(
                    f"{root} can be read in two ways: <domain>/<class>/<image>, but the domains {_listing(levels[0])} "
                    f"have no class in common; or <class>/<image>, but the pictures lie one folder deeper",
                    "give the domains the same class folders, or put the pictures straight into the class folders",
                )
            return ("domain", "class")
        case ["some", _]:
            splits = {name for name in levels[0] if name.lower() in SPLITS}
            raise DataError(
                f"{root} can be read in two ways: <split>/<class>/<image>, but {_listing(levels[0] - splits)} is no "
                f"split; or <domain>/<class>/<image>, with {_listing(splits)} as domains",
                "move the folders that don't belong out of the way",
            )
        case ["none", "all", "none"] | ["none", "all", "some"]:
            return ("domain", "split", "class")
    raise DataError(f"{root} has pictures at {Path(*shallow)}/<image>, which is no known layout", HELP)


def _split_names(level: set[str]) -> str:
    known = sum(name.lower() in SPLITS for name in level)
    return "none" if not known else "all" if known == len(level) else "some"


def _folder_rows(root: Path, kinds: tuple[str, ...], folders: dict[tuple[str, ...], list[str]]) -> list[Row]:
    rows = []
    for parts, names in folders.items():
        level = dict(zip(kinds, parts, strict=True))
        split = SPLITS[level["split"].lower()] if "split" in level else None
        folder = root.joinpath(*parts)
        rows += [Row(folder / name, level["class"], level.get("domain", ""), split) for name in names]
    return rows


def _dataset(
    root: Path,
    source: Path,
    rows: list[Row],
    layout: str,
    skipped: int,
    domains: Sequence[str],
    classes: Sequence[str],
) -> Dataset:
    """Restrict to domains and classes, check that the domains agree, and number the classes."""
    all_domains = {row.domain for row in rows} - {""}
    for domain in domains:
        if not all_domains:
            raise DataError(f"{source} has no domains, so there is no {domain!r}", "leave --domains out")
        if domain not in all_domains:
            raise UnknownNameError("domain", domain, all_domains)
    if domains:
        rows = [row for row in rows if row.domain in domains]
    found = sorted({row.domain for row in rows} - {""})
    names = _classnames(root, {row.folder for row in rows})
    if classes:
        kept: set[str] = set()
        for name in classes:
            matching = {folder for folder in names if name in (folder, names[folder])}
            if not matching:
                raise UnknownNameError("class", name, names.values())
            kept |= matching
        rows = [row for row in rows if row.folder in kept]
        names = {folder: names[folder] for folder in names if folder in kept}
    _check_domains(source, rows, found, names)
    _check_names(source, names, found)

    labels = {folder: label for label, folder in enumerate(names)}
    items = tuple(Item(row.path, labels[row.folder], row.domain, row.split) for row in rows)
    counts = [_many(len(found), "domain")] if found else []
    counts += [_many(len(names), "class"), _many(len(items), "picture")]
    return Dataset(root, f"{', '.join(counts)} ({layout})", tuple(names.values()), tuple(found), items, skipped)


def _classnames(root: Path, folders: set[str]) -> dict[str, str]:
    """Sorted folders -> names for prompts: `_` is a space, unless classnames.json or classnames.txt says otherwise."""
    given: dict[str, str] = {}
    try:
        if (file := root / "classnames.json").is_file():
            given = checked_json(dict[str, str], text_of(file))
        elif (file := root / "classnames.txt").is_file():
            for number, line in enumerate(text_of(file).splitlines(), 1):
                folder, _, name = line.strip().partition(" ")
                if folder and not name:
                    raise DataError(f"{file}, line {number}: no name after {folder!r}", "a line is <folder> <name ...>")
                given[folder] = name
    except (OSError, ValueError) as error:
        raise DataError(f"{file} can't be read: {error}") from error
    return {folder: given.get(folder, folder.replace("_", " ")).strip() for folder in sorted(folders)}


def _check_domains(source: Path, rows: list[Row], domains: list[str], names: dict[str, str]) -> None:
    pairs = {(row.domain, row.folder) for row in rows}
    for domain in domains:
        if lacking := {folder for folder in names if (domain, folder) not in pairs}:
            if source.is_dir():
                empty = {folder for folder in lacking if (source / domain / folder).is_dir()}
                lacking = (lacking - empty) | {f"{folder} (empty)" for folder in empty}
                message = f"{source / domain} lacks class folders that other domains have: {_listing(lacking)}"
            else:
                message = f"domain {domain!r} of {source} lacks classes that other domains have: {_listing(lacking)}"
            raise DataError(message, "every domain needs the same classes; --classes restricts them")


def _check_names(source: Path, names: dict[str, str], domains: Sequence[str]) -> None:
    if broken := [name for name in (*names, *names.values(), *domains) if not is_text(name)]:
        raise DataError(f"{source}: the name {broken[0]!r} is not in UTF-8", "rename the folder")
    folders_by_name: dict[str, str] = {}
    for folder, name in names.items():
        if not name:
            raise DataError(f"class {folder!r} of {source} has an empty name", "classnames.json can name it")
        if (other := folders_by_name.setdefault(name, folder)) != folder:
            raise DataError(
                f"{source}: classes {other!r} and {folder!r} have the same name, {name!r}",
                "classnames.json can give them different names",
            )
    if len(names) < 2:
        raise DataError(
            f"{source} has only one class, {next(iter(names.values()))!r}; two or more are needed",
            "is it the folder that holds the class folders?",
        )


def _many(number: int, noun: str) -> str:
    plural = {"class": "classes"}.get(noun, noun + "s")
    return f"{number} {noun if number == 1 else plural}"


def _listing(names: set[str]) -> str:
    return ", ".join(sorted(names))

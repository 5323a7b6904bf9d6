"""Five data sets of domain generalisation, in the folders of DomainBed and in those of Dassl, under one set of names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from promptkit.data.catalog import NamedDataset, dataset, inside, lines_of
from promptkit.data.layouts import Dataset, Item, read_dataset
from promptkit.errors import DataError

DOMAINBED = "DomainBed's download.py (github.com/facebookresearch/DomainBed)"
BROKEN = {"sketch/dog/n02103406_4068-1.png"}
"""Pictures of PACS that Dassl's reader leaves out (`dassl/data/datasets/dg/pacs.py`), and DomainBed's does not."""
VLCS_NAMES = ("bird", "car", "chair", "dog", "person")
"""In some copies of VLCS the class folders are called 0 to 4."""

Reader = Callable[[Path], Dataset]
PACS = ("art_painting", "cartoon", "photo", "sketch")
DOMAINNET = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")


def folders(title: str, domains: Mapping[str, str]) -> Reader:
    """<domain>/<class>, or <domain>/<split>/<class>. `domains`: folder -> the domain's name."""

    def read(folder: Path) -> Dataset:
        if missing := [name for name in domains if not (folder / name).is_dir()]:
            raise DataError(
                f"{folder} lacks the domain {', '.join(missing)} of {title}", "without --dataset any domains will do"
            )
        found = read_dataset(folder, list(domains))
        items = [replace(item, domain=domains[item.domain]) for item in found.items]
        numbered = found.classnames == tuple("01234") and title == "VLCS"
        names = VLCS_NAMES if numbered else found.classnames
        kind = "Dassl" if any(item.split for item in items) else "DomainBed"
        return dataset(
            title, folder, f"{kind}'s folders", names, items, sorted(set(domains.values())), skipped=found.skipped
        )

    return read


def lists(title: str, domains: Sequence[str], images: str, suffixes: Mapping[str, str], first: int) -> Reader:
    """splits/<domain>_<suffix>.txt hold `path label`; `suffixes`: suffix -> split, `first`: the lowest label.

    A picture in several lists belongs to the first one: PACS repeats all its pictures in the list for testing.
    """

    def read(folder: Path) -> Dataset:
        items: dict[Path, Item] = {}
        folder_of_label: dict[int, str] = {}
        for domain in domains:
            for suffix, split in suffixes.items():
                file = folder / "splits" / f"{domain}_{suffix}.txt"
                for number, line in enumerate(lines_of(file, f"Dassl's list for {title}"), 1):
                    where = f"{file}, line {number}"
                    relative, _, label_text = line.rpartition(" ")
                    name = Path(relative).parent.name
                    if not name or not label_text.isdecimal() or int(label_text) < first:
                        raise DataError(
                            f"{where}: {line!r}", f"expected: <domain>/<class>/<image> <label from {first}>"
                        )
                    label = int(label_text) - first
                    if folder_of_label.setdefault(label, name) != name:
                        raise DataError(
                            f"{where}: label {label_text} is {name!r} here, {folder_of_label[label]!r} before"
                        )
                    if title != "PACS" or relative not in BROKEN:
                        path = inside(folder / images, relative, where)
                        items.setdefault(path, Item(path, label, domain, split))
        names = [folder_of_label[label].replace("_", " ") for label in sorted(folder_of_label)]
        if sorted(folder_of_label) != list(range(len(names))):
            raise DataError(f"{folder / 'splits'}: labels are not {first}, {first + 1}, ... without a gap")
        return dataset(title, folder, "Dassl's lists", names, items.values(), domains)

    return read


def entry(title: str, places: Mapping[str, Reader], source: str = DOMAINBED) -> NamedDataset:
    """`places`: folder below the root and what tells the form -> its reader; the first that is there is read.

    A place is "<folder>" or "<folder>/<a file or folder that only this form has>".
    """

    def read(root: Path) -> Dataset:
        for place, reader in places.items():
            if (root / place).exists():
                return reader(root / place.split("/")[0])
        known = list(dict.fromkeys(place.split("/")[0] for place in places))
        inner = root.name in known and root.name
        raise DataError(
            f"{root} holds no {' or '.join(known)}, the folder of {title}",
            f"--data is the folder that holds {inner}: --data {root.parent}" if inner else f"to be had by {source}",
        )

    return NamedDataset(title, read, " or ".join(dict.fromkeys(place.split("/")[0] for place in places)), source)


def _same(names: Sequence[str]) -> dict[str, str]:
    return {name: name for name in names}


_OFFICE = {"Art": "Art", "Clipart": "Clipart", "Product": "Product", "Real World": "Real World"}

GENERALIZATION: dict[str, NamedDataset] = {
    "pacs": entry(
        "PACS",
        {
            "PACS/photo": folders("PACS", _same(PACS)),
            "pacs/splits": lists(
                "PACS",
                PACS,
                "images",
                {"train_kfold": "train", "crossval_kfold": "val", "test_kfold": "test"},
                first=1,
            ),
        },
    ),
    "vlcs": entry(
        "VLCS",
        {
            "VLCS/CALTECH": folders(
                "VLCS", {"CALTECH": "Caltech101", "LABELME": "LabelMe", "PASCAL": "VOC2007", "SUN": "SUN09"}
            ),
            "VLCS": folders("VLCS", _same(("Caltech101", "LabelMe", "SUN09", "VOC2007"))),
        },
    ),
    "office_home": entry(
        "OfficeHome",
        {
            "office_home": folders("OfficeHome", _OFFICE),
            "office_home_dg": folders(
                "OfficeHome", {"art": "Art", "clipart": "Clipart", "product": "Product", "real_world": "Real World"}
            ),
        },
    ),
    "terra_incognita": entry(
        "TerraIncognita",
        {"terra_incognita": folders("TerraIncognita", _same([f"location_{n}" for n in (38, 43, 46, 100)]))},
    ),
    "domainnet": entry(
        "DomainNet",
        {
            "domain_net": folders("DomainNet", _same(DOMAINNET)),
            "domainnet/splits": lists("DomainNet", DOMAINNET, ".", {"train": "train", "test": "test"}, first=0),
        },
    ),
}

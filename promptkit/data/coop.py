"""The fifteen data sets of CoOp, as its DATASETS.md lays them out below one root and its `datasets/*.py` read them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from annotated_types import Ge

from promptkit.data.catalog import PHOTO, NamedDataset, dataset, folder_of, folders_in, images_in, inside, lines_of
from promptkit.data.layouts import Dataset, Item
from promptkit.errors import DataError
from promptkit.files import checked_json, text_of

DATASETS_MD = "CoOp's DATASETS.md (github.com/KaiyangZhou/CoOp)"
MAX_SPLIT_FILE = 2**30
"""Bytes."""
DRAW = "or let promptkit draw 50/20/30: --split draw"

CALTECH_SKIPPED = ("BACKGROUND_Google", "Faces_easy")
CALTECH_NAMES = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}
EUROSAT_NAMES = {
    "AnnualCrop": "Annual Crop Land",
    "Forest": "Forest",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "River": "River",
    "SeaLake": "Sea or Lake",
}


def spoken(name: str) -> str:
    """A class name as it stands in a prompt: the published learners replace `_` too."""
    return name.replace("_", " ").strip()


Row = tuple[str, Annotated[int, Ge(0)], str]


@dataclass(frozen=True)
class Split:
    """What a split file holds: rows of path, label and class name."""

    train: list[Row]
    val: list[Row] = field(default_factory=list)
    test: list[Row] = field(kw_only=True)


def read_split(title: str, folder: Path, images: Path, file: Path, hint: str) -> Dataset:
    """Pictures in the order of the split file, which the few-shot rule depends on, with its labels and class names."""
    try:
        lists = checked_json(Split, text_of(file, MAX_SPLIT_FILE))
    except FileNotFoundError:
        raise DataError(f"{title} has no split file {file}", hint) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is no split file: {error}", "its lists are of [path, label, class name]") from None
    names: dict[int, str] = {}
    items = []
    for split in ("train", "val", "test"):
        for number, (path, label, name) in enumerate(getattr(lists, split)):
            where = f"{file}, {split}.{number}"
            if names.setdefault(label, name) != name:
                raise DataError(f"{where}: label {label} is {name!r} here and {names[label]!r} before")
            items.append(Item(inside(images, path, where), label, "", split))
    if names and len(names) <= max(names):
        missing = next(label for label in range(len(names)) if label not in names)
        raise DataError(f"{file} has no picture with label {missing}", "labels are 0, 1, 2, ... without a gap")
    return dataset(title, images, file.name, [spoken(names[label]) for label in sorted(names)], items)


def with_split_file(
    title: str,
    folder: str,
    images: str,
    file: str,
    source: str,
    templates: tuple[str, ...] = PHOTO,
    unsplit: Callable[[Path], list[tuple[Path, str]]] | None = None,
) -> NamedDataset:
    """A data set whose splits and names stand in a file. `unsplit`: image folder -> pictures with their class names."""

    def read(root: Path) -> Dataset:
        base = folder_of(root, folder, f"{title}, from {source},")
        path = base / file
        hint = f"promptkit data get {title} --to {root} adds it{', ' + DRAW if unsplit else ''}"
        return read_split(title, base, folder_of(base, images, f"{title}'s pictures"), path, hint)

    def read_images(root: Path) -> Dataset:
        base = folder_of(root, folder, f"{title}, from {source},")
        images_folder = folder_of(base, images, f"{title}'s pictures")
        assert unsplit is not None
        found = unsplit(images_folder)
        names = sorted({name for _, name in found})
        labels = {name: label for label, name in enumerate(names)}
        items = [Item(path, labels[name], "", None) for path, name in found]
        return dataset(title, images_folder, "without its split file", [spoken(name) for name in names], items)

    place = f"{folder}/{images}" if images != "." else folder
    split = f"{folder}/{file}"
    return NamedDataset(title, read, f"{place}, {split}", source, templates, read_images if unsplit else None, split)


def class_folders(
    names: Mapping[str, str] = MappingProxyType({}), skipped: Sequence[str] = ()
) -> Callable[[Path], list[tuple[Path, str]]]:
    """Finds <class>/<image>. `names`: folder -> class name, where the two differ."""

    def find(images: Path) -> list[tuple[Path, str]]:
        folders = [folder for folder in folders_in(images) if folder not in skipped]
        return [(path, names.get(folder, folder)) for folder in folders for path in images_in(images / folder)]

    return find


def sun_folders(images: Path) -> list[tuple[Path, str]]:
    """Finds <letter>/<class>/<image> and <letter>/<class>/<kind>/<image>; the latter is called "<kind> <class>"."""
    found = []
    for letter in folders_in(images):
        for name in folders_in(images / letter):
            folder = images / letter / name
            found += [(path, name) for path in images_in(folder)]
            for kind in folders_in(folder):
                found += [(path, f"{kind} {name}") for path in images_in(folder / kind)]
    return found


def breeds(images: Path) -> list[tuple[Path, str]]:
    """Finds <Breed_of_pet>_<number>.jpg."""
    return [(path, path.stem.rpartition("_")[0].lower()) for path in images_in(images) if "_" in path.stem]


# FGVCAircraft


def read_aircraft(root: Path) -> Dataset:
    """images_variant_{train,val,test}.txt hold `<id> <name ...>`; labels follow variants.txt."""
    folder = folder_of(root, "fgvc_aircraft", "FGVCAircraft")
    names = lines_of(folder / "variants.txt", "the list of FGVCAircraft's variants")
    labels = {name: label for label, name in enumerate(names)}
    items = []
    for split in ("train", "val", "test"):
        file = folder / f"images_variant_{split}.txt"
        for number, line in enumerate(lines_of(file, f"FGVCAircraft's {split} list"), 1):
            image, _, name = line.partition(" ")
            where = f"{file}, line {number}"
            if name.strip() not in labels:
                raise DataError(f"{where}: {name.strip()!r} is not in variants.txt")
            path = inside(folder / "images", f"{image}.jpg", where)
            items.append(Item(path, labels[name.strip()], "", split))
    return dataset("FGVCAircraft", folder, "images_variant_*.txt", names, items)


# ImageNet and its variants


def imagenet_names(root: Path, folder: Path) -> dict[str, str]:
    """classnames.txt (`n01440764 tench`) in its order, from the data set's own folder or from ImageNet's."""
    own, imagenet = folder / "classnames.txt", root / "imagenet" / "classnames.txt"
    file = own if own.is_file() or not imagenet.is_file() else imagenet
    names = {}
    for number, line in enumerate(lines_of(file, f"CoOp's classnames.txt (the link is in {DATASETS_MD})"), 1):
        wnid, _, name = line.partition(" ")
        if not name.strip():
            raise DataError(f"{file}, line {number}: no name after {wnid!r}", "a line is like: n01440764 tench")
        names[wnid] = name.strip()
    return names


def _named_folders(folder: Path, names: Mapping[str, str]) -> list[str]:
    """The class folders. Raises DataError for one that classnames.txt doesn't name."""
    wnids = folders_in(folder)
    for wnid in wnids:
        if wnid not in names:
            raise DataError(f"classnames.txt has no name for {folder / wnid}", "is it the folder of a class?")
    return wnids


def read_imagenet(root: Path) -> Dataset:
    """Trains on images/train and tests on images/val, which the published code takes for val too."""
    folder = folder_of(root, "imagenet", "ImageNet (ILSVRC 2012)")
    names = imagenet_names(root, folder)
    parts = {
        "train": folder_of(folder, "images/train", "ImageNet's training folders"),
        "test": folder_of(folder, "images/val", "ImageNet's validation pictures, in class folders,"),
    }
    wnids = sorted({wnid for part in parts.values() for wnid in _named_folders(part, names)})
    items = [
        Item(path, label, "", split)
        for split, part in parts.items()
        for label, wnid in enumerate(wnids)
        if (part / wnid).is_dir()
        for path in images_in(part / wnid)
    ]
    return dataset("ImageNet", folder, "images/train and images/val", [names[wnid] for wnid in wnids], items)


def variant(title: str, place: str, source: str) -> NamedDataset:
    """A test set in folders n*; labels are the rank among them, so that A and R have 200 classes, as published."""

    def read(root: Path) -> Dataset:
        images = folder_of(root, place, f"{title}, from {source},")
        names = imagenet_names(root, root / place.split("/")[0])
        wnids = _named_folders(images, names)
        items = [Item(path, label, "", "test") for label, wnid in enumerate(wnids) for path in images_in(images / wnid)]
        return dataset(title, images, "test only", [names[wnid] for wnid in wnids], items)

    return NamedDataset(title, read, f"{place}, {place.split('/')[0]}/classnames.txt", source)


def read_imagenetv2(root: Path) -> Dataset:
    """Folders 0 to 999, each the place of its class in classnames.txt."""
    images = folder_of(root, "imagenetv2/imagenetv2-matched-frequency-format-val", "ImageNetV2, matched frequency,")
    names = list(imagenet_names(root, root / "imagenetv2").values())
    folders = folders_in(images)
    for folder in folders:
        if not folder.isdecimal() or int(folder) >= len(names):
            raise DataError(f"{images / folder} is none of the classes 0 to {len(names) - 1} of classnames.txt")
    folders.sort(key=int)
    items = [Item(path, int(folder), "", "test") for folder in folders for path in images_in(images / folder)]
    return dataset("ImageNetV2", images, "test only", names, items)


COOP: dict[str, NamedDataset] = {
    "imagenet": NamedDataset(
        "ImageNet",
        read_imagenet,
        "imagenet/images/{train,val}/n*, imagenet/classnames.txt",
        "image-net.org, after a registration there",
    ),
    "caltech101": with_split_file(
        "Caltech101",
        "caltech-101",
        "101_ObjectCategories",
        "split_zhou_Caltech101.json",
        "data.caltech.edu/records/mzrjq-6wc02",
        unsplit=class_folders(CALTECH_NAMES, CALTECH_SKIPPED),
    ),
    "oxford_pets": with_split_file(
        "OxfordPets",
        "oxford_pets",
        "images",
        "split_zhou_OxfordPets.json",
        "www.robots.ox.ac.uk/~vgg/data/pets",
        ("a photo of a {}, a type of pet.",),
        breeds,
    ),
    "stanford_cars": with_split_file("StanfordCars", "stanford_cars", ".", "split_zhou_StanfordCars.json", DATASETS_MD),
    "oxford_flowers": with_split_file(
        "Flowers102",
        "oxford_flowers",
        "jpg",
        "split_zhou_OxfordFlowers.json",
        "www.robots.ox.ac.uk/~vgg/data/flowers/102",
        ("a photo of a {}, a type of flower.",),
    ),
    "food101": with_split_file(
        "Food101",
        "food-101",
        "images",
        "split_zhou_Food101.json",
        "data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
        ("a photo of {}, a type of food.",),
        class_folders(),
    ),
    "fgvc_aircraft": NamedDataset(
        "FGVCAircraft",
        read_aircraft,
        "fgvc_aircraft/images, fgvc_aircraft/variants.txt, fgvc_aircraft/images_variant_{train,val,test}.txt",
        "www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft (the folder data/ of the archive, renamed)",
        ("a photo of a {}, a type of aircraft.",),
    ),
    "sun397": with_split_file(
        "SUN397",
        "sun397",
        "SUN397",
        "split_zhou_SUN397.json",
        "vision.princeton.edu/projects/2010/SUN",
        unsplit=sun_folders,
    ),
    "dtd": with_split_file(
        "DTD",
        "dtd",
        "images",
        "split_zhou_DescribableTextures.json",
        "www.robots.ox.ac.uk/~vgg/data/dtd",
        ("{} texture.",),
        class_folders(),
    ),
    "eurosat": with_split_file(
        "EuroSAT",
        "eurosat",
        "2750",
        "split_zhou_EuroSAT.json",
        "github.com/phelber/EuroSAT (the RGB pictures)",
        ("a centered satellite photo of {}.",),
        class_folders(EUROSAT_NAMES),
    ),
    "ucf101": with_split_file(
        "UCF101",
        "ucf101",
        "UCF-101-midframes",
        "split_zhou_UCF101.json",
        f"{DATASETS_MD}: the middle frame of every video",
        ("a photo of a person doing {}.",),
        class_folders(),
    ),
    "imagenetv2": NamedDataset(
        "ImageNetV2",
        read_imagenetv2,
        "imagenetv2/imagenetv2-matched-frequency-format-val/{0..999}, imagenetv2/classnames.txt",
        "github.com/modestyachts/ImageNetV2 (matched frequency)",
    ),
    "imagenet_sketch": variant("ImageNet-Sketch", "imagenet-sketch/images", "github.com/HaohanWang/ImageNet-Sketch"),
    "imagenet_a": variant("ImageNet-A", "imagenet-adversarial/imagenet-a", "github.com/hendrycks/natural-adv-examples"),
    "imagenet_r": variant("ImageNet-R", "imagenet-rendition/imagenet-r", "github.com/hendrycks/imagenet-r"),
}
"""By the names of CoOp's configs/datasets."""

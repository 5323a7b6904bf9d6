"""Where the pictures of CoOp's data sets and its split files are to be had, each with a checksum.

Torchvision's classes have the publishers' addresses. What these no longer have, or never had in this form, is in a
repository of the hub that PromptKD's authors keep (their README says so), laid out as CoOp's DATASETS.md. `docs/data.md`
says whose the checksums are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

SPLITS = (
    "https://raw.githubusercontent.com/linzhiqiu/cross_modal_adaptation/ac9077ee4e422f768c9b9109551468605e33ec9a/splits"
)
"""CoOp has its split files on Google Drive, without checksums; this is the repository of a paper that has the same ones."""
SPLITS_ARE = "CoOp's, as github.com/linzhiqiu/cross_modal_adaptation has it"
NAMES = "classnames.txt"
"""CoOp's names of ImageNet's classes, which are on Google Drive alone."""


@dataclass(frozen=True)
class Torchvision:
    """A class of torchvision downloads it from its publisher, and compares checksums."""

    kind: str
    """Of torchvision.datasets."""
    made: str
    """The folder that it makes of it, below its own root."""
    md5: Mapping[str, str] = field(default_factory=dict)
    """Of archives of which torchvision has no checksum."""

    def __str__(self) -> str:
        return f"torchvision's {self.kind}"


@dataclass(frozen=True)
class Hub:
    """An archive in a repository of the Hugging Face hub, at a revision."""

    repository: str
    file: str
    sha256: str
    revision: str
    kind: str = "model"
    """Of repository, as the hub calls it."""

    def __str__(self) -> str:
        return f"the hub's {self.repository}"


@dataclass(frozen=True)
class Download:
    """How a data set of the catalogue is fetched."""

    source: Torchvision | Hub
    size: int
    """Bytes to download, as torchvision, the hub or TensorFlow's catalogue of data sets says."""
    terms: str
    """Of its publisher, in short."""
    split: str = ""
    """What git calls the content of its split file; "" where it has none."""
    names: bool = False
    """Does it need NAMES?"""


MIRROR = partial(Hub, "zhengli97/prompt_learning_dataset", revision="ceb3112337fb6e1bf71534e355ca5569b63f19a6")
NONE_STATED = "none stated"

DOWNLOADS: dict[str, Download] = {
    "caltech101": Download(
        Torchvision("Caltech101", "caltech101"),
        137_000_000,
        "CC BY 4.0",
        "8be694a80de04a39fb159c462bea9696aa47ccf1",
    ),
    "oxford_pets": Download(
        Torchvision("OxfordIIITPet", "oxford-iiit-pet"),
        811_000_000,
        "CC BY-SA 4.0",
        "fa821d9f9e7d32fdf3640bf74fa7491ed04f37da",
    ),
    "stanford_cars": Download(
        MIRROR("stanford_cars.zip", "50812812f33534ef2906b992762f96e8a5bb57b0eedc53800e91b7ed599abf8e"),
        1_959_002_685,
        NONE_STATED,
        "dcdb8264712e9940e74cfb0f06ddb8f9cc239b81",
    ),
    "oxford_flowers": Download(
        Torchvision("Flowers102", "flowers-102"),
        345_000_000,
        NONE_STATED,
        "8d10037b0690b6c65e307a354b039efb0f42404c",
    ),
    "food101": Download(
        Torchvision("Food101", "food-101"),
        5_000_000_000,
        "scientific fair use",
        "39557040ee6501bd32aa8b5dfd75f7941a32f0a7",
    ),
    "fgvc_aircraft": Download(
        Torchvision(
            "FGVCAircraft",
            "fgvc-aircraft-2013b/data",
            {"fgvc-aircraft-2013b.tar.gz": "d4acdd33327262359767eeaa97a4f732"},
        ),
        2_750_000_000,
        "non-commercial research",
    ),
    "sun397": Download(
        MIRROR("sun397.zip", "ce6dee6685c9f1d592c8297e193dde885aa9c50d008fd998a38ccc57a3dda722"),
        39_182_693_483,
        NONE_STATED,
        "8d5725db8f70bcf02245665304f863e68f96a24c",
    ),
    "dtd": Download(
        Torchvision("DTD", "dtd/dtd"),
        626_000_000,
        "research",
        "8dd197a94b598fa44ee3c9e35c486dd017ab00a7",
    ),
    "eurosat": Download(
        Torchvision("EuroSAT", "eurosat"),
        94_000_000,
        "MIT",
        "6bdc847a5d5c49dcc78e8cb8707b87198cbfa5a4",
    ),
    "ucf101": Download(
        MIRROR("ucf101.zip", "2fe1bd40e64408d02ff173badf744da557033ae6c75dd4ea51519366551f3ae6"),
        140_164_538,
        NONE_STATED,
        "ea87e3de7b4f6f00fdd77618e34a23508b4c5590",
    ),
    "imagenetv2": Download(
        Hub(
            "vaishaal/ImageNetV2",
            "imagenetv2-matched-frequency.tar.gz",
            "f0c37fdf925916b19ea1323cd9a2208cdb6959ba2c32eef2a7fc393835c9ca7c",
            "d626240be2538720e83103a0e1178d24aca8b12c",
            "dataset",
        ),
        1_264_079_360,
        "MIT",
        names=True,
    ),
    "imagenet_sketch": Download(
        MIRROR("imagenet-sketch.zip", "8f93bc6064cf9d984a64b46925b7f53ab573224ca1c38a404d767b3565e3863f"),
        7_630_000_000,
        "MIT",
        names=True,
    ),
    "imagenet_a": Download(
        MIRROR("imagenet-adversarial.zip", "5c577c4cde2f2b1d999a1c26c9c7da31ea7fd4c47f7ad6bc4e6d71fcf646d099"),
        684_370_441,
        "MIT",
        names=True,
    ),
}
"""By the names of the catalogue. What is missing has to be asked for where the catalogue says."""

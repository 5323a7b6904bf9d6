"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from promptkit.errors import ConfigError

Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder of pictures: class/picture, split/class/picture, domain/class/picture, "
        "domain/split/class/picture; or a .csv or .jsonl manifest. With --dataset, the folder that holds its folder.",
        show_default=False,
    ),
]
DatasetName = Annotated[
    str | None,
    typer.Option(
        "--dataset", help="caltech101, oxford_pets, pacs, ...: see promptkit list dataset.", show_default=False
    ),
]
Domains = Annotated[str | None, typer.Option(help="Comma-separated; all of them by default.", show_default=False)]
Classes = Annotated[
    str | None,
    typer.Option(help="all, base (first half), new (second half), or a file with one name a line.", show_default=False),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        help="An open_clip architecture, local-dir:PATH, hf-hub:ORG/REPO, or a plugin's. ViT-B-16 by default.",
        show_default=False,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="An open_clip pretrained tag, a weights file, or none (random). openai by default.", show_default=False
    ),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.", show_default=False)]
Workers = Annotated[
    int | None, typer.Option(help="Processes that prepare pictures; -1 chooses.", show_default=False, min=-1)
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        help="Leave out a picture of more pixels, before it is decoded. 178956970 by default, and at most.",
        show_default=False,
        min=1,
        max=178_956_970,
    ),
]
BackboneDtype = Annotated[
    str | None,
    typer.Option(
        help="Arithmetic of the image tower: auto, float32 or bf16. auto is bf16 on a GPU made for it.",
        show_default=False,
    ),
]
MemoryGb = Annotated[
    float | None,
    typer.Option(
        help="What encoding text may hold; half of a GPU's memory, or a quarter of the machine's, by default.",
        show_default=False,
        min=0,
    ),
]
Templates = Annotated[
    Path | None,
    typer.Option(
        help="Hand-made prompts, one a line with {} for the class, for prompts that take them.", show_default=False
    ),
]
Cache = Annotated[
    bool,
    typer.Option("--cache/--no-cache", help="Keep what frozen image towers see for the next time."),
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at an unreadable picture instead of counting it.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show traces and debug lines.")]


def names(text: str) -> list[str]:
    """What a comma-separated list holds."""
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers(option: str, text: str) -> list[int]:
    """Raises ConfigError for a list that holds anything but whole numbers."""
    found = names(text)
    if not found or not all(name.isdecimal() for name in found):
        raise ConfigError(f"{option} {text}: expected whole numbers", f"such as: {option} 1,2,3")
    return [int(name) for name in found]


def read_templates(path: Path) -> str:
    """The templates of a file, one a line. Raises ConfigError when there are none."""
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}", "one template a line is expected") from None
    if not text:
        raise ConfigError(f"{path} holds no template", "a line is like: a photo of a {}.")
    return text

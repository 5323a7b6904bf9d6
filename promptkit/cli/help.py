"""`promptkit help`"""

import re
from importlib.resources import files
from typing import Annotated

import typer

from promptkit.errors import UnknownNameError


def help_(
    code: Annotated[str | None, typer.Argument(help="Of an error, such as E05.", show_default=False)] = None,
) -> None:
    """Say more about an error: what it may mean, and what to do. Without a code, list them."""
    from rich.markdown import Markdown

    from promptkit.cli.console import console

    known = sections()
    if code is None:
        for name, text in known.items():
            console().print(f"{name}  {title(text)}")
        console().print("promptkit COMMAND --help shows what a command takes")
        return
    if code.upper() not in known:
        raise UnknownNameError("error code", code, known)
    console().print(Markdown(known[code.upper()]))


def sections() -> dict[str, str]:
    """The page of what goes wrong, by code."""
    text = (files("promptkit") / "troubleshooting.md").read_text(encoding="utf-8")
    return {
        part[3:].partition(":")[0]: part for part in re.split(r"^(?=## )", text, flags=re.MULTILINE) if part.strip()
    }


def title(section: str) -> str:
    return section.partition(": ")[2].partition("\n")[0]

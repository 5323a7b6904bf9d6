"""Options that several commands share."""

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from promptkit.errors import ConfigError
from promptkit.files import text_of
from promptkit.settings import SLOTS, OptionField, Scalar, flagged, split_names

Templates = Annotated[
    Path | None,
    typer.Option(
        help="Hand-made prompts, one a line with {} for the class, for prompts that take them.", show_default=False
    ),
]
RUN_OR_RECIPE = "A folder that promptkit train made; or zeroshot, which needs no training, with --classes."
AskedClasses = Annotated[
    str,
    typer.Option(
        "--classes",
        help="What to ask about: trained (the classes of the training), names such as cat,dog, or a file with one class "
        "name a line.",
    ),
]
Cache = Annotated[
    bool,
    typer.Option("--cache/--no-cache", help="Keep what frozen image towers see for the next time."),
]
Given = Mapping[str, Scalar]
"""What was typed of the settings, by `slot.field`; see `with_settings`."""
NOTHING: Given = MappingProxyType({})
Debug = Annotated[bool, typer.Option("--debug", help="Show traces and debug lines.")]


def with_settings(
    command: str, slots: Mapping[str, type] = SLOTS
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command function an option for every setting that is marked for the command.

    They take the place of its parameter `given`, which receives what was typed, by `slot.field`.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        marked = flagged(command, slots)

        @functools.wraps(function)
        def with_given(**words: Any) -> None:
            typed = {key: words.pop(_variable(name)) for name, (key, _) in marked.items()}
            function(**words, given={key: value for key, value in typed.items() if value is not None})

        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            if parameter.name == "given":
                # What a training setting is by default depends on the recipe.
                parameters += [
                    _parameter(name, option, not key.startswith("train.") and option.default)
                    for name, (key, option) in marked.items()
                ]
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        with_given.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_given.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return with_given

    return decorate


def _variable(name: str) -> str:
    return name.replace("-", "_")


def _parameter(name: str, option: OptionField, default: object) -> inspect.Parameter:
    """An option that is None where it is not typed; its help shows the default, where there is one to show."""
    kind: Any = option.kind if option.kind in (int, float, bool) else str
    flag = f"--{name.replace('_', '-')}"
    metavar = None if kind is bool or option.kind in (int, float, str) else option.type_name
    # A help that begins with a choice, such as "all, base, ...", keeps its small letter.
    help_text = option.help[:1].upper() + option.help[1:] if option.help.split()[0].isalpha() else option.help
    typed = typer.Option(flag, help=help_text, metavar=metavar, show_default=str(default) if default else False)
    annotation = Annotated[kind | None, typed]
    return inspect.Parameter(_variable(name), inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def numbers(option: str, text: str) -> list[int]:
    """Raises ConfigError for a list that holds anything but whole numbers, or one that no seed can be."""
    found = split_names(text)
    if not found or not all(name.isdecimal() and len(name) < 19 for name in found):
        raise ConfigError(f"{option} {text:.200}: expected whole numbers below 10^18", f"such as: {option} 1,2,3")
    return [int(name) for name in found]


def read_templates(path: Path) -> str:
    """The templates of a file, one a line. Raises ConfigError when there are none."""
    try:
        text = text_of(path).strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} can't be read: {error}", "one template a line is expected") from None
    if not text:
        raise ConfigError(f"{path} holds no template", "a line is like: a photo of a {}.")
    return text


def class_names(text: str) -> list[str] | None:
    """The classes that --classes asks about: None for "trained", else those that are typed or that a file lists.

    Raises ConfigError for a file that can't be read, a class that is there twice, and fewer than two.
    """
    if text == "trained":
        return None
    path = Path(text)
    try:
        listed = path.is_file() or path.suffix == ".txt"
        names = text_of(path).splitlines() if listed else split_names(text)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--classes {text} can't be read: {error}", "one class name a line is expected") from None
    names = [name.strip() for name in names if name.strip()]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"--classes {text}: {', '.join(sorted(twice))} is there twice", "name each class once")
    if len(names) < 2:
        raise ConfigError(f"--classes {text}: two or more classes are needed", "such as: --classes cat,dog")
    return names

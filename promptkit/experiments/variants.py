"""The learners of a bench: recipes, and recipes with settings of their own.

gopro                                   a recipe
gopro[loss.contrast=0]                  with a setting; several are separated by commas
no contrast=gopro[loss.contrast=0]      under a name of its own
learners.toml                           a file with a table for each name: recipe, and settings by slot.field
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from promptkit.config import COMPONENT_SLOTS, resolve
from promptkit.errors import ConfigError
from promptkit.files import toml_of
from promptkit.registry import Registry
from promptkit.runs.state import FREE
from promptkit.settings import Scalar, flatten, set_text, split_names

MAX_FILE = 2**20
"""Bytes."""


@dataclass(frozen=True)
class Variant:
    """A recipe with settings, as tables name it. `sets` are texts as --set takes them."""

    name: str
    recipe: str
    sets: tuple[str, ...] = ()


def split_learners(text: str) -> list[str]:
    """What stands between the commas that no bracket encloses."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def read_variants(learners: Sequence[str], vary: Sequence[str], registry: Registry) -> list[Variant]:
    """The learners of a bench, and of each one that has the varied settings one for every combination of values.

    Args:
        learners: Texts as above.
        vary: Texts such as "prompts.n_ctx=1,2,4".
        registry: What is installed.

    Raises:
        ConfigError: For a text that is none of these, two of one name, and a file that can't be read.
        UnknownNameError: For a recipe, component or setting that doesn't exist.
    """
    read = [variant for text in learners for variant in _read(text, registry)]
    for variant in read:
        if variant.name != variant.recipe and variant.name in registry.entries["recipe"]:
            raise ConfigError(
                f"--learners {variant.name}=...: a recipe has this name", "results are told apart by it: take another"
            )
        resolve(registry, variant.recipe, None, variant.sets)
    varied = [found for variant in read for found in _varied(variant, [varied_values(text) for text in vary], registry)]
    for text in vary:
        if not any(_has(registry, variant, varied_values(text)[0]) for variant in read):
            key, values = varied_values(text)
            resolve(registry, read[0].recipe, None, [*read[0].sets, f"{key}={values[0]}"])
            raise ConfigError(f"--vary {text}: no learner of this bench has it", "promptkit show RECIPE lists settings")
    names = [variant.name for variant in varied]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"--learners names {twice[0]!r} twice", "give one of them a name: NAME=RECIPE[...]")
    return varied


def different(registry: Registry, variant: Variant, dataset: str, tables: dict[str, Any]) -> dict[str, Scalar]:
    """The settings of a run that are not its recipe's for that data set, where the learner or its training is in them."""
    published = resolve(registry, variant.recipe, flags={"data.dataset": dataset})
    own, standard = flatten(tables), flatten(published.to_tables())
    return {
        key: value
        for key, value in own.items()
        if key.partition(".")[0] in (*COMPONENT_SLOTS, "train")
        and key not in (*FREE, "train.seed")
        and standard.get(key) != value
    }


def _read(text: str, registry: Registry) -> Iterator[Variant]:
    if text.endswith(".toml"):
        yield from _read_file(Path(text))
        return
    head, bracket, rest = text.partition("[")
    name, equals, recipe = head.partition("=")
    if not equals:
        name, recipe = text, head
    if (bracket and not rest.endswith("]")) or not name.strip() or not recipe.strip():
        raise ConfigError(
            f"--learners {text}: expected RECIPE, RECIPE[slot.field=value,...] or NAME=RECIPE[...]",
            "such as: coop,'no contrast=gopro[loss.contrast=0]'",
        )
    registry.get("recipe", recipe.strip())
    yield Variant(name.strip(), recipe.strip(), tuple(split_names(rest.removesuffix("]"))))


def _read_file(path: Path) -> Iterator[Variant]:
    try:
        tables = toml_of(path, MAX_FILE)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no file of learners: {error}", "a table for each: recipe, and settings") from None
    for name, table in tables.items():
        recipe = table.get("recipe") if isinstance(table, dict) else None
        if not isinstance(recipe, str):
            raise ConfigError(f"{path}: {name!r} names no recipe", f'such as: ["{name}"] and below it recipe = "gopro"')
        settings = flatten({key: value for key, value in table.items() if key != "recipe"})
        yield Variant(name, recipe, tuple(set_text(key, value) for key, value in settings.items()))


def varied_values(text: str) -> tuple[str, list[str]]:
    """The setting and the values of a text of --vary. Raises ConfigError."""
    key, equals, values = text.partition("=")
    if not equals or not values.strip():
        raise ConfigError(f"--vary {text}: expected slot.field=value,value,...", "such as: --vary prompts.n_ctx=1,2,4")
    return key.strip(), [value.strip() for value in values.split(",")]


def _has(registry: Registry, variant: Variant, key: str) -> bool:
    """A learner that is not trained has no settings of training."""
    config = resolve(registry, variant.recipe, None, variant.sets)
    if key.startswith("train.") and not config.train.epochs:
        return False
    return key in COMPONENT_SLOTS or key in flatten(config.to_tables())


def _varied(variant: Variant, vary: Sequence[tuple[str, list[str]]], registry: Registry) -> Iterator[Variant]:
    own = [(key, values) for key, values in vary if _has(registry, variant, key)]
    for combination in product(*(values for _, values in own)):
        sets = [f"{key}={value}" for (key, _), value in zip(own, combination, strict=True)]
        every = [*variant.sets, *sets]
        if not sets:
            name = variant.name
        elif variant.name.partition("[")[0] == variant.recipe:
            name = f"{variant.recipe}[{','.join(every)}]"
        else:
            name = f"{variant.name}[{','.join(sets)}]"
        resolve(registry, variant.recipe, None, every)
        yield Variant(name, variant.recipe, tuple(every))

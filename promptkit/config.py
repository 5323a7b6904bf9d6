"""Settings: where they come from, how they are checked, how a run file holds them.

The slots `data`, `backbone` and `train` are declared in `promptkit.settings`; those of `SLOT_KINDS` have
the options of the component in that slot. Precedence, last wins:

    dataclass default < templates of data.dataset < Recipe.settings < Recipe.datasets[data.dataset] < run file (TOML)
    < --set slot.field=value and the command's own options

The templates of a data set go to every option that is called `template`, in any slot.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from promptkit.errors import ConfigError, PluginError, UnknownNameError
from promptkit.files import toml_of
from promptkit.learner import Recipe
from promptkit.registry import SLOT_KINDS, Registry
from promptkit.settings import (
    SLOTS,
    BackboneSettings,
    DataSettings,
    LoaderSettings,
    Scalar,
    TrainSettings,
    flatten,
    option_fields,
    values,
)

MAX_RUN_FILE = 2**20
"""Bytes."""

COMPONENT_SLOTS = tuple(SLOT_KINDS)


@dataclass(frozen=True)
class Component:
    """A component's name and its options."""

    name: str
    options: Any


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run. Its tables are the run file, which `promptkit train --config` repeats."""

    recipe: str
    data: DataSettings = field(default_factory=DataSettings)
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    components: Mapping[str, Component] = field(default_factory=dict)
    """By slot."""

    @property
    def loading(self) -> LoaderSettings:
        """How the run reads its images."""
        return LoaderSettings(self.train.batch_size, self.train.workers, self.data.strict, self.data.max_pixels)

    def to_tables(self) -> dict[str, Any]:
        """Nested plain values, as TOML holds them."""
        tables: dict[str, Any] = {"recipe": self.recipe}
        for slot in SLOTS:
            tables[slot] = values(getattr(self, slot))
        for slot, component in self.components.items():
            tables[slot] = {"name": component.name, **values(component.options)}
        return tables


def resolve(
    registry: Registry,
    recipe_name: str,
    file: Mapping[str, Any] | None = None,
    sets: Iterable[str] = (),
    flags: Mapping[str, Scalar] | None = None,
) -> RunConfig:
    """Merge every source of settings into one checked configuration.

    `file` holds a run file's tables, `sets` the texts of `--set`, `flags` the command's own options by `slot.field`.
    Raises UnknownNameError for a recipe, component, slot or option that does not exist, ConfigError for a wrong type.
    """
    recipe: Recipe = registry.get("recipe", recipe_name)
    names = {slot: getattr(recipe, slot) for slot in COMPONENT_SLOTS}
    swapped, typed = _read_sets(sets)
    from_file = _checked(file or {})
    for slot in COMPONENT_SLOTS:
        filed = from_file.pop(f"{slot}.name", names[slot])
        if not isinstance(filed, str):
            raise ConfigError(f"run file: {slot}.name is {filed!r}, expected a component's name")
        names[slot] = swapped.get(slot, filed)
        if names[slot] != filed:  # its options are those of another
            from_file = {key: value for key, value in from_file.items() if not key.startswith(f"{slot}.")}

    classes: dict[str, type] = dict(SLOTS)
    for slot, name in names.items():
        classes[slot] = registry.component(slot, name).Options
    given: dict[str, Any] = {**from_file, **typed, **(flags or {})}
    dataset = str(given.get("data.dataset", recipe.settings.get("data.dataset", "")))
    # A recipe's settings for a slot belong to the component it names there: they fall away when another takes its place.
    kept = {
        key: value
        for key, value in {**recipe.settings, **recipe.datasets.get(dataset, {})}.items()
        if (slot := key.partition(".")[0]) in SLOTS or names.get(slot) == getattr(recipe, slot, None)
    }
    merged: dict[str, Any] = {**kept, **given}
    for slot in COMPONENT_SLOTS:
        # Hand-made prompts that nobody chose are those of the data set.
        if dataset and hasattr(classes[slot], "template") and f"{slot}.template" not in merged:
            merged[f"{slot}.template"] = "\n".join(registry.dataset(dataset).templates)

    chosen: dict[str, dict[str, Any]] = {slot: {} for slot in classes}
    for key, value in merged.items():
        slot, _, name = key.partition(".")
        if slot not in classes:
            raise _no_slot(key, value, classes)
        known = {option.name: option for option in option_fields(classes[slot])}
        if name not in known:
            owner = f" of {slot} {names[slot]!r}" if slot in names else f" of {slot}"
            raise UnknownNameError(f"option{owner}", name, known)
        chosen[slot][name] = known[name].parse(value, key)
    return RunConfig(
        recipe_name,
        **{slot: settings(**chosen[slot]) for slot, settings in SLOTS.items()},
        components={slot: _component(slot, name, classes[slot], chosen[slot]) for slot, name in names.items()},
    )


def _component(slot: str, name: str, options: type, chosen: Mapping[str, Any]) -> Component:
    """Raises PluginError for options that have no default, or that a run file couldn't hold."""
    hint = f"promptkit check {name} looks for what is wrong with it"
    try:
        made = options(**chosen)
    except TypeError as error:
        raise PluginError(f"{slot} {name!r}: its options can't be made: {error}", hint) from error
    for option, value in values(made).items():
        if not isinstance(value, Scalar):
            raise PluginError(
                f"{slot} {name!r}: the option {option} is {value!r}, expected a text, number, true or false", hint
            )
    return Component(name, made)


def _read_sets(sets: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Texts of --set as component names by slot and values by `slot.field`."""
    swapped: dict[str, str] = {}
    typed: dict[str, str] = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(
                f"--set {text}: expected slot.field=value, or slot=component", "such as: --set prompts.n_ctx=8"
            )
        (swapped if key.strip() in COMPONENT_SLOTS else typed)[key.strip()] = value
    return swapped, typed


def _no_slot(key: str, value: Any, classes: Mapping[str, type]) -> ConfigError | UnknownNameError:
    """The error for a setting of no slot. A field's name alone may be what was meant."""
    slot, dot, _ = key.partition(".")
    owners = [owner for owner, options in classes.items() if key in {option.name for option in option_fields(options)}]
    if owners:
        ways = " or ".join(f"--set {owner}.{key}={value}" for owner in owners)
        return ConfigError(f"--set {key}={value}: expected slot.field=value", f"did you mean {ways}?")
    return UnknownNameError("slot", slot, classes if dot else COMPONENT_SLOTS)


def _checked(tables: Mapping[str, Any]) -> dict[str, Any]:
    """A run file's settings by `slot.field`. Raises ConfigError for anything that is not a scalar in a table."""
    for slot, table in tables.items():
        if slot != "recipe" and not isinstance(table, dict):
            raise ConfigError(f"run file: {slot!r} is {table!r}, expected a table [{slot}]")
    flat = flatten({slot: table for slot, table in tables.items() if slot != "recipe"})
    for name, value in flat.items():
        if not isinstance(value, Scalar):
            raise ConfigError(f"run file: {name} is {value!r}, expected a text, number, true or false")
    return flat


def read_run_file(path: Path) -> dict[str, Any]:
    """The tables of a run file, the recipe's name among them. Raises ConfigError when it can't be read as one."""
    try:
        tables = toml_of(path, MAX_RUN_FILE)
    except FileNotFoundError:
        raise ConfigError(f"no run file at {path}", "a finished run holds one, named run.toml") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no run file: {error}") from None
    if not isinstance(tables.get("recipe"), str):
        raise ConfigError(f"{path} names no recipe", 'a run file begins with: recipe = "..."')
    return tables

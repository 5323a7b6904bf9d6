"""Settings: where they come from, how they are checked, how a run file holds them.

A setting is `slot.field`, a scalar. Slots are `data`, `backbone` and `train`, with the fields of the dataclasses below, and
`prompts`, `projector`, `views` and `loss`, with the options of the component in that slot. Precedence, last wins:

    dataclass default < templates of data.dataset < Recipe.settings < Recipe.datasets[data.dataset] < run file (TOML)
    < --set slot.field=value and the command's own options

The templates of a data set go to every option that is called `template`, in any slot.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from promptkit.errors import ConfigError, UnknownNameError
from promptkit.files import regular_file
from promptkit.learner import Recipe
from promptkit.registry import Registry

Scalar = str | int | float | bool

MAX_RUN_FILE = 2**20
"""Bytes."""

COMPONENT_SLOTS = ("prompts", "projector", "views", "loss")


@dataclass(frozen=True)
class DataSettings:
    path: Annotated[str, "folder of pictures, or a manifest; with a dataset, the folder that holds its folder"] = ""
    dataset: Annotated[str, "a data set by its name, such as caltech101; empty: what path itself holds"] = ""
    domains: Annotated[str, "domains to use, comma-separated; empty: all"] = ""
    classes: Annotated[str, "all, base, new, or a file with one class name a line"] = "all"
    shots: Annotated[int, "training pictures per class (and domain); 0: all"] = 0
    split: Annotated[
        Literal["given", "draw"], "given: the splits of the data, drawn where it has none; draw: always drawn"
    ] = "given"
    split_seed: Annotated[
        int, "draws train, val and test where the data has no splits; the same for runs to compare"
    ] = 0
    strict: Annotated[bool, "stop at an unreadable picture instead of counting it"] = False
    max_pixels: Annotated[int, "a picture of more pixels is left out as unreadable, before it is decoded"] = 178_956_970


@dataclass(frozen=True)
class BackboneSettings:
    name: Annotated[
        str, "a registered backbone, or anything open_clip takes: ViT-B-16, local-dir:PATH, hf-hub:ORG/REPO"
    ] = "ViT-B-16"
    weights: Annotated[str, "an open_clip pretrained tag, a weights file, or none for random weights"] = "openai"
    dtype: Annotated[
        Literal["auto", "float32", "bf16"], "arithmetic of the image tower; auto: bf16 on a CUDA device made for it"
    ] = "auto"
    memory_gb: Annotated[
        float, "what encoding text may hold, in GB; 0: half of a GPU's memory, or a quarter of the machine's"
    ] = 0.0
    checkpoint: Annotated[
        Literal["auto", "on", "off"],
        "compute text activations again in the backward pass instead of holding them; auto: where they exceed memory_gb",
    ] = "auto"
    compile: Annotated[bool, "compile the towers' blocks with torch.compile; pays in long runs on a GPU"] = False


@dataclass(frozen=True)
class TrainSettings:
    epochs: Annotated[int, "passes over the training pictures"] = 50
    batch_size: Annotated[int, "pictures per step"] = 32
    lr: Annotated[float, "peak learning rate"] = 0.002
    optimizer: Annotated[str, "any optimiser of timm: momentum (SGD), sgd (Nesterov's), adamw, ..."] = "momentum"
    momentum: Annotated[float, "momentum, where the optimiser has one"] = 0.9
    weight_decay: Annotated[float, "weight decay of matrices and contexts; biases and norms have none"] = 5e-4
    warmup_epochs: Annotated[int, "epochs at warmup_lr before the cosine begins"] = 1
    warmup_lr: Annotated[float, "learning rate of the warm-up"] = 1e-5
    clip_grad: Annotated[float, "largest norm of the gradient; 0: not clipped"] = 0.0
    precision: Annotated[Literal["float32", "bf16"], "arithmetic of the forward pass"] = "float32"
    deterministic: Annotated[bool, "refuse arithmetic that differs from run to run; slower on a GPU"] = False
    log: Annotated[str, "trackers besides log.jsonl: tensorboard, wandb, mlflow; comma-separated"] = ""
    save_minutes: Annotated[float, "minutes after which a long epoch is saved, to be resumed in its middle"] = 10.0
    cached_views: Annotated[
        int, "versions of each picture's views, encoded once and reused in turn; 0: fresh views in every epoch"
    ] = 0
    device: Annotated[str, "auto, cpu, cuda, cuda:1, mps"] = "auto"
    workers: Annotated[int, "processes that prepare pictures; -1: chosen from the machine"] = -1
    seed: Annotated[int, "of shots, order, views and initial values"] = 1


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

    def to_tables(self) -> dict[str, Any]:
        """Nested plain values, as TOML holds them."""
        tables: dict[str, Any] = {"recipe": self.recipe}
        for slot in _CORE:
            tables[slot] = _values(getattr(self, slot))
        for slot, component in self.components.items():
            tables[slot] = {"name": component.name, **_values(component.options)}
        return tables


_CORE: dict[str, type] = {"data": DataSettings, "backbone": BackboneSettings, "train": TrainSettings}


@dataclass(frozen=True)
class OptionField:
    """One option, as `show` lists it and `--set` sets it."""

    name: str
    type: Any
    default: Any
    help: str

    @property
    def type_name(self) -> str:
        if get_origin(self.type) is Literal:
            return "|".join(map(str, get_args(self.type)))
        return str(getattr(self.type, "__name__", self.type))

    def parse(self, value: Any, where: str) -> Any:
        """Turn what was typed, or read from TOML, into the option's type. Raises ConfigError."""
        kinds = get_args(self.type) if get_origin(self.type) in (Union, UnionType) else (self.type,)
        if NoneType in kinds and value in ("none", ""):
            return None
        for kind in kinds:
            parsed = _parse(kind, value)
            if parsed is not None:
                return parsed
        raise ConfigError(f"{where}={value!r}: expected {self.type_name}", f"{where}: {self.help}" if self.help else "")


def _parse(kind: Any, value: Any) -> Any:
    """The value as `kind`, or None when it is none."""
    if get_origin(kind) is Literal:
        return next((choice for choice in get_args(kind) if str(choice) == str(value)), None)
    if kind is bool:
        if isinstance(value, bool):
            return value
        return {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else None
    if kind is str:
        return value if isinstance(value, str) else None
    if kind in (int, float) and not isinstance(value, bool) and isinstance(value, (str, int, float)):
        try:
            return kind(value) if not (kind is int and isinstance(value, float)) else None
        except (ValueError, OverflowError):
            return None
    return None


def option_fields(options: type) -> list[OptionField]:
    """The fields of an options dataclass, in order."""
    hints = get_type_hints(options, include_extras=True)
    found = []
    for item in fields(options):
        hint = hints[item.name]
        kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        help_text = next((note for note in notes if isinstance(note, str)), "")
        found.append(OptionField(item.name, kind, None if item.default is MISSING else item.default, help_text))
    return found


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
    from_file = _flatten(file or {})
    for slot in COMPONENT_SLOTS:
        filed = from_file.pop(f"{slot}.name", names[slot])
        if not isinstance(filed, str):
            raise ConfigError(f"run file: {slot}.name is {filed!r}, expected a component's name")
        names[slot] = swapped.get(slot, filed)

    classes: dict[str, type] = dict(_CORE)
    for slot, name in names.items():
        classes[slot] = registry.get(slot, name).Options
    given: dict[str, Any] = {**from_file, **typed, **(flags or {})}
    dataset = str(given.get("data.dataset", recipe.settings.get("data.dataset", "")))
    # A recipe's settings for a slot belong to the component it names there: they fall away when another takes its place.
    kept = {
        key: value
        for key, value in {**recipe.settings, **recipe.datasets.get(dataset, {})}.items()
        if (slot := key.partition(".")[0]) in _CORE or names.get(slot) == getattr(recipe, slot, None)
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
            raise UnknownNameError("slot", slot, classes)
        known = {option.name: option for option in option_fields(classes[slot])}
        if name not in known:
            owner = f" of {slot} {names[slot]!r}" if slot in names else f" of {slot}"
            raise UnknownNameError(f"option{owner}", name, known)
        chosen[slot][name] = known[name].parse(value, key)
    return RunConfig(
        recipe_name,
        **{slot: settings(**chosen[slot]) for slot, settings in _CORE.items()},
        components={slot: Component(name, classes[slot](**chosen[slot])) for slot, name in names.items()},
    )


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
        if "." in key:
            typed[key.strip()] = value
        elif key.strip() in COMPONENT_SLOTS:
            swapped[key.strip()] = value
        else:
            raise UnknownNameError("slot", key.strip(), COMPONENT_SLOTS)
    return swapped, typed


def _flatten(tables: Mapping[str, Any]) -> dict[str, Any]:
    """TOML tables as values by `slot.field`. Raises ConfigError for anything that is not a scalar in a table."""
    flat: dict[str, Any] = {}
    for slot, table in tables.items():
        if slot == "recipe":
            continue
        if not isinstance(table, Mapping):
            raise ConfigError(f"run file: {slot!r} is {table!r}, expected a table [{slot}]")
        for name, value in table.items():
            if not isinstance(value, (str, int, float, bool)):
                raise ConfigError(f"run file: {slot}.{name} is {value!r}, expected a text, number, true or false")
            flat[f"{slot}.{name}"] = value
    return flat


def _values(options: Any) -> dict[str, Scalar]:
    if not is_dataclass(options):
        return {}
    values = {item.name: getattr(options, item.name) for item in fields(options)}
    return {name: "none" if value is None else value for name, value in values.items()}


def read_run_file(path: Path) -> dict[str, Any]:
    """The tables of a run file, the recipe's name among them. Raises ConfigError when it can't be read as one."""
    try:
        regular_file(path, MAX_RUN_FILE)
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no run file at {path}", "a finished run holds one, named run.toml") from None
    except RecursionError:
        raise ConfigError(f"{path} is no run file: it is nested too deeply") from None
    except (OSError, ValueError) as error:  # a number of thousands of digits is a ValueError alone
        raise ConfigError(f"{path} is no run file: {error}") from None
    if not isinstance(tables.get("recipe"), str):
        raise ConfigError(f"{path} names no recipe", 'a run file begins with: recipe = "..."')
    return tables

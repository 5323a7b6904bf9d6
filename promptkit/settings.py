"""The settings of a run, each declared once: type, range, default, help, and which commands have a flag for it.

A setting is `slot.field`, a scalar. The slots `data`, `backbone` and `train` are the dataclasses below; a component declares
its options in the same way. Nothing else of promptkit is imported here, so that reading a default costs nothing.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import lru_cache
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from promptkit.errors import ConfigError, UnknownNameError, nearest_name
from promptkit.files import is_text

T = TypeVar("T")
Scalar = str | int | float | bool

MAX_PIXELS = 178_956_970
"""Pillow's own bound on what may be decoded."""
MOST = {int: 2**31 - 1, float: 3.4e38}
"""Of a number that is declared without a bound: what sizes, and the arithmetic of tensors, can hold."""


@dataclass(frozen=True)
class Flag:
    """A setting that has an option of its own in some commands."""

    commands: tuple[str, ...]
    name: str = ""
    """Without dashes; the field's name where it is empty."""


TRAIN, EVAL = ("train",), ("eval",)
TRAIN_BENCH, TRAIN_EVAL, EVERY = (*TRAIN, "bench"), (*TRAIN, *EVAL), (*TRAIN, "bench", *EVAL)


# What several slots hold, with its help and range; each adds the commands that have a flag for it.
Domains = Annotated[str, "domains to use, comma-separated; empty: all"]
Workers = Annotated[int, "processes that prepare pictures; -1: chosen from the machine", Ge(-1), Le(512)]
Strict = Annotated[bool, "stop at an unreadable picture instead of counting it"]
MaxPixels = Annotated[
    int, "a picture of more pixels is left out as unreadable, before it is decoded", Ge(1), Le(MAX_PIXELS)
]
Device = Annotated[str, "auto, cpu, cuda, cuda:1, mps"]


@dataclass(frozen=True)
class LoaderSettings:
    """How images are read into batches."""

    batch_size: Annotated[int, "images per batch", Ge(1), Flag(EVAL)] = 64
    workers: Annotated[Workers, Flag(EVAL)] = -1
    strict: Annotated[Strict, Flag(EVAL)] = False
    max_pixels: Annotated[MaxPixels, Flag(EVAL)] = MAX_PIXELS


@dataclass(frozen=True)
class PredictSettings(LoaderSettings):
    """How pictures are read, and where they are looked at."""

    device: Annotated[Device, Flag(EVAL)] = "auto"


@dataclass(frozen=True)
class EvalSettings(PredictSettings):
    """What runs are evaluated on. What is empty is taken from the first run."""

    data: Annotated[
        str,
        "folder of pictures or manifest to evaluate on; with a dataset, the folder that holds its folder",
        Flag(EVAL),
    ] = ""
    dataset: Annotated[str, "a data set by its name, such as caltech101", Flag(EVAL)] = ""
    domains: Annotated[Domains, Flag(EVAL)] = ""
    classes: Annotated[
        str,
        "which classes to ask about: trained, data, base, new (halves of the data's), or a file with one name a line; "
        "auto: trained where those of the data are among them, else data",
        Flag(EVAL),
    ] = "auto"
    split: Annotated[
        str,
        "which images: test, val, train or all; given or draw: the test images of that split policy",
        Flag(EVAL),
    ] = "test"


@dataclass(frozen=True)
class DataSettings:
    path: Annotated[
        str,
        "folder of pictures (class/picture, split/class/picture, domain/class/picture, domain/split/class/picture), or a "
        ".csv or .jsonl manifest; with a dataset, the folder that holds its folder",
        Flag(TRAIN, "data"),
    ] = ""
    dataset: Annotated[
        str, "a data set by its name, such as caltech101; empty: what path itself holds", Flag((*TRAIN, "data"))
    ] = ""
    domains: Annotated[Domains, Flag(TRAIN)] = ""
    classes: Annotated[str, "all, base, new, or a file with one class name a line", Flag(TRAIN)] = "all"
    descriptions: Annotated[
        str, "JSON file of sentences about each class, by name, for prompts that take them", Flag(TRAIN_BENCH)
    ] = ""
    unlabelled: Annotated[
        str, "folder or manifest of pictures without labels, for losses that look at them", Flag(TRAIN)
    ] = ""
    unlabelled_domains: Annotated[
        str,
        "domains of the data, comma-separated, whose training pictures such losses see without their labels",
        Flag(TRAIN),
    ] = ""
    shots: Annotated[int, "training pictures per class (and domain); 0: all", Ge(0), Flag(TRAIN)] = 0
    limit: Annotated[
        int, "pictures to train on, and to validate with, at most: for a quick try; 0: all", Ge(0), Flag(TRAIN)
    ] = 0
    split: Annotated[
        str,
        "given: the splits of the data, drawn where it has none; draw: always drawn",
        Flag((*TRAIN_BENCH, "data")),
    ] = "given"
    split_seed: Annotated[
        int, "draws train, val and test where the data has no splits; the same for runs to compare"
    ] = 0
    strict: Annotated[Strict, Flag(TRAIN)] = False
    max_pixels: Annotated[MaxPixels, Flag(TRAIN)] = MAX_PIXELS


@dataclass(frozen=True)
class BackboneSettings:
    """Which frozen CLIP, and how it computes. Its features stay float32."""

    name: Annotated[
        str,
        "a registered backbone, or anything open_clip takes: ViT-B-16, local-dir:PATH, hf-hub:ORG/REPO",
        Flag(EVERY, "backbone"),
    ] = "ViT-B-16"
    weights: Annotated[str, "an open_clip pretrained tag, a weights file, or none for random weights", Flag(EVERY)] = (
        "openai"
    )
    dtype: Annotated[
        Literal["auto", "float32", "bf16"],
        "arithmetic of the image tower; auto: bf16 on a CUDA device made for it",
        Flag(TRAIN_EVAL, "backbone-dtype"),
    ] = "auto"
    memory_gb: Annotated[
        float,
        "what encoding text may hold, in GB; 0: half of a GPU's memory, or a quarter of the machine's",
        Ge(0),
        Le(1e6),
        Flag(TRAIN_EVAL),
    ] = 0.0
    checkpoint: Annotated[
        Literal["auto", "on", "off"],
        "compute text activations again in the backward pass instead of holding them; auto: where they exceed memory_gb",
    ] = "auto"
    compile: Annotated[bool, "compile the towers' blocks with torch.compile; pays in long runs on a GPU"] = False


@dataclass(frozen=True)
class TrainSettings:
    teacher: Annotated[str, "a finished run, on any backbone, for learners that are taught by one", Flag(TRAIN)] = ""
    init: Annotated[
        str, "a finished run, of the same backbone, whose learned tensors training starts from", Flag(TRAIN)
    ] = ""
    epochs: Annotated[int, "passes over the training pictures", Ge(0), Flag(TRAIN_BENCH)] = 50
    batch_size: Annotated[int, "pictures per step", Ge(1), Flag(TRAIN_BENCH)] = 32
    accumulate: Annotated[
        int,
        "parts that the pictures of a step go through one after the other: the same gradient from less memory",
        Ge(1),
        Flag(TRAIN),
    ] = 1
    lr: Annotated[float, "peak learning rate", Ge(0), Flag(TRAIN)] = 0.002
    optimizer: Annotated[str, "any optimiser of timm: momentum (SGD), sgd (Nesterov's), adamw, ..."] = "momentum"
    momentum: Annotated[float, "momentum, where the optimiser has one", Ge(0), Lt(1)] = 0.9
    weight_decay: Annotated[float, "weight decay of matrices and contexts; biases and norms have none", Ge(0)] = 5e-4
    schedule: Annotated[Literal["cosine", "tanh", "poly", "step"], "how the rate falls after the warm-up"] = "cosine"
    decay_epochs: Annotated[int, "epochs from one fall to the next, in the schedule step", Ge(1)] = 30
    decay_rate: Annotated[float, "factor of a fall in the schedule step; exponent in poly", Gt(0)] = 0.1
    warmup_epochs: Annotated[int, "epochs at warmup_lr before the schedule begins", Ge(0)] = 1
    warmup_lr: Annotated[float, "learning rate of the warm-up", Ge(0)] = 1e-5
    clip_grad: Annotated[float, "largest norm of the gradient; 0: not clipped", Ge(0)] = 0.0
    precision: Annotated[Literal["float32", "bf16"], "arithmetic of the forward pass", Flag(TRAIN)] = "float32"
    deterministic: Annotated[bool, "refuse arithmetic that differs from run to run; slower on a GPU", Flag(TRAIN)] = (
        False
    )
    log: Annotated[str, "trackers besides log.jsonl: tensorboard, wandb, mlflow; comma-separated", Flag(TRAIN)] = ""
    keep: Annotated[
        Literal["last", "best"], "the epoch to keep: the last, or that of the best validation accuracy", Flag(TRAIN)
    ] = "last"
    patience: Annotated[
        int, "epochs without a better validation accuracy after which training ends; 0: never", Ge(0), Flag(TRAIN)
    ] = 0
    save_minutes: Annotated[float, "minutes after which a long epoch is saved, to be resumed in its middle", Ge(0)] = (
        10.0
    )
    cached_views: Annotated[
        int,
        "versions of each picture's views, encoded once and reused in turn; 0: fresh views in every epoch",
        Ge(0),
        Le(10_000),
        Flag(TRAIN),
    ] = 0
    device: Annotated[Device, Flag(TRAIN_BENCH)] = "auto"
    workers: Annotated[Workers, Flag(TRAIN_BENCH)] = -1
    seed: Annotated[int, "of shots, order, views and initial values", Ge(0), Lt(2**63), Flag(TRAIN)] = 1


SLOTS: dict[str, type] = {"data": DataSettings, "backbone": BackboneSettings, "train": TrainSettings}
"""The slots that are no components."""


@dataclass(frozen=True)
class OptionField:
    """One option, as `show` lists it and `--set` sets it."""

    name: str
    type: Any
    """As it is annotated, ranges among the annotations."""
    default: Any

    @property
    def kind(self) -> Any:
        """The type without annotations."""
        return get_args(self.type)[0] if get_origin(self.type) is Annotated else self.type

    @property
    def notes(self) -> tuple[Any, ...]:
        return get_args(self.type)[1:] if get_origin(self.type) is Annotated else ()

    @property
    def help(self) -> str:
        return next((note for note in self.notes if isinstance(note, str)), "")

    @property
    def flag(self) -> Flag | None:
        return next((note for note in self.notes if isinstance(note, Flag)), None)

    @property
    def type_name(self) -> str:
        """Such as "int", "fast|slow" or "float, at least 0, below 1"."""
        if get_origin(self.kind) is Literal:
            return "|".join(map(str, get_args(self.kind)))
        bounds = [
            f"{word} {getattr(note, name)}" for note in self.notes for kind, name, word in _BOUNDS if type(note) is kind
        ]
        return ", ".join([str(getattr(self.kind, "__name__", self.kind)), *bounds])

    def parse(self, value: Any, where: str) -> Any:
        """Turn what was typed, or read from TOML, into the option's type. Raises ConfigError."""
        from pydantic import ValidationError

        kinds = get_args(self.kind) or (self.kind,)
        if NoneType in kinds and value in ("none", ""):
            return None
        expected = self.type_name
        try:
            if isinstance(value, bool) != (bool in kinds) and not (bool in kinds and value in ("true", "false")):
                raise ValueError
            found = _adapter(self.type).validate_python(value)
            bounded = any(type(note) in (Le, Lt) for note in self.notes)
            if type(found) in MOST and abs(found) > MOST[type(found)] and not bounded:
                expected = f"{expected}, at most {MOST[type(found)]}"
                raise ValueError
            if isinstance(found, str) and not is_text(found):
                expected = "text in UTF-8"
                raise ValueError
            return found
        except (ValidationError, ValueError):
            shown = repr(value) if len(repr(value)) < 200 else f"{repr(value)[:200]}..."
            choices = [str(choice) for choice in get_args(self.kind)] if get_origin(self.kind) is Literal else []
            nearest = nearest_name(str(value), choices)
            suggestion = f"; did you mean {nearest!r}?" if nearest else ""
            hint = f"{where}: {self.help}" if self.help else ""
            raise ConfigError(f"{where}={shown}: expected {expected}{suggestion}", hint) from None


_BOUNDS = ((Ge, "ge", "at least"), (Gt, "gt", "above"), (Le, "le", "at most"), (Lt, "lt", "below"))


@lru_cache(maxsize=512)
def _adapter(hint: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))


def option_fields(options: type) -> list[OptionField]:
    """The fields of an options dataclass, in order; those of a base class come last."""
    hints = get_type_hints(options, include_extras=True)
    return [
        OptionField(item.name, hints[item.name], None if item.default is MISSING else item.default)
        for item in sorted(fields(options), key=lambda item: item.name not in options.__annotations__)
    ]


def flagged(command: str, slots: Mapping[str, type] = SLOTS) -> dict[str, tuple[str, OptionField]]:
    """The settings that have an option of their own in a command, by its name: each as `slot.field`, and its field."""
    return {
        option.flag.name or option.name: (f"{slot}.{option.name}", option)
        for slot, settings in slots.items()
        for option in option_fields(settings)
        if option.flag and command in option.flag.commands
    }


def parsed(options: type[T], given: Mapping[str, Any], slot: str = "") -> T:
    """An options object of checked values. Raises ConfigError and UnknownNameError."""
    known = {option.name: option for option in option_fields(options)}
    for name in given.keys() - known.keys():
        raise UnknownNameError(f"option of {slot}", name, known)
    return options(
        **{name: known[name].parse(value, f"{slot}.{name}" if slot else name) for name, value in given.items()}
    )


def values(options: Any) -> dict[str, Scalar]:
    """An options object as TOML holds it."""
    if not is_dataclass(options):
        return {}
    found = {item.name: getattr(options, item.name) for item in fields(options)}
    return {name: "none" if value is None else value for name, value in found.items()}


def flatten(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Tables as values by `slot.field`; what stands in no table keeps its name."""
    flat: dict[str, Any] = {}
    for slot, table in tables.items():
        flat |= {f"{slot}.{key}": value for key, value in table.items()} if isinstance(table, dict) else {slot: table}
    return flat


def set_text(key: str, value: Scalar) -> str:
    """A setting as --set takes it."""
    return f"{key}={str(value).lower() if isinstance(value, bool) else value}"


def split_names(text: str) -> list[str]:
    """The names in a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]

"""The settings that are tuned, each from a list or a range.

prompts.n_ctx=1,2,4          one of these
loss.contrast=0.01..1        a number between two, both included
train.lr=1e-4..1e-2:log      one whose logarithm is drawn evenly
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from promptkit.config import COMPONENT_SLOTS, RunConfig
from promptkit.errors import ConfigError
from promptkit.experiments.variants import varied_values
from promptkit.extras import needs
from promptkit.settings import SLOTS, Scalar, flatten, option_fields

if TYPE_CHECKING:
    from optuna import Trial

FIXED = {
    "train.seed": "a seed that is chosen for its figures says nothing about others: give --seed",
    **{f"data.{option.name}": "trials are compared on the same pictures" for option in option_fields(SLOTS["data"])},
}
"""What can't be tuned, and why."""


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    key: str
    """`slot.field`, or a slot whose component is chosen."""
    values: tuple[Scalar, ...]

    @property
    def ends(self) -> tuple[Scalar, ...]:
        return self.values

    def suggest(self, trial: "Trial") -> Scalar:
        found = trial.suggest_categorical(self.key, self.values)
        assert found is not None
        return found

    def __str__(self) -> str:
        return ",".join(map(str, self.values))


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, both included; whole where these are ints."""

    key: str
    low: int | float
    high: int | float
    log: bool

    @property
    def ends(self) -> tuple[Scalar, ...]:
        return self.low, self.high

    def suggest(self, trial: "Trial") -> Scalar:
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.key, self.low, self.high, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)

    def __str__(self) -> str:
        return f"{self.low}..{self.high}{':log' if self.log else ''}"


Space = tuple[Choice | Range, ...]
Settings = Callable[[Mapping[str, Scalar]], RunConfig]
"""The configuration that some of the tuned settings make, over what all trials share."""


def needs_optuna() -> None:
    """Raises ConfigError where it is not installed."""
    needs("tuning", "optuna")


def read_space(vary: Sequence[str], settings: Settings) -> Space:
    """The space that texts of --vary span. Every end of a range and every value of a list is tried on the settings.

    Raises:
        ConfigError: For a text that is none, a range of what is no number or of nothing, and what can't be tuned.
        UnknownNameError: For a setting or component that doesn't exist.
    """
    keys = [text.partition("=")[0].strip() for text in vary]
    if not vary or len(set(keys)) < len(keys):
        twice = next((key for key in keys if keys.count(key) > 1), "")
        raise ConfigError(
            f"--vary names {twice} twice" if twice else "there is nothing to tune",
            "such as: --vary train.lr=1e-4..1e-2:log --vary prompts.n_ctx=2,4,8",
        )
    if fixed := next((key for key in keys if key in FIXED), None):
        raise ConfigError(f"--vary {fixed}: it can't be tuned", FIXED[fixed])
    space = tuple(_read(text, settings) for text in vary)
    swaps = [[{one.key: value} for value in one.ends] for one in space if one.key in COMPONENT_SLOTS]
    for swapped in product(*swaps):
        components = {key: value for swap in swapped for key, value in swap.items()}
        for one in space:
            for end in one.ends:
                settings({**components, one.key: end})
    return space


def _read(text: str, settings: Settings) -> Choice | Range:
    key, values = varied_values(text)
    low, dots, rest = text.partition("=")[2].partition("..")
    if not dots:
        return Choice(key, tuple(_parsed(key, value, settings) for value in values))
    high, _, scale = rest.partition(":")
    ends = [_parsed(key, end.strip(), settings) for end in (low, high)]
    first, last = ends
    if scale not in ("", "log") or isinstance(first, str | bool) or isinstance(last, str | bool):
        raise ConfigError(f"--vary {text}: expected LOW..HIGH or LOW..HIGH:log, of a number", "or a list: VALUE,VALUE")
    if not first < last or (scale == "log" and first <= 0):
        raise ConfigError(
            f"--vary {text}: there is no {'logarithm' if first < last else 'number'} between these ends",
            "the lower end stands first, above 0 with :log",
        )
    return Range(key, first, last, scale == "log")


def _parsed(key: str, text: str, settings: Settings) -> Scalar:
    """A value as its setting has it, or a component's name. Raises ConfigError and UnknownNameError."""
    config = settings({key: text})
    if key in COMPONENT_SLOTS:
        return text
    found: Scalar = flatten(config.to_tables())[key]
    return found


def combinations(space: Space) -> list[dict[str, Scalar]] | None:
    """All of a space of lists; None where there is a range."""
    if any(isinstance(one, Range) for one in space):
        return None
    return [dict(zip([one.key for one in space], values, strict=True)) for values in product(*(o.ends for o in space))]

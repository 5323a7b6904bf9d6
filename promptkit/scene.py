"""What components may look at while they are built."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor

from promptkit.backbones.base import Backbone
from promptkit.errors import ConfigError, PluginError

if TYPE_CHECKING:
    from promptkit.learner import Learner


class TeacherRun:
    """A finished run, on any backbone, that a learner is taught by."""

    def __init__(self, open_run: "Callable[[], Learner]") -> None:
        """`open_run` is called when the learner is first asked for."""
        self._open = open_run
        self.logits: Float[Tensor, "N C"] | None = None
        """Its logits of every training picture, at `Batch.index`, each prepared as its own backbone wants it, in the classes
        that are trained on. None before the first step, and where nothing is trained."""

    @cached_property
    def learner(self) -> "Learner":
        """The run's learner, ready to predict; set to the training classes, and `set_classes` chooses others."""
        return self._open()

    def taught(self, index: Int[Tensor, " B"]) -> Float[Tensor, "B C"]:
        """The logits of the pictures of a batch, on the device of `index`. Raises PluginError where none are known."""
        if self.logits is None or (len(index) and int(index.min()) < 0):
            raise PluginError(
                "the teacher's logits are known of training pictures alone",
                "ask for them in the loss, by outputs.index",
            )
        return self.logits.to(index.device)[index]


@dataclass(frozen=True)
class Scene:
    """What a component may look at while it is built: the frozen backbone, and what there is to train on."""

    backbone: Backbone
    classnames: tuple[str, ...]
    domains: tuple[str, ...] = ()
    """Of the training pictures, sorted; () where the data has none. `Batch.domain` counts in them."""
    descriptions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Sentences about classes, by name: what --descriptions gave; it may know more classes, and others."""

    teacher: TeacherRun | None = None
    """What --teacher gave."""

    def sentences(self, name: str) -> Sequence[str]:
        """The descriptions of a class, however its name is spelt. Raises ConfigError where there are none."""
        known = {_spelt(described): described for described in self.descriptions}
        if _spelt(name) not in known:
            nearest = get_close_matches(name, self.descriptions, n=1)
            raise ConfigError(
                f"there is no description of {name!r}" + (f"; did you mean {nearest[0]!r}?" if nearest else ""),
                "add it to the file of --descriptions" if known else "give them with --descriptions FILE",
            )
        return self.descriptions[known[_spelt(name)]]


def _spelt(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())

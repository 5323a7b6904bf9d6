"""Which checks each kind of thing has to pass, and running them."""

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from promptkit.contract import Defect
from promptkit.errors import PromptkitError
from promptkit.registry import installed
from promptkit.testing import components, learners, reports
from promptkit.testing.specimen import Specimen

log = logging.getLogger("promptkit")

Check = Callable[[Specimen], None]


@dataclass(frozen=True)
class Outcome:
    """One check of one thing: `problem` is empty, or one sentence that says what to do."""

    check: str
    problem: str


OPTIONS: dict[str, Check] = {"options": components.check_options}
VIEWS: dict[str, Check] = {"views": components.check_views_contract}
LEARNER: dict[str, Check] = {
    "shapes": learners.check_shapes,
    "loss terms": learners.check_terms,
    "gradients": learners.check_gradients,
    "backbone untouched": learners.check_backbone_untouched,
    "same seed": learners.check_seed,
    "batch independence": learners.check_batch,
    "test time": learners.check_test_time,
    "save and load": learners.check_saving,
    "new classes": learners.check_classes,
    "bf16": learners.check_bf16,
    "reports": reports.check_reports,
}

CHECKS: dict[str, dict[str, Check]] = {
    "recipe": OPTIONS | VIEWS | LEARNER,
    "learner": OPTIONS | LEARNER,
    "prompts": OPTIONS | LEARNER,
    "projector": OPTIONS | LEARNER,
    "views": OPTIONS | VIEWS,
    "loss": OPTIONS | LEARNER,
    "backbone": {
        "frozen": components.check_frozen,
        "features": components.check_features,
        "prompt encoding": components.check_encoding,
        "prompts matter": components.check_prompts_matter,
    },
}
"""By kind, in the order they run."""

NEEDED = ("options", "views", "shapes", "loss terms", "backbone untouched", "same seed")
"""What the checks after them build on: where one of these fails, the rest would only repeat it."""

REPEATS = {"reports": ("batch independence", "test time")}
"""Checks that would only repeat what one of these has found."""


def examine(kind: str, name: str) -> list[Outcome]:
    """Check something that is registered; the trace of what it raises is logged at debug level.

    Raises UnknownNameError for a name that is not registered.
    """
    specimen = Specimen(installed(), kind, name)
    outcomes: list[Outcome] = []
    for check, run in CHECKS[kind].items():
        if any(outcome.problem and outcome.check in REPEATS.get(check, ()) for outcome in outcomes):
            continue
        outcomes.append(Outcome(check, _problem(run, specimen)))
        if outcomes[-1].problem and check in NEEDED:
            break
    return outcomes


def _problem(run: Check, specimen: Specimen) -> str:
    try:
        run(specimen)
    except Defect as defect:
        return str(defect)
    except PromptkitError as error:
        return f"{error.message}; {error.hint}" if error.hint else error.message
    except Exception as error:  # whatever a stranger's component raises is a finding, not an end
        log.debug(traceback.format_exc())
        first = str(error).strip().partition("\n")[0]
        return f"{_owner(error, specimen)} raises {type(error).__name__}: {first}; --debug shows the trace"
    return ""


def _owner(error: Exception, specimen: Specimen) -> str:
    """Whose code raised: the innermost method of a component that the error passed, with its slot and line."""
    slots = {
        (base.__module__, base.__name__): slot
        for slot, chosen in specimen.config.components.items()
        for base in specimen.scratch.component(slot, chosen.name).__mro__
        if base.__module__.partition(".")[0] != "promptkit" or base.__module__ == "promptkit.builtins"
    }
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        name = frame.f_code.co_qualname
        slot = slots.get((frame.f_globals.get("__name__", ""), name.rpartition(".")[0]))
        if slot:
            return f"{slot} ({name}, line {line})"
    return "it"


def _findings(kind: str, name: str) -> list[str]:
    return [f"{outcome.check}: {outcome.problem}" for outcome in examine(kind, name) if outcome.problem]


def check_recipe(name: str) -> list[str]:
    """Train and ask a registered recipe's learner on the tiny backbone: one sentence for each defect, or none at all.

    Raises UnknownNameError for a recipe that is not registered; so do the checks below.
    """
    return _findings("recipe", name)


def check_learner(name: str) -> list[str]:
    """As `check_recipe`, for a learner in the first recipe that uses it, or with components that fit it."""
    return _findings("learner", name)


def check_prompts(name: str) -> list[str]:
    """As `check_recipe`, for a prompt generator in the first recipe that uses it, or with cross-entropy alone."""
    return _findings("prompts", name)


def check_projector(name: str) -> list[str]:
    """As `check_recipe`, for a projector in the first recipe that uses it, or on plain learned contexts."""
    return _findings("projector", name)


def check_views(name: str) -> list[str]:
    """As `check_recipe`, for the views of a picture."""
    return _findings("views", name)


def check_loss(name: str) -> list[str]:
    """As `check_recipe`, for a loss in the first recipe that uses it, or on plain learned contexts."""
    return _findings("loss", name)


def check_backbone(name: str) -> list[str]:
    """As `check_recipe`, for a backbone; it is loaded with the weights "none"."""
    return _findings("backbone", name)

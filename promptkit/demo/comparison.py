"""The demo: zero-shot CLIP and three learners on drawn pictures, over several seeds, tested on every domain."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from promptkit.demo.findings import Figures
from promptkit.demo.images import CLASSES, DOMAINS, write_images
from promptkit.errors import ConfigError, OutputError, TrainingError
from promptkit.experiments.plan import Plan, Request, Training, make_plan
from promptkit.experiments.protocols import open_data
from promptkit.experiments.results import read_results
from promptkit.experiments.runner import Runner
from promptkit.registry import Registry
from promptkit.settings import Scalar

LEARNERS = ("zeroshot", "coop", "cocoop", "gopro")
SOURCE = "sketch"
PER_CLASS = 40
"""Pictures of a class in a domain: 20 to train on, 8 to validate, 12 to test."""
IMAGES = len(CLASSES) * len(DOMAINS) * PER_CLASS
SHOTS = 16
SETTINGS: dict[str, Scalar] = {
    "backbone.name": "demo",
    "train.epochs": 10,
    "train.batch_size": 16,
    "train.cached_views": 5,
}
"""One schedule for all learners, a few minutes long.

GOPro's published batch of 4, with the published rate, is too much for a CLIP of this size: it learns the trained domain
better and forgets the others. A quarter of the rate mends that as well as four times the batch does.
"""
SETS = ("coop:prompts.ctx_init=a photo of a",)
"""All start from the same words, as CoOp does in the comparison of Zhou et al., CVPR 2022."""


class Comparison:
    """The demo's runs in a folder: `draw`, then `run`, then `figures`. What is there already is not done again."""

    def __init__(self, out: Path, seeds: Sequence[int], registry: Registry) -> None:
        """Raises ConfigError when a plugin is missing."""
        missing = [name for name in LEARNERS if name not in registry.entries["recipe"]]
        if missing:
            raise ConfigError(
                f"the demo compares {', '.join(LEARNERS)}, and {' and '.join(missing)} is not installed",
                f"promptkit install {' '.join(missing)}",
            )
        self.images = out / "pictures"
        self.runs = out / "runs"
        self.seeds = seeds
        self.registry = registry

    def draw(self, on_image: Callable[[], None]) -> None:
        write_images(self.images, PER_CLASS, on_image=on_image)

    def plan(self) -> Plan:
        """Train on the base classes of one domain, test on base and new classes of all."""
        data = open_data("base-to-new", [self.images], [], self.registry)
        request = Request("base-to-new", LEARNERS, self.seeds, (SHOTS,), SOURCE, SETTINGS, SETS)
        return make_plan(request, data, self.registry)

    def run(self, plan: Plan, console: Console, on_trained: Callable[[Training, float], None]) -> None:
        """Raises TrainingError when a run fails, OutputError where another process is at work; what is done stays."""
        outcome = Runner(plan, self.runs, self.registry, console).run(on_trained)
        for failure in outcome.failures:
            raise TrainingError(f"{failure.folder}: {failure.message}", "the same command goes on with what is done")
        for folder in outcome.elsewhere:
            raise OutputError(
                f"another process is busy with {folder}", "wait until it is done, or choose another --out"
            )

    def figures(self) -> Figures:
        """Raises DataError when there are no results."""
        found = {
            (result.learner, result.classes, result.domain, result.seed): 100 * result.scores["accuracy"]
            for result in read_results([self.runs])
        }
        accuracy = {
            (learner, classes, domain): [found[learner, classes, domain, seed] for seed in self.seeds]
            for learner in LEARNERS
            for classes in ("base", "new")
            for domain in DOMAINS
        }
        return Figures(accuracy, LEARNERS, SOURCE, DOMAINS)

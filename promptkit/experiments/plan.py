"""A protocol spelt out: every training with its settings and folder, and every test that follows it."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from urllib.parse import quote

from promptkit.config import COMPONENT_SLOTS, RunConfig, resolve
from promptkit.data.layouts import Dataset
from promptkit.data.selection import select_evaluation, select_training, subset
from promptkit.errors import ConfigError, DataError
from promptkit.experiments.protocols import PROTOCOLS, TRANSFERS, BenchData, Part, Target, check_protocol
from promptkit.experiments.variants import Variant, read_variants
from promptkit.registry import Registry
from promptkit.settings import Scalar, option_fields

log = logging.getLogger("promptkit")

INSTEAD = {
    "data.path": "say where the data is with --data",
    "data.dataset": "name data sets with --datasets",
    "data.domains": "name the domains to train on with --source",
    "data.unlabelled_domains": "domain-adaptation chooses them",
    "data.classes": "the protocol chooses the classes",
    "data.shots": "give --shots, which takes several",
    "data.split": "give --split",
    "data.split_seed": "all learners of a bench share their test pictures",
    "train.seed": "give --seeds",
}
"""What --set can't set: it would have no effect, or tell results apart that tables take for the same."""


@dataclass(frozen=True)
class Request:
    """What is to be compared, and how. `flags` are settings of all learners, `sets` and `vary` the texts of these options.

    `learners` are texts as `promptkit.experiments.variants` reads them.
    A text that begins with a learner's name and a colon, `gopro:prompts.n_ctx=8`, is for that learner; another is for
    every learner that has the setting.
    """

    protocol: str
    learners: Sequence[str]
    seeds: Sequence[int] = (1, 2, 3)
    shots: Sequence[int] = (16,)
    source: str = ""
    """The domains to train on, or where a protocol transfers the data set; see `promptkit.experiments.protocols`."""
    flags: Mapping[str, Scalar] = field(default_factory=dict)
    sets: Sequence[str] = ()
    vary: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Training:
    """A run to train, and what to test it on."""

    folder: Path
    """Below the folder of results."""
    learner: Variant
    config: RunConfig
    part: Part
    dataset: Dataset
    """With splits, shots and classes chosen."""
    targets: tuple[tuple[Target, RunConfig], ...]
    """With the settings that the learner would have on that data: hand-made prompts are written for a data set."""

    @property
    def images(self) -> int:
        """To be seen by the end of training."""
        return self.config.train.epochs * sum(self.dataset.counts("train"))


@dataclass(frozen=True, eq=False)
class Plan:
    protocol: str
    source: str
    """The name of the data set to train on, where the protocol transfers; else ""."""
    trainings: tuple[Training, ...]


def make_plan(request: Request, datasets: Sequence[BenchData], registry: Registry) -> Plan:
    """The trainings of a protocol, always in the same order: by data set, part, shots, seed, then learner.

    Raises UnknownNameError and ConfigError for settings that don't exist, DataError for data that can't be trained or
    tested on.
    """
    check_protocol(request.protocol)
    for what, values in (("learners", request.learners), ("seeds", request.seeds), ("shots", request.shots)):
        if not values or len(set(values)) < len(values):
            problem = "names one twice" if values else "names none"
            raise ConfigError(f"--{what} {','.join(map(str, values))} {problem}", "a comma-separated list is expected")
    learners = read_variants(request.learners, request.vary, registry)
    _check_sets(request, learners)
    given = {learner: learner_sets(request.sets, learner, learners, registry) for learner in learners}
    warn = cache(lambda data, text: log.warning("%s: %s", data, text))  # once, however many seeds it is true of
    trainings = [
        training
        for part in PROTOCOLS[request.protocol](datasets, request.source)
        for shots in request.shots
        for seed in request.seeds
        for training in _trainings(request, part, shots, seed, given, registry, partial(warn, part.data.name))
    ]
    for target, config in {target: config for training in trainings for target, config in training.targets}.items():
        _check_target(target, config)
    return Plan(request.protocol, datasets[0].name if request.protocol in TRANSFERS else "", tuple(trainings))


def _trainings(
    request: Request,
    part: Part,
    shots: int,
    seed: int,
    given: Mapping[Variant, Sequence[str]],
    registry: Registry,
    warn: Callable[[str], object],
) -> Iterator[Training]:
    """One for each learner; they share their pictures."""
    shared: dict[object, Dataset] = {}
    for learner, sets in given.items():
        flags = dict(request.flags)
        if part.unlabelled and _looks_at_unlabelled(learner, sets, registry):
            flags["data.unlabelled_domains"] = ",".join(part.unlabelled)
        if registry.get("recipe", learner.recipe).settings.get("train.epochs") == 0:
            flags.pop("train.epochs", None)  # it has nothing to train, however long the others do

        def settings(
            data: BenchData,
            flags: Mapping[str, Scalar] = flags,
            recipe: str = learner.recipe,
            sets: Sequence[str] = sets,
        ) -> RunConfig:
            own: dict[str, Scalar] = {
                "data.path": data.path,
                "data.dataset": data.name if data.named else "",
                "data.domains": ",".join(part.domains),
                "data.classes": part.classes,
                "data.shots": shots,
                "train.seed": seed,
            }
            return resolve(registry, recipe, None, sets, {**flags, **own})

        config = settings(part.data)
        if config.data not in shared:
            read = subset(part.data.dataset, domains=part.domains)
            shared[config.data] = select_training(read, config.data, seed, warn)
        places = [request.protocol, part.data.name, learner.name, f"{shots}-shots", f"seed-{seed}", part.name]
        yield Training(
            Path(*(quote(place, safe=" =[],") for place in places if place)),
            learner,
            config,
            part,
            shared[config.data],
            tuple((target, settings(target.data)) for target in part.targets),
        )


def _looks_at_unlabelled(learner: Variant, sets: Sequence[str], registry: Registry) -> bool:
    """Others train on the sources alone."""
    loss = resolve(registry, learner.recipe, None, sets).components["loss"].name
    asks: bool = registry.component("loss", loss).unlabelled
    return asks


def images(target: Target, config: RunConfig) -> Dataset:
    """What a target tests on, split as the run's training images are.

    Raises DataError when fewer than two classes are left.
    """
    split, given = "all" if target.split == "whole" else "test", config.data
    return select_evaluation(target.data.dataset, split, given.split, given.split_seed, target.domains, target.classes)


def _check_target(target: Target, config: RunConfig) -> None:
    try:
        found = images(target, config)
    except DataError as error:
        raise DataError(f"{target} can't be tested: {error.message}", error.hint) from None
    there = {item.domain for item in found.items}
    if lacking := tuple(domain for domain in found.domains if domain not in there):
        target = replace(target, domains=lacking)
    if lacking or not there:
        drawn = target.data.dataset.split_source == "drawn"
        raise DataError(
            f"{target} can't be tested: there is no test picture",
            "to draw one, a class needs two" if drawn else "give it some, or draw the splits with --split draw",
        )


def _check_sets(request: Request, learners: Sequence[Variant]) -> None:
    own = [(f"--learners {learner.name}", text) for learner in learners for text in learner.sets]
    for text in request.sets:
        name, colon, rest = text.partition(":")
        own.append((f"--set {text}", rest if colon and name in {learner.name for learner in learners} else text))
    for where, text in own:
        if (key := _key(text)) in INSTEAD:
            raise ConfigError(f"{where}: {key} can't be set in a bench", INSTEAD[key])


def learner_sets(sets: Sequence[str], learner: Variant, learners: Sequence[Variant], registry: Registry) -> list[str]:
    """The texts of --set that are for a learner, then its own; one that no learner has a place for stays, to be refused."""
    texts = {one: _addressed(sets, one, learners) for one in learners}
    has = {one: _options(registry, one, [text for text, _ in texts[one]]) for one in learners}

    def applies(text: str, own: bool) -> bool:
        key = _key(text)
        return own or not any(key in known for known in has.values()) or key in has[learner]

    return [*(text for text, own in texts[learner] if applies(text, own)), *learner.sets]


def _addressed(sets: Sequence[str], learner: Variant, learners: Sequence[Variant]) -> list[tuple[str, bool]]:
    """The texts for a learner and for all, and which are for it alone."""
    found = []
    names = {one.name for one in learners}
    for text in sets:
        name, colon, rest = text.partition(":")
        if not colon or name not in names:
            found.append((text, False))
        elif name == learner.name:
            found.append((rest, True))
    return found


def _options(registry: Registry, learner: Variant, texts: Sequence[str]) -> set[str]:
    """The options, `slot.field`, of a learner's components, those that take another's place with --set among them."""
    swaps = [text for text in (*texts, *learner.sets) if _key(text) in COMPONENT_SLOTS]
    config = resolve(registry, learner.recipe, None, swaps)
    return {
        f"{slot}.{option.name}"
        for slot, component in config.components.items()
        for option in option_fields(type(component.options))
    }


def _key(text: str) -> str:
    return text.partition("=")[0].strip()

"""What the demo's figures say: one table, and three sentences that are computed from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from rich.table import Table

from promptkit.experiments.statistics import statistics

Key = tuple[str, str, str]
"""Learner, class set ("base" or "new"), domain."""


@dataclass(frozen=True)
class Figures:
    """Accuracies in per cent, one for each seed in the same order; zero-shot CLIP has one for every seed too."""

    accuracy: Mapping[Key, Sequence[float]]
    learners: Sequence[str]
    source: str
    """The domain that was trained on."""
    domains: Sequence[str]

    @property
    def others(self) -> list[str]:
        return [domain for domain in self.domains if domain != self.source]

    def seeds(self, learner: str, classes: str, domains: Sequence[str]) -> list[float]:
        """The mean over domains, for each seed."""
        columns = [self.accuracy[learner, classes, domain] for domain in domains]
        return [mean(column) for column in zip(*columns, strict=True)]

    def gain(self, learner: str, other: str, classes: str, domains: Sequence[str]) -> list[float]:
        """By how many points a learner is ahead of another, for each seed."""
        pairs = zip(self.seeds(learner, classes, domains), self.seeds(other, classes, domains), strict=True)
        return [one - another for one, another in pairs]


def table(figures: Figures) -> Table:
    """A row for each class set and domain; mean and spread over seeds for each learner, the best of a row in bold."""
    drawn = Table()
    drawn.add_column("classes")
    drawn.add_column("domain")
    for learner in figures.learners:
        drawn.add_column(learner, justify="right")
    for classes, title in (("base", "base, trained"), ("new", "new, not trained")):
        rows = [(f"{figures.source}, trained", [figures.source]), *((domain, [domain]) for domain in figures.others)]
        rows.append(("mean of the others", figures.others))
        for number, (label, domains) in enumerate(rows):
            cells = [figures.seeds(learner, classes, domains) for learner in figures.learners]
            best = max(mean(cell) for cell in cells)
            words = [f"[bold]{spread(cell)}[/]" if mean(cell) == best else spread(cell) for cell in cells]
            drawn.add_row("" if number else title, label, *words, end_section=number == len(rows) - 1)
    return drawn


def spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation over seeds; figures that no seed changes stand alone."""
    if len(set(values)) == 1:
        return f"{mean(values):.1f}"
    return f"{mean(values):.1f} ± {stdev(values):.1f}"


def sentences(figures: Figures) -> list[str]:
    """What the figures say of training, of other domains, and of new classes."""
    source, others = [figures.source], figures.others
    trained = [learner for learner in figures.learners if learner != "zeroshot"]

    best = max(trained, key=lambda learner: mean(figures.seeds(learner, "base", source)))
    gain = figures.gain(best, "zeroshot", "base", source)
    paid = "pay" if _clear(gain) and mean(gain) > 0 else "did not clearly pay"
    learning = (
        f"Learned prompts {paid} where they were trained: on the base classes of {figures.source}, {best} reaches "
        f"{spread(figures.seeds(best, 'base', source))} % and hand-made prompts "
        f"{mean(figures.seeds('zeroshot', 'base', source)):.1f} %; "
        + _list([f"{name} {_verdict(figures.gain(name, 'zeroshot', 'base', source))}" for name in trained])
        + "."
    )

    ranked = sorted(trained, key=lambda learner: -mean(figures.seeds(learner, "base", others)))
    ahead = figures.gain(ranked[0], ranked[1], "base", others)
    transfer = (
        f"On the domains that no learner saw ({', '.join(others)}), {ranked[0]} is best with "
        f"{spread(figures.seeds(ranked[0], 'base', others))} % on base classes, before {ranked[1]} by "
        f"{spread(ahead)} points, {_certainty(ahead)}; against hand-made prompts, "
        + _list([f"{name} {_verdict(figures.gain(name, 'zeroshot', 'base', others))}" for name in trained])
        + "."
    )

    new = (
        "On classes that were not trained, over all domains and against hand-made prompts, "
        + _list([f"{name} {_verdict(figures.gain(name, 'zeroshot', 'new', figures.domains))}" for name in trained])
        + "."
    )
    return [learning, transfer, new]


def _verdict(gain: Sequence[float]) -> str:
    if not _clear(gain):
        return f"makes no clear difference ({_signed(gain)})"
    return f"{'gains' if mean(gain) > 0 else 'loses'} {spread([abs(points) for points in gain])} points"


def _certainty(gain: Sequence[float]) -> str:
    return "more than the seeds differ" if _clear(gain) else "which is within what the seeds differ"


def _clear(gain: Sequence[float]) -> bool:
    """Does the 95 % interval over seeds, as `promptkit table` prints it, leave 0 out?"""
    (found,) = statistics(gain).itertuples()
    return bool(abs(found.mean) > found.half_width)  # not of too few, whose interval is unknown


def _signed(gain: Sequence[float]) -> str:
    return f"{mean(gain):+.1f} ± {stdev(gain):.1f}" if len(gain) > 1 else f"{mean(gain):+.1f}"


def _list(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]

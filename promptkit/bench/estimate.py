"""How long the rest of a bench takes, from what the logs of its runs say of those that began before."""

from collections import defaultdict
from pathlib import Path

from promptkit.bench.runner import UNTRAINED, Runner
from promptkit.files import plain_json
from promptkit.runs.checkpoint import LOG


def seconds_left(runner: Runner) -> float | None:
    """Of training in the runner's shard; None before any epoch of any run is done.

    A learner that has no epoch behind it is taken to be as fast as the others.
    """
    seen: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for training in runner.plan.trainings:
        images, seconds = _logged(runner.path(training))
        seen[training.config.recipe][0] += images
        seen[training.config.recipe][1] += seconds
    everything = [sum(column) for column in zip(*seen.values(), strict=True)]
    left = {learner: images for learner, images in _left(runner).items() if images}
    if left and not everything[0]:
        return None
    rates = {learner: seen[learner] if seen[learner][0] else everything for learner in left}
    return sum(images * rates[learner][1] / rates[learner][0] for learner, images in left.items())


def images_left(runner: Runner) -> int:
    """Over all epochs of the runs in the shard that are not finished."""
    return sum(_left(runner).values())


def _left(runner: Runner) -> dict[str, int]:
    """Pictures, by learner."""
    left: dict[str, int] = defaultdict(int)
    for training in runner.trainings:
        if runner.state(training) in UNTRAINED:
            left[training.config.recipe] += max(0, training.images - _logged(runner.path(training))[0])
    return left


def _logged(run: Path) -> tuple[int, float]:
    """Pictures seen in training, and the seconds it took."""
    images, seconds = 0, 0.0
    try:
        lines = (run / LOG).read_text(encoding="utf-8").splitlines()
        for row in map(plain_json, lines):
            images, seconds = images + int(row["images"]), seconds + float(row["seconds"])
    except (OSError, ValueError, TypeError, KeyError):
        pass  # no log, or its last line is half written
    return images, seconds


def format_duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    hours, minutes = divmod(minutes, 60)
    return f"about {hours} h {minutes} min" if hours else f"about {minutes} min"

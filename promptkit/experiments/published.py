"""Figures of the literature, to stand beside one's own.

`published.csv` holds accuracies in per cent that the literature prints: CLIP ViT-B/16 with OpenAI's weights, 16 shots, the
published splits, ImageNet as the source where a protocol transfers. Which paper a row is from is not recorded: a learner's
figures may be those that the authors of a later one found. One contradicts the others: CoCoOp's 71.15 on the new classes of
Flowers102, where its harmonic mean and its average both imply 71.75.
"""

import csv
from functools import lru_cache
from importlib.resources import files

from promptkit.experiments.results import Result
from promptkit.experiments.summary import AVERAGE, OF_MEANS, Row, Summary

NAMES = {"CLIP": "zeroshot", "CoOp": "coop", "CoCoOp": "cocoop", "GOPro": "gopro", "MaPLe": "maple"}
"""The recipes of learners; the others have none here."""
FIGURES = {OF_MEANS: "harmonic_mean"}


@lru_cache(maxsize=1)
def published() -> dict[tuple[str, str, str, str], float]:
    """By protocol, recipe, data set (or "average") and figure: accuracy, base, new or harmonic_mean."""
    text = files("promptkit.experiments").joinpath("published.csv").read_text(encoding="utf-8")
    return {
        (row["protocol"], NAMES.get(row["learner"], row["learner"]), row["dataset"], row["metric"]): float(row["value"])
        for row in csv.DictReader(text.splitlines())
    }


def published_figure(summary: Summary, row: Row, learner: str) -> float | None:
    """What the literature has for a row, if ours was found under the same conditions; an average, over the same data sets."""
    results = summary.results[learner]
    dataset = row.dataset
    if dataset == AVERAGE:
        if set(summary.whole) != _averaged(summary.protocol):
            return None
    else:
        results = [result for result in results if summary.titles[result.data] == dataset]
        dataset = results[0].title
    if summary.metric.name != "accuracy" or not all(map(_same_conditions, results)):
        return None
    return published().get((summary.protocol, results[0].learner, dataset, FIGURES.get(row.figure, row.figure)))


def _averaged(protocol: str) -> set[str]:
    """The titles of the data sets that published averages are over; a transfer's source is none."""
    titles = {dataset for name, _, dataset, _ in published() if name == protocol} - {AVERAGE}
    return titles if protocol == "base-to-new" else titles - {"ImageNet"}


def _same_conditions(result: Result) -> bool:
    backbone = result.backbone.replace("/", "-"), result.weights
    return (
        backbone == ("ViT-B-16", "openai")
        and result.shots == 16
        and result.split == "published"
        and result.source in ("", "imagenet")
    )

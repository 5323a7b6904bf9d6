from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptkit.experiments.results import Result, read_results
from promptkit.metrics import Scores

MakeResult = Callable[..., Result]


def figures(folder: Path) -> dict[tuple[object, ...], object]:
    return {result.key: result.scores for result in read_results([folder])}


@pytest.fixture
def result() -> MakeResult:
    """A result of an accuracy, with some other fields: result(0.75, learner="gopro", seed=2)."""

    def make(accuracy: float, **others: Any) -> Result:
        metrics = dict.fromkeys(("macro_accuracy", "top5", "macro_f1"), accuracy) | {"ece": 1 - accuracy}
        metrics |= {name: others.pop(name) for name in list(others) if name in metrics or name == "kappa"}
        about = {
            "protocol": "base-to-new",
            "learner": "coop",
            "dataset": "dtd",
            "title": "DTD",
            "domain": "all",
            "recipe": "coop",
            "settings": {},
            "classes": "base",
            "seed": 1,
            "shots": 16,
            "split": "published",
            "source": "",
            "backbone": "ViT-B-16",
            "weights": "openai",
            "template": "",
            "packages": {"clip-promptkit": "0.1.0", "torch": "2.7.0"},
            "fingerprint": "f" * 64,
            "trained_on": "a" * 64,
            "tested_on": "b" * 64,
            "run": "runs/one",
        }
        scores = Scores({"accuracy": accuracy, **metrics}, per_class=(accuracy, None), n=50)
        return Result(**{**about, **others}, scores=scores)

    return make

"""Whether what `eval` and `bench` report is what `predict` answers, batch by batch and from the feature cache."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from promptkit.contract import Defect
from promptkit.data.layouts import Dataset, read_dataset
from promptkit.evaluation.evaluate import evaluate, predict_pixels
from promptkit.evaluation.passes import make_pass
from promptkit.learner import Learner
from promptkit.metrics import Predictions
from promptkit.settings import LoaderSettings
from promptkit.tensors import Batch
from promptkit.testing.data import write_images
from promptkit.testing.specimen import CLASSES, Specimen, close

SHAPED = LoaderSettings(workers=0, batch_size=3)
"""No batch of four pictures is whole."""


def check_reports(specimen: Specimen) -> None:
    """`eval` and `bench` report what predict() answers, whatever the batches are and wherever the features come from."""
    learner = specimen.trained()
    with _somewhere() as folder:
        dataset = read_dataset(write_images(folder / "pictures", CLASSES, (), 1, 40))
        expected = _answers(learner, dataset)
        for cache, way in ((False, "batch by batch"), (True, "from the feature cache")):
            learner.reset()
            (found,) = evaluate({"": learner}, dataset, SHAPED, cache).predictions[""].values()
            if not (
                torch.equal(found.likeliest, expected.likeliest) and close(found.probabilities, expected.probabilities)
            ):
                raise Defect(
                    f"evaluated {way}, the answers are not those that predict() gives: answer from "
                    "self.image_features(batch), and say in required_features() what that reads"
                )


def _answers(learner: Learner, dataset: Dataset) -> Predictions:
    """What `predict` says of the pictures themselves, in the order that evaluation shows them in."""
    loading = LoaderSettings(workers=0, batch_size=1)
    asked = make_pass({"": learner}, dataset.items, dataset.root, loading)
    shown = [loaded.batch for loaded in asked.source.loader(asked.source.items) if loaded.batch]
    pictures = [Batch(batch.views, torch.full_like(batch.label, -1)) for batch in shown]
    learner.reset()
    with torch.no_grad():
        if asked.whole:
            views = {name: torch.cat([one.views[name] for one in pictures]) for name in pictures[0].views}
            logits = predict_pixels(learner, Batch(views, torch.full((len(pictures),), -1)))
        else:
            logits = torch.cat([learner.predict(one) for one in pictures])
    return Predictions.together([Predictions.of(logits, torch.zeros(len(logits)).long(), asked.places)])


@contextmanager
def _somewhere() -> Iterator[Path]:
    """A folder with a cache of its own, so that a check leaves nothing in the user's."""
    before = os.environ.get("PROMPTKIT_CACHE")
    with TemporaryDirectory() as folder:
        os.environ["PROMPTKIT_CACHE"] = f"{folder}/cache"
        try:
            yield Path(folder)
        finally:
            del os.environ["PROMPTKIT_CACHE"]
            if before is not None:
                os.environ["PROMPTKIT_CACHE"] = before

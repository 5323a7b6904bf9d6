"""TDA: caches of confident and of uncertain test pictures, filled along the stream, move CLIP's zero-shot logits.

Karmanov et al., Efficient Test-Time Adaptation of Vision-Language Models, CVPR 2024. As `tda_runner.py` and `utils.py` of
the released code (kdiAAA/TDA).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor

from promptkit import hookimpl
from promptkit.learner import Learner, Recipe
from promptkit.tensors import Batch


class Cache:
    """For each class, the pictures of least entropy among those that were taken for it, and what each votes for."""

    def __init__(self, classes: int, shots: int, like: Float[Tensor, "... D"]) -> None:
        self.keys = like.new_zeros(classes, shots, like.shape[-1])
        self.votes = like.new_zeros(classes, shots, classes)
        self.entropy = like.new_full((classes, shots), torch.inf)

    def add(self, row: int, entropy: Tensor, key: Float[Tensor, " D"], vote: Float[Tensor, " C"]) -> None:
        """Take a free place of the class, or that of its most uncertain picture if that is more uncertain."""
        worst = int(self.entropy[row].argmax())
        if entropy < self.entropy[row, worst]:
            self.keys[row, worst], self.votes[row, worst], self.entropy[row, worst] = key, vote, entropy

    def logits(self, image: Float[Tensor, " D"], beta: float) -> Float[Tensor, " C"]:
        affinity = (self.keys @ image).flatten()
        return (beta * affinity - beta).exp() @ self.votes.flatten(0, 1)


class TDA(Learner):
    """Zero-shot logits, plus the votes of confident pictures of the stream, less those of uncertain ones."""

    adapts = "online"

    @dataclass(frozen=True)
    class Options:
        shots: Annotated[int, "confident pictures that are kept of a class", Ge(0)] = 3
        alpha: Annotated[float, "weight of their votes"] = 2.0
        beta: Annotated[float, "how sharply they answer"] = 5.0
        negative_shots: Annotated[int, "uncertain pictures that are kept of a class", Ge(0)] = 2
        negative_alpha: Annotated[float, "weight of their votes"] = 0.117
        negative_beta: Annotated[float, "how sharply they answer"] = 1.0
        least: Annotated[float, "entropy (as a share of its bound) from which a picture is uncertain"] = 0.2
        most: Annotated[float, "entropy up to which it is kept"] = 0.5
        mask: Annotated[float, "probability from which an uncertain picture votes against a class"] = 0.03
        confident: Annotated[
            float, "of several views, the share that is kept, those of least entropy", Gt(0), Le(1)
        ] = 0.1

    def set_classes(self, names: Sequence[str]) -> None:
        super().set_classes(names)
        self.reset()

    def reset(self) -> None:
        self.caches: tuple[Cache, Cache] | None = None

    @torch.no_grad()
    def predict(self, batch: Batch) -> Float[Tensor, "B C"]:
        features = self.image_features(batch)
        seen = torch.stack(features.pooled.chunk(len(features.views)), 1)  # (B V D)
        text = self.text(features)[0].mean(1)
        # The answer to a picture depends on those before it, so they are taken one by one.
        return torch.stack([self.answer(views, text) for views in seen])

    def answer(self, views: Float[Tensor, "V D"], text: Float[Tensor, "C D"]) -> Float[Tensor, " C"]:
        """Take the views of the next picture into the caches, and answer."""
        options, n = self.options, len(text)
        if self.caches is None:
            self.caches = Cache(n, options.shots, text), Cache(n, options.negative_shots, text)
        positive, negative = self.caches
        logits = self.scene.backbone.logit_scale * views @ text.T
        if len(views) > 1:
            kept = entropy(logits.log_softmax(-1)).argsort()[: max(1, int(len(views) * options.confident))]
            logits, views = logits[kept], views[kept]
        probability, image = logits.softmax(-1).mean(0), views.mean(0)
        uncertainty = entropy(logits.log_softmax(-1).logsumexp(0) - math.log(len(logits)))
        logits = logits.mean(0)
        row = int(logits.argmax())
        positive.add(row, uncertainty, image, torch.eye(n, dtype=text.dtype, device=text.device)[row])
        if options.least < float(uncertainty) / math.log2(n) < options.most:
            vote = ((probability > options.mask) & (probability < 1)).to(text)
            negative.add(row, uncertainty, image, vote)
        logits += options.alpha * positive.logits(image, options.beta)
        logits -= options.negative_alpha * negative.logits(image, options.negative_beta)
        return logits


def entropy(log_probabilities: Float[Tensor, "... C"]) -> Float[Tensor, "..."]:
    """Of distributions over classes."""
    finite = log_probabilities.clamp(min=torch.finfo(log_probabilities.dtype).min)
    return -(finite * finite.exp()).sum(-1)


WEIGHTS = {
    "caltech101": (5.0, 5.0), "dtd": (2.0, 3.0), "eurosat": (4.0, 8.0), "fgvc_aircraft": (2.0, 2.0), "food101": (1.0, 1.0),
    "imagenet": (2.0, 5.0), "imagenet_a": (2.0, 5.0), "imagenet_r": (1.0, 8.0), "imagenet_sketch": (2.363, 7.45),
    "imagenetv2": (1.0, 8.0), "oxford_flowers": (1.0, 5.0), "oxford_pets": (2.0, 7.0), "stanford_cars": (1.0, 7.0),
    "sun397": (2.0, 3.0), "ucf101": (3.0, 8.0),
}  # fmt: skip
"""Alpha and beta of the confident pictures, of `configs/*.yaml`."""

ENSEMBLES = {
    **dict.fromkeys(
        ("caltech101", "imagenet", "imagenet_a", "imagenetv2", "stanford_cars", "sun397"), "imagenet-simple"
    ),
    **dict.fromkeys(("imagenet_r", "imagenet_sketch"), "imagenet"),
}
"""The templates of `datasets/*.py`, where they are several."""


@hookimpl
def register_learners(register: Callable[[str, type[Learner]], None]) -> None:
    register("tda", TDA)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "tda",
        Recipe(
            summary="TDA: caches of confident and uncertain test pictures along a stream; nothing is trained",
            prompts="template",
            learner="tda",
            settings={"train.epochs": 0},
            datasets={
                name: {
                    "learner.alpha": alpha,
                    "learner.beta": beta,
                    **({"prompts.template": ENSEMBLES[name]} if name in ENSEMBLES else {}),
                }
                for name, (alpha, beta) in WEIGHTS.items()
            },
            paper="Karmanov et al., Efficient Test-Time Adaptation of Vision-Language Models, CVPR 2024",
        ),
    )

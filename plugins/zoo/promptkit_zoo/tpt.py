"""TPT: contexts are tuned on the views of a single test picture, and forgotten before the next.

Shu et al., Test-Time Prompt Tuning for Zero-Shot Generalization in Vision-Language Models, NeurIPS 2022. As
`tpt_classification.py` of the released code (azshue/TPT), less its gradient scaling.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from promptkit import ConfigError, hookimpl
from promptkit.backbones.base import ImageSpec
from promptkit.components import ContextPrompts, PlainViews, PromptGenerator, Views
from promptkit.learner import Learner, Recipe
from promptkit.tensors import Batch


class TPTPrompts(ContextPrompts):
    """Context vectors to start from, one set for all classes."""


class TPTViews(PlainViews):
    """The picture as CLIP is tested on it, and random crops of it, half of them mirrored."""

    draws = True

    @dataclass(frozen=True)
    class Options:
        crops: Annotated[int, "random crops beside the whole picture", Ge(0)] = 63
        min_scale: Annotated[float, "smallest share of the picture that a crop keeps", Gt(0), Le(1)] = 0.08

    def __init__(self, options: Any, image: ImageSpec) -> None:
        super().__init__(options, image)
        self.names = ("image", *(f"crop{i}" for i in range(options.crops)))

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        picture, made = Image.fromarray(image), dict(super().__call__(image, rng))
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (self.image.mean, self.image.std))
        for name in self.names[1:]:
            box = crop_box(picture.width, picture.height, self.options.min_scale, rng)
            crop = picture.crop(box).resize(self.image.size[::-1], Image.Resampling.BILINEAR)
            pixels = np.asarray(crop, np.float32).transpose(2, 0, 1) / 255
            pixels = pixels[:, :, ::-1] if rng.random() < 0.5 else pixels
            made[name] = ((pixels - mean) / std).astype(np.float32)
        return made


def crop_box(width: int, height: int, min_scale: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, upper, right and lower edge, as torchvision's RandomResizedCrop draws them."""
    for _ in range(10):
        area = width * height * rng.uniform(min_scale, 1)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            break
    else:
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        return (width - w) // 2, (height - h) // 2, (width + w) // 2, (height + h) // 2
    left, upper = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    return left, upper, left + w, upper + h


class TPT(Learner):
    """Tunes the contexts of each test picture by itself, so that its views agree on a confident answer."""

    adapts = "episodic"
    prompts: ContextPrompts
    needs: ClassVar[Mapping[str, type]] = {"prompts": ContextPrompts}

    @dataclass(frozen=True)
    class Options:
        steps: Annotated[int, "steps of AdamW for a picture", Ge(0)] = 1
        lr: Annotated[float, "their length", Ge(0)] = 0.005
        confident: Annotated[float, "share of the views that is kept, those of least entropy", Gt(0), Le(1)] = 0.1

    def __init__(self, *parts: Any) -> None:
        """Raises ConfigError for contexts that depend on the picture already."""
        super().__init__(*parts)
        if self.prompts.conditional:
            raise ConfigError(
                "TPT tunes contexts that all pictures start from; these depend on the picture", "pick others"
            )

    def predict(self, batch: Batch) -> Float[Tensor, "B C"]:
        features = self.image_features(batch)
        seen = torch.stack(features.pooled.detach().chunk(len(features.views)), 1)  # (B V D)
        start = self.prompts.text(None).context
        assert start is not None, "ContextPrompts have one"
        contexts = start.detach().expand(len(seen), *start.shape[1:]).clone().requires_grad_()
        # Every picture has contexts of its own, and AdamW treats every number by itself: this is one run for each.
        optimizer = torch.optim.AdamW([contexts], self.options.lr)
        chosen: Tensor | None = None
        for _ in range(self.options.steps):
            with torch.enable_grad():
                logits = self.scored(seen, contexts)
                if chosen is None:
                    kept = max(1, int(seen.shape[1] * self.options.confident))
                    chosen = entropy(logits.log_softmax(-1)).argsort(1)[:, :kept]
                confident = logits.take_along_dim(chosen[..., None], 1).log_softmax(-1)
                marginal = confident.logsumexp(1) - math.log(confident.shape[1])
                (contexts.grad,) = torch.autograd.grad(entropy(marginal).sum(), contexts)
            optimizer.step()
        return self.scored(seen[:, features.views.index("image")][:, None], contexts.detach())[:, 0]

    def scored(self, seen: Float[Tensor, "B V D"], contexts: Float[Tensor, "B #C K M W"]) -> Float[Tensor, "B V C"]:
        """Logits of each view under its picture's contexts."""
        backbone = self.scene.backbone
        text = backbone.encode_text(replace(self.prompts.text(None), context=contexts), self.classes).mean(2)
        if self.class_rows is not None:
            text = text[:, self.class_rows]
        return backbone.logit_scale * torch.einsum("bvd,bcd->bvc", seen, text)


def entropy(log_probabilities: Float[Tensor, "... C"]) -> Float[Tensor, "..."]:
    """Of distributions over classes."""
    finite = log_probabilities.clamp(min=torch.finfo(log_probabilities.dtype).min)
    return -(finite * finite.exp()).sum(-1)


@hookimpl
def register_prompts(register: Callable[[str, type[PromptGenerator]], None]) -> None:
    register("tpt", TPTPrompts)


@hookimpl
def register_views(register: Callable[[str, type[Views]], None]) -> None:
    register("tpt", TPTViews)


@hookimpl
def register_learners(register: Callable[[str, type[Learner]], None]) -> None:
    register("tpt", TPT)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "tpt",
        Recipe(
            summary="TPT: contexts tuned on the views of one test picture at a time; nothing is trained before",
            prompts="tpt",
            learner="tpt",
            test_views="tpt",
            settings={"train.epochs": 0},
            paper="Shu et al., Test-Time Prompt Tuning for Zero-Shot Generalization, NeurIPS 2022",
        ),
    )

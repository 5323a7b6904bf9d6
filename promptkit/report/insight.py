"""What a learner has learned, in words and places: nearest words of context tokens, a map of features, the views."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from promptkit.backbones.openclip import OpenClipBackbone
from promptkit.components import ContextPrompts, NoOptions, PlainViews
from promptkit.data.layouts import Item
from promptkit.errors import OutputError
from promptkit.features.cache import cached_features
from promptkit.features.sources import Source, is_cacheable
from promptkit.learner import Learner
from promptkit.prediction.classifier import Classifier
from promptkit.settings import LoaderSettings
from promptkit.tensors import Batch, ImageFeatures

log = logging.getLogger("promptkit")

FOR_TEXT = 64
"""Pictures."""
NEIGHBOURS = 15
"""Of a point, for UMAP, which is of no use for as few pictures."""


def nearest_words(learner: Learner, most: int = 5, rows: int = 64) -> dict[str, list[tuple[str, float]]]:
    """For each learned context token the nearest words, with their distances, as CoOp's `interpret_prompt.py` has them.

    Args:
        learner: Its contexts, where they depend on the image, are read without the image's part.
        most: Words of a token.
        rows: Tokens at most.

    Returns:
        By token: "3", or "cat, 3" where each class has its own; empty where a learner has no context tokens.
    """
    prompts, backbone = learner.prompts, learner.scene.backbone
    if not isinstance(prompts, ContextPrompts) or not isinstance(backbone, OpenClipBackbone):
        return {}
    classes, per_class, tokens, _ = prompts.ctx.shape
    names = [
        ", ".join([*([name] if classes > 1 else []), *([f"prompt {k}"] if per_class > 1 else []), str(m)])
        for name in learner.scene.classnames[:classes]
        for k in range(1, per_class + 1)
        for m in range(1, tokens + 1)
    ][:rows]
    return dict(zip(names, backbone.nearest_words(prompts.ctx.flatten(0, 2)[:rows], most), strict=True))


@dataclass(frozen=True, eq=False)
class Seen:
    """What the image tower saw of the pictures that are readable, at `rows` of those that were asked for."""

    rows: list[int]
    features: ImageFeatures
    some: ImageFeatures
    """Of the first few: enough for the mean of a text that depends on the picture."""


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Places in a plane, where what looks alike lies together."""

    images: np.ndarray
    """(n 2)"""
    texts: np.ndarray
    """(C 2)"""
    method: str
    """That made the plane."""


@torch.no_grad()
def feature_map(learner: Learner, seen: Seen) -> FeatureMap:
    """Pictures' unit-norm features and class texts: by UMAP where umap-learn is installed, else principal components.

    CLIP's pictures and texts lie apart, all in one direction, and texts closer together than pictures do, so each are
    centred, and scaled to the same spread, by themselves. Text that depends on the picture is the mean over the pictures.
    """
    device = learner.scene.backbone.device
    text = learner.encode_text(seen.some.to(device) if learner.prompts.conditional else None).mean((0, 2)).cpu()
    image = seen.features.pooled.cpu()
    image, text = (part - part.mean(0) for part in (image, text))
    image, text = (part / part.norm(dim=1).mean().clamp(min=1e-12) for part in (image, text))
    if find_spec("umap") is not None and len(image) > NEIGHBOURS:
        from umap import UMAP

        # One job, as it is what a seed leaves; it warns otherwise.
        plane = UMAP(n_neighbors=NEIGHBOURS, metric="cosine", random_state=0, n_jobs=1)
        places = plane.fit_transform(torch.cat([image, text]).numpy())
        return FeatureMap(places[: len(image)], places[len(image) :], "UMAP, from the cosines of features")
    _, _, directions = torch.pca_lowrank(image, q=2, center=False, niter=4)
    return FeatureMap(
        (image @ directions).numpy(),
        (text @ directions).numpy(),
        "principal components, the two directions in which the pictures' features differ most",
    )


def read_features(learner: Learner, items: Sequence[Item], folder: Path, loading: LoaderSettings) -> Seen:
    """What the learner reads of the pictures' image tower: from the feature store, where it may be kept there."""
    views = PlainViews(NoOptions(), learner.scene.backbone.image)
    source = Source.evaluation(items, folder, views, learner.seed, loading)
    spec = learner.required_features()
    if spec and is_cacheable(spec):
        try:
            (cached,) = cached_features(source, [spec])
            rows = cached.readable.nonzero()[:, 0]
            return Seen(rows.tolist(), cached.features(rows), cached.features(rows[:FOR_TEXT]))
        except OutputError as error:
            log.warning("%s; looked at without keeping features", error.message)
    loaded = [one for one in source.loader(items[:FOR_TEXT]) if one.batch is not None]
    rows = torch.cat([one.index for one in loaded])
    pixels = torch.cat([one.batch.views["image"] for one in loaded if one.batch])
    with torch.no_grad():
        features = learner.image_features(Batch.of(pixels).to(learner.scene.backbone.device))
    return Seen(rows.tolist(), features, features)


@dataclass(frozen=True, eq=False)
class HeatMap:
    """A picture as the tower sees it, warm where its likeliest class is seen."""

    label: str
    score: float
    grid: tuple[int, int]
    """Patches, down and across."""
    image: Image.Image


@torch.no_grad()
def heat_map(classifier: Classifier, picture: Path) -> HeatMap:
    """Cosine similarity of each patch with the likeliest class's text, from the coolest patch to the warmest.

    Raises BackboneError where the tower has no patch features, DataError for a picture that can't be read.
    """
    learner = classifier.learner
    backbone = learner.scene.backbone
    pixels = classifier.preprocess(picture)[None].to(backbone.device)
    best = classifier(picture, topk=1)[0]
    assert isinstance(best, dict)
    features = backbone.encode_image(pixels, learner.prompts.vision(), learner.prompts.intermediates(), patches=True)
    assert features.patches is not None
    text = learner.encode_text(features).mean(2)[0, learner.classnames.index(best["label"])]
    height, width = backbone.image.size
    down = round((features.patches.shape[1] * height / width) ** 0.5)
    warmth = torch.unflatten(features.patches[0] @ text, 0, (down, -1)).cpu()
    warmth = (warmth - warmth.min()) / (warmth.max() - warmth.min()).clamp(min=1e-12)
    mean, std = (torch.tensor(values)[:, None, None] for values in (backbone.image.mean, backbone.image.std))
    seen = ((pixels[0].cpu() * std + mean).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    scale = max(1, 448 // max(seen.shape[:2]))
    shown = Image.fromarray(seen).resize((seen.shape[1] * scale, seen.shape[0] * scale), Image.Resampling.BICUBIC)
    grey = Image.fromarray((warmth.numpy() * 255).astype(np.uint8)).resize(shown.size, Image.Resampling.BICUBIC)
    heat = ImageOps.colorize(grey, black="#00204c", mid="#7c7b78", white="#ffe945")
    return HeatMap(best["label"], best["score"], (down, warmth.shape[1]), Image.blend(shown, heat, 0.55))

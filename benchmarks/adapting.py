"""TPT on 64 views: picture after picture with towers as open_clip runs them, and on banked views with packed texts."""

import argparse
import math

import plain
import torch
from measuring import best, check, classnames, report
from promptkit_zoo import tpt
from torch import Tensor

from promptkit.backbones.base import Backbone
from promptkit.build import build_learner, load_backbone
from promptkit.components import Scene
from promptkit.config import resolve
from promptkit.learner import Learner
from promptkit.tensors import Batch, ImageFeatures, NoPixels
from promptkit.testing import registered

TOLERANCE = 1e-3
"""Of logits, relative to the largest: a step of AdamW has the length of its rate however small a gradient is."""


def straightforward(learner: Learner, views: Tensor) -> Tensor:
    """One picture's logits (C), from its views (V 3 H W)."""
    backbone, options = learner.scene.backbone, learner.options
    seen, _ = plain.encode_image(backbone, views)
    context = learner.prompts.ctx[0, 0].detach().clone().requires_grad_()
    optimizer = torch.optim.AdamW([context], options.lr)
    logits = backbone.logit_scale * seen @ plain.encode_text(backbone, context, learner.classes).T
    entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1)
    chosen = entropy.argsort()[: int(len(seen) * options.confident)]
    marginal = logits[chosen].log_softmax(1).logsumexp(0) - math.log(len(chosen))
    (-(marginal * marginal.exp()).sum()).backward()
    optimizer.step()
    with torch.no_grad():
        return backbone.logit_scale * seen[0] @ plain.encode_text(backbone, context, learner.classes).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="ViT-B-16")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--crops", type=int, default=63)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    flags = {"backbone.name": options.backbone, "backbone.weights": "none", "test_views.crops": options.crops}
    with registered(tpt, "clip-promptkit-zoo") as registry:
        config = resolve(registry, "tpt", flags=flags)
        backbone: Backbone = load_backbone(config.backbone, registry)
        learner = build_learner(config, registry, Scene(backbone, tuple(classnames(options.classes)))).eval()
    names = learner.test_views.names
    pixels = torch.randn(len(names), 3, *backbone.image.size)
    said: dict[str, Tensor] = {}
    times = best(
        {"encoding, once": lambda: said.update(views=backbone.encode_image(pixels).pooled)}, {"encoding, once": 1}
    )
    banked = ImageFeatures(said["views"].repeat_interleave(options.batch, 0), views=names)
    batch = Batch(NoPixels(), torch.full((options.batch,), -1), banked)
    learner.predict(batch)  # constants are computed once
    times |= best(
        {
            "plain": lambda: said.update(plain=straightforward(learner, pixels)),
            "promptkit": lambda: said.update(promptkit=learner.predict(batch)),
        },
        {"plain": 1, "promptkit": 2},
    )
    off = check("logits", said["promptkit"], said["plain"].expand(options.batch, -1), TOLERANCE)
    pictures = {"plain": 1, "promptkit": options.batch, "encoding, once": 1}
    cpu, wall = ({name: times[name][i] / pictures[name] for name in times} for i in (0, 1))
    report(
        "test time",
        C=options.classes,
        views=len(names),
        B=options.batch,
        **{f"{name}, cpu s a picture": seconds for name, seconds in cpu.items()},
        times_cpu=cpu["plain"] / cpu["promptkit"],
        times_wall=wall["plain"] / wall["promptkit"],
        logits_off=f"{off:.1e}",
    )


if __name__ == "__main__":
    main()

"""What `promptkit plan` says a step holds against what it held: `python benchmarks/plan.py RECIPE BACKBONE BATCH CLASSES`.

The step is forward, backward and the optimiser's, on random pixels, in a process of its own; its peak is the high-water mark
of resident memory above what was held before the first (Linux). It is the second step's, when the optimiser has its states.
"""

import json

import torch
from measuring import a_training, reset_mark, resident

from promptkit.build import load_backbone
from promptkit.config import resolve
from promptkit.registry import installed
from promptkit.tensors import Batch
from promptkit.training.needs import Planner, imagined
from promptkit.training.optimizer import make_optimizer


def main() -> None:
    parser = a_training(__doc__)
    parser.add_argument("--memory-gb", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    flags = {"backbone.name": options.backbone, "backbone.weights": "none", "backbone.memory_gb": options.memory_gb}
    config = resolve(installed(), options.recipe, flags=flags)
    backbone = load_backbone(config.backbone, installed())
    with imagined(options.classes, options.batch) as dataset:
        planner = Planner(config, backbone, installed(), dataset)
    needs = planner.needs(options.batch)

    optimizer = make_optimizer(planner.learner, config.train)
    learner, size = planner.learner, backbone.image.size

    def step(pictures: int) -> None:
        views = {name: torch.randn(pictures, 3, *size) for name in planner.views.names}
        outputs = learner(Batch(views, torch.arange(pictures) % options.classes))
        torch.stack(list(learner.loss(outputs).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    with torch.no_grad():
        learner.encode_text(learner.encode_image(torch.randn(1, 3, *size)))  # constants are computed once
    before = reset_mark()
    step(options.batch)
    reset_mark()
    step(options.batch)
    measured = resident("VmHWM") - before
    planned = needs.peak - planner.pieces.process
    print(
        json.dumps(
            {
                "recipe": options.recipe, "backbone": options.backbone, "B": options.batch, "C": options.classes,
                "passes": needs.passes, "planned MB": round(planned / 1e6, 1), "measured MB": round(measured / 1e6, 1),
                "planned / measured": round(planned / measured, 2),
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()

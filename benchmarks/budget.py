"""Peak memory and time of the text pass of a conditional learner's step, under a budget: `python benchmarks/budget.py`.

One context for each of B pictures (CoCoOp's prompts), C of ImageNet's class names, forward and backward to the contexts.
Peaks are high-water marks of resident memory above what was held before (Linux). After `--seconds` the step is left as it
stands; the row says how many passes were done of those that a whole step takes.
"""

import argparse
import json
import resource
import signal
import time
from typing import Any

import torch
from measuring import reset_mark, resident
from open_clip import IMAGENET_CLASSNAMES

from promptkit.build import load_backbone
from promptkit.registry import installed
from promptkit.settings import BackboneSettings
from promptkit.tensors import TextPrompts


class TimeIsUpError(Exception):
    pass


def stop(*_: object) -> None:
    raise TimeIsUpError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="ViT-B-16")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--n-ctx", type=int, default=4)
    parser.add_argument("--memory-gb", type=float, default=4.0)
    parser.add_argument("--checkpoint", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--seconds", type=int, default=170)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    settings = BackboneSettings(options.backbone, "none", memory_gb=options.memory_gb, checkpoint=options.checkpoint)
    backbone: Any = load_backbone(settings, installed())
    classes = backbone.class_tokens(list(IMAGENET_CLASSNAMES[: options.classes]), options.n_ctx)
    context = (0.02 * torch.randn(options.batch, 1, 1, options.n_ctx, backbone.text_width)).requires_grad_()
    with torch.no_grad():  # constants are computed once
        backbone.encode_text(TextPrompts(context[:1]), classes)

    passes: list[float] = []
    encode = backbone.encoder._encode

    def counted(*arguments: Any) -> Any:
        passes.append(time.perf_counter())
        return encode(*arguments)

    backbone.encoder._encode = counted
    before, begun, cpu = reset_mark(), time.perf_counter(), time.process_time()
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(options.seconds)
    done, forward = False, None
    try:
        features = backbone.encode_text(TextPrompts(context), classes)
        forward = time.perf_counter() - begun
        features.square().mean(dim=(0, 1, 2)).sum().backward()
        done = True
    except TimeIsUpError:
        pass
    signal.alarm(0)
    row_step, class_step = backbone.encoder._last_pass
    chunks = -(-options.batch // row_step) * -(-options.classes // class_step)
    print(
        json.dumps(
            {
                "B": options.batch, "C": options.classes, "M": options.n_ctx, "memory_gb": options.memory_gb,
                "checkpoint": options.checkpoint, "rows a pass": row_step, "classes a pass": class_step,
                "chunks": chunks, "passes done": len(passes), "whole step": done,
                "forward s": forward and round(forward, 1), "s": round(time.perf_counter() - begun, 1),
                "cpu s": round(time.process_time() - cpu, 1),
                "peak GB": round((resident("VmHWM") - before) / 1e9, 3),
                "process at most GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3),
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()

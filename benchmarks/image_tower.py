"""Images a second and memory of a frozen image tower on the CPU, each way by itself: `python benchmarks/image_tower.py`.

"plain" is the tower on the whole batch, float32, without gradients. Every way runs in a process of its own, since an
allocator is set once; the processes take turns, so that other work on the machine meets all of them. Features are
compared with those of "plain": a difference above 1e-5 ends the run. Times are the best of all, in CPU seconds of the
process, how many of them in the system, and in wall seconds. Memory is the most that any run took: resident memory above
that of the loaded model (Linux), at its high-water mark ("peak") and in the end ("held").
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from measuring import check, report, reset_mark, resident
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from promptkit.backbones.cpu_images import BLOCK_BYTES, encode_in_chunks, keep_freed_memory, largest_output
from promptkit.build import load_backbone
from promptkit.config import BackboneSettings
from promptkit.registry import installed

WAYS = ("plain", "chunks", "allocator", "channels last", "inference mode", "fused norms", "no oneDNN", "promptkit")
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}


def cnn(folder: Path, name: str) -> str:
    """A local-dir with one of timm's models as image tower, of random weights."""
    vision = {"timm_model_name": name, "timm_pool": "", "timm_proj": "linear", "image_size": 224}
    config = {"model_cfg": {"embed_dim": 512, "vision_cfg": vision, "text_cfg": TEXT}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


def fuse(module: nn.Module) -> None:
    """Fold every batch norm into the convolution before it; its activation stays."""
    children = list(module.named_children())
    for (before, conv), (name, norm) in pairwise(children):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, BatchNormAct2d):
            setattr(module, before, fuse_conv_bn_eval(conv, norm))
            setattr(module, name, norm.act)
    for _, child in children:
        fuse(child)


def prepared(way: str, backbone: Any, pixels: Tensor, stay: ExitStack) -> Callable[[], Tensor]:
    tower = backbone.image_tower
    if way == "promptkit":
        return lambda: backbone.encode_image(pixels).pooled
    if way == "chunks":
        step = max(1, BLOCK_BYTES // largest_output(tower.visual, pixels[:1]))
        return lambda: (
            encode_in_chunks(lambda some, _: tower.encode(some, None, None, False), pixels, None, step).pooled
        )
    if way == "allocator" and not keep_freed_memory():
        raise SystemExit("the allocator can't be set here")
    if way == "channels last":
        tower.visual.to(memory_format=torch.channels_last)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    if way == "inference mode":
        stay.enter_context(torch.inference_mode())
    if way == "fused norms":
        fuse(tower.visual)
    if way == "no oneDNN":
        stay.enter_context(torch.backends.mkldnn.flags(enabled=False))
    return lambda: tower.encode(pixels, None, None, False).pooled


def one(options: argparse.Namespace) -> None:
    """One way in this process; features go into a file, figures are printed."""
    torch.set_num_threads(options.threads)
    backbone = load_backbone(BackboneSettings(options.backbone, "none"), installed())
    pixels = torch.randn(options.batch, 3, *backbone.image.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), ExitStack() as stay:
        encode = prepared(options.way, backbone, pixels, stay)
        before = reset_mark()
        features = encode()  # what is done once, such as measuring the layers
        times = []
        for _ in range(options.passes):
            begun, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
            encode()
            wall, now = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
            user, system = now.ru_utime - used.ru_utime, now.ru_stime - used.ru_stime
            times.append((user + system, system, wall))
    torch.save(features, options.features)
    cpu, system, _ = min(times)
    peak, held = (resident(key) - before for key in ("VmHWM", "VmRSS"))
    print(json.dumps([cpu, system, min(wall for *_, wall in times), peak / 1e6, held / 1e6]))


def measured(way: str, options: argparse.Namespace, backbone: str, features: Path) -> list[float]:
    words = ["--backbone", backbone, "--threads", str(options.threads), "--batch", str(options.batch)]
    words += ["--passes", str(options.passes), "--way", way, "--features", str(features)]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return list(json.loads(done.stdout))


def compare(label: str, backbone: str, options: argparse.Namespace, folder: Path) -> None:
    ways = [way for way in options.ways if way != "plain"]
    found: dict[str, list[list[float]]] = {way: [] for way in ["plain", *ways]}
    for _ in range(options.rounds):
        for way, figures in found.items():
            figures.append(measured(way, options, backbone, folder / way))
    best = {}
    for way, figures in found.items():
        cpu, system, *_ = min(figures)
        best[way] = cpu, system, min(f[2] for f in figures), max(f[3] for f in figures), max(f[4] for f in figures)
    for way, (cpu, system, wall, peak, held) in best.items():
        off = check(way, torch.load(folder / way), torch.load(folder / "plain"), 1e-5)
        report(
            "image tower", backbone=label, threads=options.threads, batch=options.batch, way=way,
            **{"images/s": options.batch / wall, "times (wall)": best["plain"][2] / wall},
            **{"cpu s": cpu, "of it system s": system, "times (cpu)": best["plain"][0] / cpu},
            **{"peak MB": peak, "peak times": peak / best["plain"][3], "held MB": held, "off": f"{off:.0e}"},
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cnn", default="tf_efficientnet_lite0", help="one of timm's, as image tower")
    parser.add_argument("--vit", default="ViT-B-16", help="one of open_clip's; '' leaves a tower out")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--passes", type=int, default=2, help="in a process")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    for inner in ("--backbone", "--way", "--features"):
        parser.add_argument(inner, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        one(options)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.cnn:
            compare(options.cnn, cnn(folder, options.cnn), options, folder)
        if options.vit:
            compare(options.vit, options.vit, options, folder)


if __name__ == "__main__":
    main()

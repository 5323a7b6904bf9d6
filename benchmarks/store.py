"""The feature store at size, beside a plain file of the same bytes: `python benchmarks/store.py --folder DISK`.

Pictures are files with nothing in them, and the tower says of each what its number makes of random ones: ViT-B/16's pooled
features and GOPro's intermediates, 75,776 bytes. Each reading is a process of its own, in turns with the plain file's, after
the system was asked to empty its cache: `posix_fadvise`, and /proc/sys/vm/drop_caches where that may be written. What the
store says is compared with the plain file. Times are wall seconds, the best of all turns; memory is Linux's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import report, resident
from torch import Tensor

from promptkit.backbones.base import FeatureSpec, Intermediates
from promptkit.data.layouts import Item
from promptkit.data.loading import Loaded
from promptkit.features import store as stores
from promptkit.features.cache import CachedFeatures, cached_features
from promptkit.features.sources import Source
from promptkit.tensors import Batch, ImageFeatures

WIDTH, BLOCKS = 768, 12
FLOATS = 512 + BLOCKS * 2 * WIDTH
BATCH = 64
CHUNK = 1 << 24
SHARD_MB = stores.SHARD_BYTES // 10**6


def mean_and_deviation(tokens: Tensor) -> Tensor:
    """GOPro's taps have its shape; nothing calls it."""
    return torch.stack([tokens.mean(1), tokens.std(1)], 1)


class Tower:
    """In the place of a backbone: `encode_image` takes numbers for pixels, and counts them."""

    name, weights, fingerprint = "random", "none", "random"
    image_dtype, device = torch.float32, torch.device("cpu")

    def __init__(self) -> None:
        self.seen = torch.randn(BATCH, FLOATS, generator=torch.Generator().manual_seed(0))
        self.encoded = 0

    def encode_image(self, numbers: Tensor, *_: Any) -> ImageFeatures:
        self.encoded += len(numbers)
        seen = self.seen[numbers.long() % BATCH]
        seen[:, :2] = numbers.float()[:, None]
        taps = seen[:, 512:].reshape(-1, BLOCKS, 2, WIDTH)
        return ImageFeatures(seen[:, :512], None, taps.unbind(1))


def pictures(folder: Path, numbers: Iterable[int]) -> list[Item]:
    """A hundred in a folder of a class."""
    items = [Item(folder / f"{n // 100:04}" / f"{n:08}.png", n // 100, "", None) for n in numbers]
    for item in items:
        if not item.path.exists():
            item.path.parent.mkdir(parents=True, exist_ok=True)
            item.path.touch()
    return items


def opened(items: Sequence[Item], tower: Any) -> CachedFeatures:
    def loader(items: Sequence[Item]) -> Any:
        return batches(items)

    made = {"views": "none", "options": "", "image": {}}
    source = Source(items, items[0].path.parents[1], made, loader, strict=True)
    (cached,) = cached_features(source, [FeatureSpec(tower, Intermediates(mean_and_deviation))])
    return cached


def batches(items: Sequence[Item]) -> Iterator[Loaded]:
    """A picture's number, in the place of its pixels."""
    for index in torch.arange(len(items)).split(BATCH):
        numbers = torch.tensor([int(items[i].path.stem) for i in index.tolist()])
        yield Loaded(Batch({"image": numbers}, torch.zeros_like(index)), index, ())


def together(features: ImageFeatures) -> Tensor:
    return torch.cat([features.pooled, torch.stack(list(features.intermediates), 1).flatten(1)], 1)


def forget(files: Sequence[Path]) -> None:
    """Ask the system to drop what it holds of files."""
    os.sync()
    for file in files:
        with file.open("rb") as content:
            os.posix_fadvise(content.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    drop = Path("/proc/sys/vm/drop_caches")
    if os.access(drop, os.W_OK):
        drop.write_text("1")


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    found = act()
    return time.perf_counter() - begun, found


def write_plain(path: Path, tower: Tower, rows: int) -> None:
    with path.open("wb") as file:
        for numbers in torch.arange(rows).split(BATCH):
            file.write(together(tower.encode_image(numbers)).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def read_plain(path: Path) -> None:
    block = bytearray(CHUNK)
    with path.open("rb", buffering=0) as file:
        while file.readinto(block):
            pass


def one(options: argparse.Namespace) -> dict[str, float]:
    """One way, in this process."""
    plain, tower, order = options.folder / "plain", Tower(), torch.arange(options.rows)
    if options.way == "write plain":
        return {"write": timed(lambda: write_plain(plain, tower, options.rows))[0]}
    if options.way == "plain":
        return {"read": timed(lambda: read_plain(plain))[0]}
    items = pictures(options.folder / "pictures", range(options.rows))
    if options.way == "write":
        stores.SHARD_BYTES = options.shard_mb * 10**6
        return {"write": timed(lambda: opened(items, tower))[0]}
    if options.way == "at random":
        order = torch.randperm(options.rows, generator=torch.Generator().manual_seed(0))
    before, cpu = resident("RssAnon"), time.process_time()
    opening, cached = timed(lambda: opened(items, tower))
    cpu, more_held = time.process_time() - cpu, resident("RssAnon") - before
    reading, _ = timed(lambda: [cached.features(index) for index in order.split(BATCH)])
    again, _ = timed(lambda: opened(items, tower))
    assert not tower.encoded, "all of it was kept"
    rows = np.memmap(plain, np.float32, "r").reshape(-1, FLOATS)
    for index in order.split(BATCH):
        if not np.array_equal(together(cached.features(index)).numpy(), rows[index.numpy()]):
            raise SystemExit("the store and the plain file differ")
    del cached
    more = [*items, *pictures(options.folder / "pictures", [time.time_ns() // 1000])]
    adding, _ = timed(lambda: opened(more, tower))
    assert tower.encoded == 1
    return {"open": opening, "open cpu": cpu, "held": more_held / 1e6, "read": reading, "again": again, "add": adding}


def measured(way: str, options: argparse.Namespace) -> dict[str, float]:
    if options.smoke:
        return one(argparse.Namespace(**{**vars(options), "way": way}))
    words = ["--rows", options.rows, "--folder", options.folder, "--way", way, "--threads", options.threads]
    words += ["--shard-mb", options.shard_mb]
    done = subprocess.run([sys.executable, __file__, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def store(options: argparse.Namespace) -> None:
    """(g): fill a store, and read it in order and at random, in turns with a plain file."""
    rows = 200 if options.smoke else 2000 if options.quick else getattr(options, "rows", 8000)
    shard_mb = getattr(options, "shard_mb", SHARD_MB)
    with tempfile.TemporaryDirectory(dir=getattr(options, "folder", None)) as name:
        measure(argparse.Namespace(**{**vars(options), "rows": rows, "shard_mb": shard_mb, "folder": Path(name)}))


def measure(options: argparse.Namespace) -> None:
    os.environ["PROMPTKIT_CACHE"] = str(options.folder / "cache")
    size = options.rows * FLOATS * 4
    writing = {name: measured(way, options)["write"] for name, way in (("plain", "write plain"), ("store", "write"))}
    files = [*(options.folder / "cache/features").glob("*.safetensors")]
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(1 if options.smoke else 2):
        for way in ("plain", "in order", "at random"):
            if not options.smoke:
                forget([options.folder / "plain", *files])
            found.setdefault(way, []).append(measured(way, options))
    best = {way: {key: min(turn[key] for turn in turns) for key in turns[0]} for way, turns in found.items()}
    order, random, plain = best["in order"], best["at random"], best["plain"]["read"]
    whole = min(turn["open"] + turn["read"] for turn in found["in order"])
    report(
        "store", rows=options.rows, MB=size / 1e6, shards=len(files),
        **{f"write {name}, MB/s": size / 1e6 / seconds for name, seconds in writing.items()},
        **{"read plain, MB/s": size / 1e6 / plain, "open s": order["open"], "open cpu s": order["open cpu"]},
        **{"in order, MB/s": size / 1e6 / order["read"], "at random, MB/s": size / 1e6 / random["read"]},
        **{"opened and in order, MB/s": size / 1e6 / whole, "of plain": plain / whole},
        **{"open again s": order["again"], "add one s": order["add"], "held MB": order["held"]},
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--shard-mb", type=int, default=SHARD_MB, help="what a shard holds at most")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; twice the rows lie there for a while")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.way:
        print(json.dumps(one(options)))
    else:
        store(argparse.Namespace(**{**vars(options), "quick": False}))


if __name__ == "__main__":
    main()

"""The feature store: what a frozen image tower sees of an image is computed once, and read from the disk ever after.

An image is identified by path, size and times (`image_digest`), what was seen of it by a `FeatureKey`. Each shard carries
the identities of its images, so there is no index beside the shards that could disagree with them, be locked, or be lost.

LMDB, zarr and Lance were measured for speed (benchmarks/README.md). zarr gathers single rows far slower, and Lance adds
390 MB of libraries and gathers at a sixth of LMDB's rate. LMDB reads fastest, but has no checksums, one lock for all
writers, a size fixed in advance, and gives no room back when rows go, which a size limit and `cache clear` need.
"""

import contextlib
import errno
import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from promptkit.errors import OutputError
from promptkit.features.folder import delete_leftovers, feature_folder, keep_to_limit
from promptkit.features.shards import DIGEST, OPEN_FILES, SUFFIX, DamagedShardError, Shard, ShardWriter, allow_files

log = logging.getLogger("promptkit")

SHARD_BYTES = 1 << 28
SHARD_SECONDS = 60
"""What a kill can cost."""


@dataclass(frozen=True)
class FeatureKey:
    """What rows depend on beside the image: weights, arithmetic, view, code; and what is said of it to people."""

    depends: Mapping[str, Any]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """32 hexadecimal digits."""
        text = json.dumps(self.depends, sort_keys=True)
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]


def image_digest(path: Path, place: int | None = None) -> bytes:
    """Path, size and times. The inode's time tells of an edit that restored the other.

    `place` is the image's among others, where its random views depend on it.
    """
    try:
        status = path.stat()
        known = status.st_size, status.st_mtime_ns, status.st_ctime_ns
    except OSError:
        known = (-1, -1, -1)
    text = f"{path.absolute()}\0{known}\0{place}"
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=DIGEST).digest()


class FeatureStore:
    """The rows of one key in the cache folder; nothing is written before the first `put`.

    Append-only: several processes may fill it at once, and the first row of an image counts.
    """

    def __init__(self, key: FeatureKey) -> None:
        self.key = key
        self.folder = feature_folder()
        self.shards: list[Shard] = []
        self.where: dict[bytes, tuple[int, int]] = {}
        """Shard and row of each image."""
        self.unreadable: dict[bytes, str] = {}
        self._writer: ShardWriter | None = None
        self._wrote = False

    def missing(self, images: Sequence[bytes]) -> list[int]:
        """Where images stand that have neither a row nor a reason. The others stay for as long as the store is open.

        A damaged shard is dropped with a warning. Raises OutputError where the system lets no more files be open.
        """
        known = {shard.path.name for shard in self.shards}
        wanted = {image for image in images if not self._has(image)}
        paths = sorted(self.folder.glob(f"{self.key.digest}-*{SUFFIX}")) if wanted else []
        paths = [path for path in paths if path.name not in known]
        allow_files(OPEN_FILES * len(paths))
        for path in paths:
            try:
                shard = Shard(path)
                if wanted.isdisjoint(shard.contents.images) and wanted.isdisjoint(shard.contents.unreadable):
                    continue
                shard.check()
            except FileNotFoundError:
                continue  # another process deleted it
            except (DamagedShardError, OSError) as error:
                if isinstance(error, OSError) and error.errno == errno.EMFILE:
                    raise OutputError(
                        f"the features of {self.folder} lie in more files than may be open at once",
                        "ulimit -n says how many; promptkit cache clear --older-than DAYS leaves fewer",
                    ) from None
                log.warning("the features in %s are damaged (%s); they are computed again", path, error)
                if isinstance(error, DamagedShardError):
                    with contextlib.suppress(OSError):
                        path.unlink()
                continue
            self._add(shard)
            shard.touch()
        return [i for i, image in enumerate(images) if not self._has(image)]

    def has_all(self, images: Iterable[bytes]) -> bool:
        return all(map(self._has, images))

    def put(self, images: Sequence[bytes], rows: np.ndarray, unreadable: Mapping[bytes, str] = {}) -> None:
        """Keep a row for each image that has none yet, and why others have none. They can be read after `flush`.

        Raises OutputError when there is no room or no permission.
        """
        if self._writer is None:
            if not self._wrote:
                delete_leftovers()
            self._wrote = True
            self._writer = ShardWriter(self.folder, self.key.digest, self.key.about)
        fresh = [i for i, image in enumerate(images) if not self._has(image)]
        if fresh:
            self._writer.put([images[i] for i in fresh], rows if len(fresh) == len(images) else rows[fresh])
        self._writer.unreadable |= {
            image: reason for image, reason in unreadable.items() if image not in self.unreadable
        }
        if self._writer.bytes >= SHARD_BYTES or time.monotonic() - self._writer.begun > SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Give what was put its place on the disk. Raises OutputError when there is no room."""
        if self._writer is not None:
            self._add(self._writer.finish())
            self._writer = None
            keep_to_limit()

    def abandon(self) -> None:
        """Forget what was put since the last `flush`."""
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None

    def located(self, images: Sequence[bytes]) -> "Rows":
        """The rows of images, none of which may be missing."""
        places = np.array([self.where.get(image, (-1, -1)) for image in images], dtype=np.int64).reshape(-1, 2)
        shape = next((shard.shape for shard in self.shards if len(shard.rows)), (0,))
        return Rows(self.shards, places[:, 0], places[:, 1], shape)

    def _has(self, image: bytes) -> bool:
        return image in self.where or image in self.unreadable

    def _add(self, shard: Shard) -> None:
        number = len(self.shards)
        self.shards.append(shard)
        for row, image in enumerate(shard.contents.images):
            self.where.setdefault(image, (number, row))
        self.unreadable |= shard.contents.unreadable


@dataclass(frozen=True, eq=False)
class Rows:
    """Where the rows of a list of images lie; -1 for images that are not readable."""

    shards: Sequence[Shard]
    shard: np.ndarray
    row: np.ndarray
    shape: tuple[int, ...]

    def read(self, index: Tensor) -> Tensor:
        """(n, ...) of some of the images. torch gathers from mapped memory 20 times slower than numpy does."""
        places = index.numpy()
        shard, row = self.shard[places], self.row[places]
        out = np.empty((len(places), int(np.prod(self.shape))), dtype=np.float32)
        numbers = np.unique(shard)
        for number in numbers:
            rows, here = self.shards[number].rows, np.flatnonzero(shard == number)
            if len(numbers) == 1:  # without a copy in between, which numpy makes unless it may clip
                np.take(rows, row, axis=0, out=out, mode="clip")
            else:
                out[here] = rows[row[here]]
        return torch.from_numpy(out.reshape(-1, *self.shape))

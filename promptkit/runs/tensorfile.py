"""A file of tensors and one text, in safetensors, read as if a stranger had sent it.

Nothing in it is executed, nothing is allocated that the file's own size does not account for, and a checksum over text
and tensors tells a flipped bit from another value.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from promptkit.errors import CheckpointError
from promptkit.files import regular_file

MAX_HEADER = 16 * 2**20
"""Bytes. A thousand classes take a few tens of thousand."""
MAX_FILE = 8 * 2**30
"""Bytes. The tensors of a file are read into memory."""

_TEXT, _CHECKSUM = "promptkit", "sha256"


def pack(tensors: Mapping[str, Tensor], text: str) -> bytes:
    """The content of a file with tensors and a text."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(tensors, {_TEXT: text, _CHECKSUM: checksum(tensors, text)})


def checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 over the text and each tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_text(path: Path) -> str:
    """The text alone; its checksum is not looked at, which would take the tensors. Raises CheckpointError."""
    return _header(path)[_TEXT]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors, checked against the checksum.

    Raises CheckpointError for a file that is not what was written, or holds values that are not finite.
    """
    header = _header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # torch has its own errors for types and shapes that it doesn't know
        raise _damaged(path, error) from None
    if checksum(tensors, header[_TEXT]) != header[_CHECKSUM]:
        raise _damaged(path, "its checksum differs from what was saved")
    if broken := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise CheckpointError(f"{path} holds values that are not finite, in {', '.join(broken)}")
    return tensors


def misfits(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What is missing, left over, or of another dtype or shape; empty when the one can stand in for the other."""
    return sorted(tensors.keys() ^ expected.keys()) or [
        f"{name} is {_kind(tensors[name])}, expected {_kind(expected[name])}"
        for name in expected
        if _kind(tensors[name]) != _kind(expected[name])
    ]


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def _header(path: Path) -> dict[str, str]:
    """The header's texts, with the two that a file must have."""
    try:
        size = regular_file(path, MAX_FILE)
        with path.open("rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
        if length > min(size - 8, MAX_HEADER):
            raise ValueError(f"a header of {length:,} bytes is more than the file holds, or more than is read")
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from None
    for key in (_TEXT, _CHECKSUM):
        if key not in header:
            raise _damaged(path, f"its header has no {key!r}")
    return header


def _damaged(path: Path, cause: object) -> CheckpointError:
    cause = (cause.strerror if isinstance(cause, OSError) else None) or cause
    return CheckpointError(f"{path} is no promptkit checkpoint, or a damaged one: {cause}")

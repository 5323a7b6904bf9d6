"""What a run leaves, files that are damaged in every way, and a process with little memory and time to read them in."""

import json
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from promptkit.runs.tensorfile import pack, read_tensors, read_text

Command = Callable[..., "Finished"]
Cases = Iterator[tuple[str, bytes]]


def learned(run: Path) -> dict[str, bytes]:
    """What a run has learned, bit for bit."""
    with safe_open(run / "learner.safetensors", framework="np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def log(run: Path) -> list[dict[str, float]]:
    """The lines of its log, without what depends on the machine."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def signed(tensors: dict[str, torch.Tensor], metadata: Any) -> bytes:
    """What someone who knows the checksum could write."""
    return pack(tensors, metadata if isinstance(metadata, str) else json.dumps(metadata))


def broken_bytes(path: Path, cuts: int = 50, header_bits: int = 60, data_bits: int = 40) -> Cases:
    """What a disk, or a stranger, makes of a file of tensors; the same cases every time."""
    good, tensors, text = path.read_bytes(), read_tensors(path), read_text(path)
    (header_length,) = struct.unpack("<Q", good[:8])
    header, data = good[8 : 8 + header_length], good[8 + header_length :]
    rng = random.Random(7)

    for size in {0, 1, 7, 8, 9, 8 + header_length, len(good) - 1, *rng.sample(range(len(good)), cuts)}:
        yield f"cut to {size} bytes", good[:size]
    yield "longer", good + b"\0"
    for where in rng.sample(range(8 * len(header.rstrip())), header_bits):
        flipped = bytearray(good)
        flipped[8 + where // 8] ^= 1 << where % 8
        yield f"bit {where} of the header", bytes(flipped)
    for where in rng.sample(range(8 * len(data)), data_bits):
        flipped = bytearray(good)
        flipped[8 + header_length + where // 8] ^= 1 << where % 8
        yield f"bit {where} of the data", bytes(flipped)
    for length in (0, 1, header_length - 8, header_length + 8, 2**20, 2**31, 2**40, 2**63, 2**64 - 1):
        yield f"a header of {length} bytes", struct.pack("<Q", length) + good[8:]

    entries = json.loads(header)
    first = next(name for name in entries if name != "__metadata__")

    def other_header(content: Any) -> bytes:
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        return struct.pack("<Q", len(text)) + text + data

    for shape in ([2**62], [2**40, 2**40], [0], [-1], [1.5], "4", [4, 4], [10**30]):
        yield f"declared shape {shape}", other_header({**entries, first: {**entries[first], "shape": shape}})
    for offsets in ([0, 2**62], [2**63, 2**64 - 1], [8, 4], [0], "0", [-4, 0], [4, 8]):
        yield f"offsets {offsets}", other_header({**entries, first: {**entries[first], "data_offsets": offsets}})
    for dtype in ("F64", "I64", "BF16", "F4", "F8_E8M0", "nonsense", 3, None):
        yield f"declared type {dtype}", other_header({**entries, first: {**entries[first], "dtype": dtype}})
    for name in ("other", "../../x", "/etc/passwd", "\0", ""):
        renamed = {(name if key == first else key): value for key, value in entries.items()}
        yield f"a tensor named {name!r}", other_header(renamed)
    yield "the header nested deeply", other_header(b"[" * 200_000)
    yield "the header is no object", other_header(b"[]")
    yield "the header is no UTF-8", other_header(b'{"\xff": 1}')
    yield "no metadata", save(tensors)
    yield "no checksum", save(tensors, {"promptkit": text})
    yield "another checksum", save(tensors, {"promptkit": text, "sha256": "0" * 64})
    for content in (
        "", "null", "[]", "3", '"text"', "{", "[" * 100_000, '{"a":' * 100_000, "9" * 10_000, text[:-1], text + "x",
    ):  # fmt: skip
        yield f"metadata {content[:20]!r} ({len(content)})", signed(tensors, content)


def spoiled_tensors(path: Path) -> Cases:
    """Every tensor of a file with another content, type or shape, or gone."""
    tensors, text = read_tensors(path), read_text(path)
    for name in tensors:
        kinds = (torch.float64, torch.float16, torch.int64, torch.bool)
        if tensors[name].is_floating_point():
            for value in (float("nan"), float("inf"), float("-inf")):
                spoiled = tensors[name].clone()
                spoiled.view(-1)[-1] = value
                yield f"{value} in {name}", signed({**tensors, name: spoiled}, text)
        for dtype in kinds:
            yield f"{name} as {dtype}", signed({**tensors, name: tensors[name].to(dtype)}, text)
        for shaped in (tensors[name].reshape(-1)[:0], tensors[name][None], tensors[name].reshape(-1)[:1]):
            yield f"{name} of shape {tuple(shaped.shape)}", signed({**tensors, name: shaped.clone()}, text)
        yield f"no {name}", signed({key: value for key, value in tensors.items() if key != name}, text)
    yield "a tensor more", signed({**tensors, "../../x": torch.zeros(3)}, text)


LIMITED = """
import json, resource, sys, warnings
from pathlib import Path
from promptkit.errors import PromptkitError

warnings.simplefilter("ignore")

{attempt}

try:
    attempt(Path(sys.argv[1]))  # imports and tables are not the damage's
except PromptkitError as error:
    sys.exit(f"the good file: {{error.message}}")
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 512 * 2**20, resource.RLIM_INFINITY))
wrong, cases = [], sorted(Path(sys.argv[2]).iterdir())
for case in cases:
    spent = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    resource.setrlimit(resource.RLIMIT_CPU, (int(spent) + 30, resource.RLIM_INFINITY))
    try:
        attempt(case)
        wrong.append(f"{{case.name}}: was loaded")
    except PromptkitError as error:
        if len(error.message) > 2000:
            wrong.append(f"{{case.name}}: a message of {{len(error.message)}} characters")
    except BaseException as error:
        wrong.append(f"{{case.name}}: {{type(error).__name__}}: {{str(error)[:200]}}")
print(json.dumps({{"cases": len(cases), "wrong": wrong}}))
"""


@pytest.fixture
def each_is_an_error(warm: Callable[..., "list[Finished]"], tmp_path: Path) -> Callable[[str, Path, Cases], int]:
    """Runs `def attempt(path)` on a good file, then on each damaged one, with 512 MB and 30 s; returns how many."""

    def run(attempt: str, good: Path, cases: Cases) -> int:
        names = {}
        (tmp_path / "cases").mkdir()
        for number, (what, content) in enumerate(cases):
            name = f"{number:03}"
            (tmp_path / "cases" / name).write_bytes(content)
            names[name] = what
        (done,) = warm(good, tmp_path / "cases", cwd=tmp_path, code=LIMITED.format(attempt=attempt))
        assert done.status == 0, done.err[-2000:]
        found = json.loads(done.out.splitlines()[-1])
        assert found["cases"] == len(names)
        assert not found["wrong"], "\n".join(f"{names[line[:3]]}: {line}" for line in found["wrong"])
        return len(names)

    return run


@pytest.fixture
def damage() -> SimpleNamespace:
    """What makes damaged files, for the tests beside it."""
    return SimpleNamespace(signed=signed, broken_bytes=broken_bytes, spoiled_tensors=spoiled_tensors)


@pytest.fixture
def stopped(train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of coop with AdamW that an interrupt stopped in its second epoch."""
    from promptkit.training.validation import Validation

    validate = Validation.on_epoch

    def interrupt(validation: Validation, result: Any) -> None:
        if result.epoch == 2:
            raise KeyboardInterrupt
        validate(validation, result)

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "on_epoch", interrupt)
        assert train("coop", "--out", "run", "--set", "train.optimizer=adamw").status == 130
    assert (tmp_path / "run/state.safetensors").exists()
    return tmp_path / "run"

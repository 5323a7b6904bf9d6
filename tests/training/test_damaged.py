"""Checkpoints and run files as no run leaves them: each is answered with one of our errors, soon and in little memory."""

import contextlib
import json
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from promptkit.config import MAX_RUN_FILE, read_run_file, resolve
from promptkit.errors import PromptkitError
from promptkit.registry import installed
from promptkit.training.checkpoint import SETTINGS, WEIGHTS, load_run, read_metadata, read_tensors
from promptkit.training.listing import list_runs
from promptkit.training.tensorfile import pack, plain_json, read_text

Command = Callable[..., "Finished"]

OTHER_TYPES = (None, True, -1, 1.5, "text", [], [1], {}, {"a": []})


@pytest.fixture
def run(train: Command, tmp_path: Path) -> Path:
    assert train("coop", "--out", "run").status == 0
    return tmp_path / "run"


def signed(tensors: dict[str, torch.Tensor], metadata: Any) -> bytes:
    """What someone who knows the checksum could write."""
    return pack(tensors, metadata if isinstance(metadata, str) else json.dumps(metadata))


def corpus(run: Path) -> Iterator[tuple[str, bytes]]:
    """Damaged contents of `learner.safetensors`, by what is wrong with them; the same ones every time."""
    good = (run / WEIGHTS).read_bytes()
    tensors, metadata = read_tensors(run), json.loads(read_text(run / WEIGHTS))
    (header_length,) = struct.unpack("<Q", good[:8])
    header, data = good[8 : 8 + header_length], good[8 + header_length :]
    rng = random.Random(7)

    for size in {0, 1, 7, 8, 9, 8 + header_length, len(good) - 1, *rng.sample(range(len(good)), 50)}:
        yield f"cut to {size} bytes", good[:size]
    yield "longer", good + b"\0"
    for where in rng.sample(range(8 * len(header.rstrip())), 60):
        flipped = bytearray(good)
        flipped[8 + where // 8] ^= 1 << where % 8
        yield f"bit {where} of the header", bytes(flipped)
    for where in rng.sample(range(8 * len(data)), 40):
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
    yield "no checksum", save(tensors, {"promptkit": json.dumps(metadata)})
    yield "another checksum", save(tensors, {"promptkit": json.dumps(metadata), "sha256": "0" * 64})

    for name in tensors:
        for value in (float("nan"), float("inf"), float("-inf")):
            spoiled = tensors[name].clone()
            spoiled.view(-1)[-1] = value
            yield f"{value} in {name}", signed({**tensors, name: spoiled}, metadata)
        for dtype in (torch.float64, torch.float16, torch.int64, torch.bool):
            yield f"{name} as {dtype}", signed({**tensors, name: tensors[name].to(dtype)}, metadata)
        for shaped in (tensors[name][:0], tensors[name][None], tensors[name].reshape(-1)[:1]):
            yield f"{name} of shape {tuple(shaped.shape)}", signed({**tensors, name: shaped.clone()}, metadata)
        yield f"no {name}", signed({key: value for key, value in tensors.items() if key != name}, metadata)
    yield "a tensor more", signed({**tensors, "../../x": torch.zeros(3)}, metadata)

    for field, kept in metadata.items():
        for value in OTHER_TYPES:
            if type(value) is not type(kept) or value in (-1, [1], {"a": []}, []):
                yield f"{field} is {value!r}", signed(tensors, {**metadata, field: value})
        if field != "figures":
            yield f"no {field}", signed(tensors, {key: old for key, old in metadata.items() if key != field})
    for extra in ({"more": 1}, {"recipe": "../../x"}, {"recipe": "/etc/passwd"}, {"fingerprint": "../../x"}):
        yield f"metadata with {extra}", signed(tensors, {**metadata, **extra})
    for names in (["a", "a"], ["a", ["b"]], [None], ["circle", "cross", 3]):
        yield f"classnames {names}", signed(tensors, {**metadata, "classnames": names})
    for figures in ({"ce": float("nan")}, {"ce": float("inf")}, {"ce": "1"}, {"ce": True}):
        yield f"figures {figures}", signed(tensors, {**metadata, "figures": figures})
    text = json.dumps(metadata)
    for content in (
        "", "null", "[]", "3", '"text"', "{", "[" * 100_000, '{"a":' * 100_000, "9" * 10_000, text[:-1], text + "x",
        text[:-1] + ', "epoch": 1}', text.replace('"epoch": 2', '"epoch": 1e999'), text.replace('"epoch": 2', '"epoch": NaN'),
    ):  # fmt: skip
        yield f"metadata {content[:20]!r} ({len(content)})", signed(tensors, content)


LIMITED = """
import json, resource, sys
from pathlib import Path
from promptkit.errors import PromptkitError
from promptkit.training.checkpoint import load_run

load_run(sys.argv[1], device="cpu")  # imports and tables are not the damage's
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 512 * 2**20, resource.RLIM_INFINITY))
wrong, cases = [], sorted(Path(sys.argv[2]).iterdir())
for case in cases:
    spent = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    resource.setrlimit(resource.RLIMIT_CPU, (int(spent) + 30, resource.RLIM_INFINITY))
    try:
        load_run(case, device="cpu")
        wrong.append(f"{case.name}: was loaded")
    except PromptkitError as error:
        if len(error.message) > 2000:
            wrong.append(f"{case.name}: a message of {len(error.message)} characters")
    except BaseException as error:
        wrong.append(f"{case.name}: {type(error).__name__}: {str(error)[:200]}")
print(json.dumps({"cases": len(cases), "wrong": wrong}))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures memory as Linux does")
def test_every_damaged_checkpoint_is_an_error_within_limits(run: Path, tmp_path: Path) -> None:
    names = {}
    for number, (what, content) in enumerate(corpus(run)):
        case = tmp_path / "cases" / f"{number:03}"
        case.mkdir(parents=True)
        shutil.copy(run / SETTINGS, case)
        (case / WEIGHTS).write_bytes(content)
        names[case.name] = what
    assert len(names) >= 200
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIMITED, run, tmp_path / "cases"],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["cases"] == len(names)
    assert not found["wrong"], "\n".join(f"{names[line[:3]]}: {line}" for line in found["wrong"])


@pytest.mark.parametrize("name", [WEIGHTS, SETTINGS])
@pytest.mark.parametrize("kind", ["fifo", "folder", "broken link", "link to itself", "device", "huge"])
def test_what_is_no_file_is_an_error_and_does_not_hang(
    kind: str, name: str, run: Path, promptkit: Command, tmp_path: Path
) -> None:
    (run / name).unlink()
    if kind == "fifo":
        os.mkfifo(run / name)
    elif kind == "folder":
        (run / name).mkdir()
    elif kind == "huge":
        with (run / name).open("wb") as file:
            file.truncate(2**40)  # takes no room
    else:
        target = {"broken link": "../../nowhere", "link to itself": name, "device": "/dev/zero"}[kind]
        (run / name).symlink_to(target)
    done = promptkit("eval", "run")
    assert done.status == 2
    assert f"run/{name}" in done.err
    assert "Traceback" not in done.err
    (listed,) = list_runs(tmp_path)
    assert listed.state == "damaged"


def test_a_link_to_a_whole_file_is_followed(run: Path, tmp_path: Path) -> None:
    (run / WEIGHTS).rename(tmp_path / "elsewhere")
    (run / WEIGHTS).symlink_to(tmp_path / "elsewhere")
    assert read_metadata(run).epoch == 2


def test_a_run_put_together_from_two_is_refused(run: Path, train: Command, promptkit: Command, tmp_path: Path) -> None:
    train("zeroshot", "--out", "other")
    shutil.copy(tmp_path / "other/run.toml", run)
    done = promptkit("eval", "run")
    assert done.status == 2
    assert "was learned by 'coop', and run.toml says 'zeroshot'" in done.err


@pytest.mark.parametrize(
    "content",
    [
        b"a = " + b"[" * 100_000,
        b"recipe = 1" + b"0" * 10_000,
        b'recipe = "coop"\nrecipe = "coop"',
        b'recipe = "\xff"',
        b'recipe = "coop"\n' + b"#" * MAX_RUN_FILE,
        b"\0" * 100,
        b'[recipe]\nname = "coop"',
    ],
)
def test_a_damaged_run_file_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes(content)
    with pytest.raises(PromptkitError, match=r"run\.toml"):
        read_run_file(tmp_path / "run.toml")


def test_a_number_too_large_for_its_option_is_an_error() -> None:
    with pytest.raises(PromptkitError, match=r"train\.lr="):
        resolve(installed(), "coop", {"train": {"lr": 10**400}})


# Anything at all, to the readers.

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(["recipe", "backbone", "fingerprint", "classnames", "epoch", "epochs", "version", "figures"])


@given(st.one_of(json_values, st.dictionaries(fields, json_values)).map(json.dumps) | st.text(max_size=50))
def test_any_metadata_is_read_or_refused(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / WEIGHTS).write_bytes(pack({}, text.encode(errors="replace").decode()))
        with contextlib.suppress(PromptkitError):
            metadata = read_metadata(Path(folder))
            assert type(metadata.epoch) is int
            assert all(type(name) is str for name in metadata.classnames)


toml_lines = st.sampled_from(
    ['recipe = "coop"', "[train]", "lr = 1e400", "lr = nan", "seed = -1", "[data]", 'path = "\\u0000"', "x = 1979-05-27",
     "[[train]]", "a.b.c = 1", 'lr = "0x10"', "[prompts]", "n_ctx = 99999999999999999999", 'name = "../../x"']
)  # fmt: skip


@given(st.lists(toml_lines, max_size=8).map("\n".join) | st.binary(max_size=60))
def test_any_run_file_is_resolved_or_refused(content: str | bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / SETTINGS
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with contextlib.suppress(PromptkitError):
            tables = read_run_file(path)
            resolve(installed(), tables["recipe"], tables)


@given(st.binary(max_size=200))
def test_any_bytes_are_no_checkpoint(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / WEIGHTS).write_bytes(content)
        with pytest.raises(PromptkitError):
            load_run(folder)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', "NaN", "[Infinity]", "[" * 100_000])
def test_json_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"twice|not JSON|deeply"):
        plain_json(text)


def test_no_pickle_is_read(
    train: Command, promptkit: Command, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run from training to evaluation, on weights in torch's own format, which is the only one that could hold any."""
    import pickle

    import open_clip

    unsafe: list[str] = []
    loads: list[bool] = []
    torch_load = torch.load

    def watched(*arguments: Any, weights_only: bool | None = None, **options: Any) -> Any:
        loads.append(weights_only is True)
        return torch_load(*arguments, weights_only=weights_only, **options)

    monkeypatch.setattr(torch, "load", watched)
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, lambda *_, name=name, **__: unsafe.append(name))
    folder = tmp_path / "clip"
    folder.mkdir()
    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.save(open_clip.CLIP(**config).state_dict(), folder / "open_clip_pytorch_model.bin")
    done = promptkit(
        "train", "coop", "--data", pictures, "--backbone", f"local-dir:{folder}", "--workers", "0", "--epochs", "1",
        "--out", "run",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert promptkit("eval", "run").status == 0
    assert promptkit("runs", ".").status == 0
    assert loads
    assert all(loads)
    assert not unsafe


def test_nothing_in_the_package_reads_pickle() -> None:
    import ast

    import promptkit

    root = Path(promptkit.__file__).parent
    copies_views = root / "testing" / "components.py"  # to see that data workers can: it reads what it has just written
    for path in [*root.rglob("*.py"), *(root.parent / "plugins").glob("*/promptkit_*/*.py")]:
        if path == copies_views:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
                assert not names & {"pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}, path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(word.arg == "weights_only" for word in node.keywords), path

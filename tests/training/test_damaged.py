"""Checkpoints and run files as no run leaves them: each is answered with one of our errors, soon and in little memory."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from promptkit.config import MAX_RUN_FILE, read_run_file, resolve
from promptkit.errors import PromptkitError
from promptkit.files import plain_json
from promptkit.registry import installed
from promptkit.runs import state, tensorfile
from promptkit.runs.checkpoint import SETTINGS, STATE, WEIGHTS, read_metadata, read_tensors
from promptkit.runs.listing import list_runs
from promptkit.runs.opening import load_run
from promptkit.runs.tensorfile import pack, read_text

Command = Callable[..., "Finished"]

linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures memory as Linux does")
OTHER_TYPES = (None, True, -1, 1.5, "text", [], [1], {}, {"a": []})


@pytest.fixture
def run(train: Command, tmp_path: Path) -> Path:
    assert train("coop", "--out", "run").status == 0
    return tmp_path / "run"


def unsound_metadata(run: Path, signed: Callable[..., bytes]) -> Iterator[tuple[str, bytes]]:
    """What no learner has in its header."""
    tensors, metadata = read_tensors(run), json.loads(read_text(run / WEIGHTS))
    for field, kept in metadata.items():
        for value in OTHER_TYPES:
            odd = type(value) is not type(kept) or value in (-1, [1], {"a": []}, [])
            if odd and (field, value) != ("domains", []):
                yield f"{field} is {value!r}", signed(tensors, {**metadata, field: value})
        if field != "figures":
            yield f"no {field}", signed(tensors, {key: old for key, old in metadata.items() if key != field})
    for extra in ({"more": 1}, {"recipe": "../../x"}, {"recipe": "/etc/passwd"}, {"fingerprint": "../../x"}):
        yield f"metadata with {extra}", signed(tensors, {**metadata, **extra})
    for names in (["a", "a"], ["a", ["b"]], [None], ["circle", "cross", 3]):
        yield f"classnames {names}", signed(tensors, {**metadata, "classnames": names})
    for figures in ({"ce": float("nan")}, {"ce": float("inf")}, {"ce": "1"}, {"ce": True}, {"ce": 10**400}):
        yield f"figures {figures!r:.20}", signed(tensors, {**metadata, "figures": figures})
    text = json.dumps(metadata)
    for epoch in ("1e999", "NaN", "2" + 400 * "0" + ".5"):
        yield f"epoch {epoch[:9]}", signed(tensors, text.replace('"epoch": 2', f'"epoch": {epoch}'))
    yield "epoch twice", signed(tensors, text[:-1] + ', "epoch": 1}')


@linux
def test_every_damaged_checkpoint_is_an_error_within_limits(
    run: Path, damage: Any, each_is_an_error: Callable[..., int]
) -> None:
    attempt = """
from promptkit.runs.opening import load_run

def attempt(path):
    Path("attempt").mkdir(exist_ok=True)
    for name, target in (("learner.safetensors", path), ("run.toml", Path(sys.argv[1]).parent / "run.toml")):
        Path("attempt", name).unlink(missing_ok=True)
        Path("attempt", name).symlink_to(target)
    load_run("attempt", device="cpu")
"""
    path = run / WEIGHTS
    cases = (damage.broken_bytes(path), damage.spoiled_tensors(path), unsound_metadata(run, damage.signed))
    assert each_is_an_error(attempt, path, chain(*cases)) >= 200


def unsound_state(path: Path, signed: Callable[..., bytes]) -> Iterator[tuple[str, bytes]]:
    """What no trainer has in its state."""
    tensors, plain = tensorfile.read_tensors(path), json.loads(read_text(path))

    for part, kept in plain.items():
        for value in OTHER_TYPES:
            if type(value) is not type(kept):
                yield f"{part} is {value!r}", signed(tensors, {**plain, part: value})
        yield f"no {part}", signed(tensors, {key: old for key, old in plain.items() if key != part})
    loop = plain["loop"]
    for field, kept in loop.items():
        values = (*OTHER_TYPES, 10**400) if field in ("norms", "sums") else OTHER_TYPES
        for value in values:
            if type(value) is not type(kept) and (field, value) != ("norms", -1):
                yield f"{field} is {value!r:.20}", signed(tensors, {**plain, "loop": {**loop, field: value}})
        left = {key: old for key, old in loop.items() if key != field}
        yield f"no {field}", signed(tensors, {**plain, "loop": left})
    for unsound in (
        {"epoch": 0}, {"epoch": 3}, {"epoch": 10**30}, {"batch": 0}, {"images": 0}, {"step": 0}, {"sums": {"ce": "1"}},
        {"sums": {"ce": None}}, {"sums": {"ce": True}}, {"more": 1},
    ):  # fmt: skip
        changed = {"steps_in_epoch": 1, **unsound}
        yield f"position with {unsound}", signed(tensors, {**plain, "loop": {**loop, **changed}})
    for constant in ("1e999", "NaN", "-Infinity"):
        text = json.dumps({**plain, "loop": {**loop, "norms": 0.125}}).replace("0.125", constant)
        yield f"norms {constant}", signed(tensors, text)
    for key, value in (("0.step", []), ("0.exp_avg", 3), ("99.step", 1), ("-1.step", 1), ("x.step", 1), ("", 1)):
        yield f"optimizer {key} {value}", signed(tensors, {**plain, "optimizer": {key: value}})
    for groups in ([], [1], [{"lr": 9}, {"lr": 9}], [{"step": "x"}], [{"step": []}], [{"x": 10**400}], [{"params": 1}]):
        yield f"groups {groups!r:.20}", signed(tensors, {**plain, "groups": groups})
    for value in ({}, {"train": {"lr": 7}}, {"x" * 10_000: "y" * 10_000}, {f"s{n}": n for n in range(10_000)}):
        yield f"settings {value!r:.20}", signed(tensors, {**plain, "settings": value})
    yield "other data", signed(tensors, {**plain, "data": "x" * 10_000})
    for name, tensor in tensors.items():
        if name.endswith(".step"):
            for step in (-1, -5):
                yield f"{name} {step}", signed({**tensors, name: torch.full_like(tensor, step)}, plain)
        if name.endswith(".exp_avg_sq"):
            yield f"{name} below 0", signed({**tensors, name: torch.full_like(tensor, -1)}, plain)
        if name.startswith("optimizer.0."):
            moved = {key.replace("optimizer.0.", "optimizer.7."): value for key, value in tensors.items()}
            yield f"{name} of no parameter", signed(moved, plain)
    generator = tensors["generator.0.cpu"]
    for name, spoiled in {
        "ones": torch.full_like(generator, 255),
        "short": generator[:-1],
        "none": generator[:0],
    }.items():
        yield f"generator of {name}", signed({**tensors, "generator.0.cpu": spoiled}, plain)


@linux
def test_every_damaged_state_is_an_error_within_limits(
    stopped: Path, damage: Any, each_is_an_error: Callable[..., int]
) -> None:
    attempt = """
from promptkit.config import read_run_file, resolve
from promptkit.registry import installed
from promptkit.runs import state
from promptkit.training.batches import image_batches
from promptkit.training.run import Run
from promptkit.training.trainer import Trainer

tables = read_run_file(Path("run/run.toml"))
run = Run(resolve(installed(), tables["recipe"], tables), Path("run"), resume=True)
trainer = Trainer(run.learner, image_batches(run.config, run.pictures, run.views, False), run.config.train)
data = run.dataset.fingerprint()

def attempt(path):
    state.resume(trainer, path, run.config, data)
"""
    path = stopped / STATE
    cases = (
        damage.broken_bytes(path, cuts=25, header_bits=30, data_bits=20),
        damage.spoiled_tensors(path),
        unsound_state(path, damage.signed),
    )
    harmless = "generator.0.cpu of shape (1, 5056)"  # the same bytes, and torch asks for no more
    assert each_is_an_error(attempt, path, (case for case in chain(*cases) if case[0] != harmless)) >= 200


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
    assert listed.status == "damaged"


def test_a_link_to_a_whole_file_is_followed(run: Path, tmp_path: Path) -> None:
    (run / WEIGHTS).rename(tmp_path / "elsewhere")
    (run / WEIGHTS).symlink_to(tmp_path / "elsewhere")
    assert read_metadata(run).epoch == 2


def test_a_run_put_together_from_two_is_refused(run: Path, train: Command, promptkit: Command, tmp_path: Path) -> None:
    train("zeroshot", "--out", "other")
    shutil.copy(tmp_path / "other/run.toml", run)
    done = promptkit("eval", "run")
    assert done.status == 2
    assert "recipe: coop in the run, zeroshot now" in done.err


def test_a_changed_digit_in_the_run_file_is_named(run: Path, promptkit: Command, tmp_path: Path) -> None:
    file = run / "run.toml"
    whole = file.read_text()
    for old, new, named in (
        ("n_ctx = 16", "n_ctx = 15", "prompts.n_ctx: 16 in the run, 15 now"),
        ("lr = 0.002", "lr = 0.003", "train.lr: 0.002 in the run, 0.003 now"),
        ("[prompts]", "[prompts]\nmore = 1", "prompts.more: unset in the run, 1 now"),
    ):
        file.write_text(whole.replace(old, new))
        done = promptkit("eval", "run")
        assert done.status == 2
        assert f"learner.safetensors was not learned with the settings in run.toml: {named}" in done.err
        assert [listed.status for listed in list_runs(tmp_path)] == ["damaged"]
    # Where it runs, and where its data lies now, changes nothing.
    file.write_text(whole.replace("workers = 0", "workers = 1"))
    assert promptkit("eval", "run").status == 0


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
fields = st.sampled_from(["recipe", "backbone", "fingerprint", "classnames", "epoch", "epochs", "packages", "figures"])


@given(st.one_of(json_values, st.dictionaries(fields, json_values)).map(json.dumps) | st.text(max_size=50))
def test_any_metadata_is_read_or_refused(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / WEIGHTS).write_bytes(pack({}, text.encode(errors="replace").decode()))
        with contextlib.suppress(PromptkitError):
            metadata = read_metadata(Path(folder))
            assert type(metadata.epoch) is int
            assert all(type(name) is str for name in metadata.classnames)


parts = st.sampled_from(["loop", "optimizer", "groups", "settings", "data"])


@given(st.one_of(json_values, st.dictionaries(parts, json_values)).map(json.dumps) | st.text(max_size=50))
def test_any_state_is_read_or_refused(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / STATE
        path.write_bytes(pack({}, text.encode(errors="replace").decode()))
        with contextlib.suppress(PromptkitError):
            _, saved = state.read(path)
            assert type(saved.loop.epoch) is int
            assert type(saved.settings) is dict


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
    train: Command, promptkit: Command, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        "train", "coop", "--data", images, "--backbone", f"local-dir:{folder}", "--workers", "0", "--epochs", "1",
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

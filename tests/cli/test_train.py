"""`promptkit train`, as a user meets it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

Command = Callable[..., "Finished"]

RECIPES = ("zeroshot", "coop", "cocoop", "gopro", "gopro-reference")


def tensors(run: Path) -> dict[str, bytes]:
    with safe_open(run / "learner.safetensors", framework="np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


FIRST_BATCH = """
import gc, json, sys
from promptkit.cli import main
from promptkit.data import loading

def first(samples):
    print(json.dumps([gc.isenabled(), *sorted({name.partition(".")[0] for name in sys.modules})]))
    raise SystemExit

loading.collate = first
for words in json.loads(sys.argv[1]):
    sys.argv = ["promptkit", *words]
    try:
        main()
    except SystemExit:
        pass
"""


def test_before_the_first_batch_no_library_is_imported_that_others_need(
    train: Command, images: Path, tmp_path: Path
) -> None:
    train("zeroshot", "--out", "run")
    tiny = ["--backbone", "tiny", "--weights", "none", "--workers", "0", "--data", str(images)]
    commands = json.dumps([["eval", "run", "--workers", "0"], ["train", "coop", *tiny]])
    done = subprocess.run([sys.executable, "-c", FIRST_BATCH, commands], cwd=tmp_path, capture_output=True, text=True)
    by_eval, by_train = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    assert by_eval[0] is by_train[0] is True, "garbage is collected again"
    views, others = (
        {"albumentations", "cv2", "scipy"},
        {"accelerate", "matplotlib", "pandas", "pyarrow", "torchmetrics"},
    )
    assert "open_clip" in by_eval
    assert (views | others).isdisjoint(by_eval)
    assert views <= {*by_train}
    assert others.isdisjoint(by_train)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_leaves_learner_settings_and_log(recipe: str, train: Command, tmp_path: Path) -> None:
    done = train(recipe, "--out", "run")
    assert done.status == 0, done.err
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        ".lock",
        "learner.safetensors",
        "run.toml",
        "log.jsonl",
    }
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == ([] if recipe == "zeroshot" else [1, 2])
    for line in lines:
        assert {"ce", "lr", "images", "val_accuracy", "seconds"} <= line.keys()
        assert line["images"] == 32  # 4 classes, 2 domains, 4 shots
    with safe_open(tmp_path / "run/learner.safetensors", framework="np") as file:
        header = json.loads(file.metadata()["promptkit"])
    assert header["recipe"] == recipe
    assert header["classnames"] == ["circle", "cross", "square", "star"]
    # What is saved is what is learned: no tensor of the backbone, whose vocabulary alone is larger.
    assert sum(map(len, tensors(tmp_path / "run").values())) < 200_000


def test_random_weights_are_said_loudly(train: Command) -> None:
    assert "warning: random weights" in train("coop", "--out", "run").err


def test_a_run_file_repeats_the_run(train: Command, promptkit: Command, tmp_path: Path) -> None:
    assert train("gopro", "--out", "first", "--seed", "3").status == 0
    done = promptkit("train", "--config", "first/run.toml", "--out", "second")
    assert done.status == 0, done.err
    assert tensors(tmp_path / "first") == tensors(tmp_path / "second")
    assert (tmp_path / "first/run.toml").read_bytes() == (tmp_path / "second/run.toml").read_bytes()


def test_another_seed_gives_another_run_and_workers_change_nothing(train: Command, tmp_path: Path) -> None:
    train("gopro", "--out", "one", "--domains", "photo")
    train("gopro", "--out", "same", "--domains", "photo", "--workers", "2")
    train("gopro", "--out", "other", "--domains", "photo", "--seed", "2")
    assert tensors(tmp_path / "one") == tensors(tmp_path / "same")
    assert tensors(tmp_path / "one") != tensors(tmp_path / "other")


def test_components_of_one_package_serve_in_a_recipe_of_another(train: Command, tmp_path: Path) -> None:
    done = train("coop", "--out", "run", "--set", "prompts=gopro", "--set", "views=gopro", "--set", "loss=gopro")
    assert done.status == 0, done.err
    assert "contrast" in (tmp_path / "run/log.jsonl").read_text()


def test_bf16_trains(train: Command) -> None:
    assert train("gopro", "--out", "run", "--precision", "bf16").status == 0


def test_clipping_bounds_what_a_step_changes(train: Command, tmp_path: Path) -> None:
    words = ("--set", "train.weight_decay=0", "--epochs", "1", "--batch-size", "32", "--set", "train.warmup_epochs=0")
    for out, clip in (("free", 0), ("clipped", 1e-12)):
        train("coop", "--out", out, *words, "--lr", "0.5", "--set", f"train.clip_grad={clip}")
    train("coop", "--out", "still", *words, "--lr", "0")
    assert tensors(tmp_path / "clipped") == tensors(tmp_path / "still") != tensors(tmp_path / "free")


# What goes wrong.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gopr",), "error: no recipe named 'gopr'; did you mean 'gopro'?"),
        (("GOPro",), "error: no recipe named 'GOPro'; did you mean 'gopro'?"),
        (
            ("coop", "--set", "n_ctx=8"),
            "error: --set n_ctx=8: expected slot.field=value\nhint:  did you mean --set prompts.n_ctx=8?",
        ),
        (
            ("coop", "--domains", "photo", "cartoon"),
            "error: promptkit train has no place for: cartoon\nhint:  did you mean --domains photo,cartoon?",
        ),
        (
            ("coop", "--set", "train.lr", "0.1"),
            "error: promptkit train has no place for: 0.1\nhint:  did you mean --set train.lr=0.1?",
        ),
        (
            ("coop", "more"),
            "error: promptkit train has no place for: more\nhint:  promptkit train --help shows what it takes",
        ),
        (("gopro", "--set", "prompts=gpro"), "error: no prompts named 'gpro'; did you mean 'gopro'?"),
        (
            ("gopro", "--set", "prompts.nctx=3"),
            "error: no option of prompts 'gopro' named 'nctx'; did you mean 'n_ctx'?",
        ),
        (("gopro", "--set", "promts.n_ctx=3"), "error: no slot named 'promts'; did you mean 'prompts'?"),
        (("gopro", "--set", "prompts.n_ctx=many"), "error: prompts.n_ctx='many': expected int"),
        (("coop", "--set", "prompts.position=top"), "error: prompts.position='top': expected end|middle|front"),
        (
            ("gopro", "--set", "views=standard"),
            """error: loss 'gopro' needs the views "moco" and "augmix"; views 'standard' makes "image\"""",
        ),
        (("coop", "--set", "prompts.n_ctx=0"), "error: prompts.n_ctx='0': expected int, at least 1"),
        (("coop", "--domains", "photos"), "error: no domain named 'photos'; did you mean 'photo'?"),
        (("coop", "--device", "cuda:77"), "error: device 'cuda:77' can't be used"),
        (("coop", "--set", "train.optimizer=sgdd"), "error: train.optimizer='sgdd'"),
        (("coop", "--backbone", "ViT-B-61"), "error: no "),
        (("zeroshot", "--set", "prompts.template=a photo"), "error: prompts.template='a photo' needs one {}"),
    ],
)
def test_a_mistake_is_answered_in_one_message(words: tuple[str, ...], message: str, train: Command) -> None:
    done = train(words[0], "--out", "run", *words[1:])
    assert done.status == 2
    errors = done.err[done.err.index("error:") :]
    assert errors.startswith(message)
    assert "Traceback" not in done.err
    assert errors.count("\n") <= 3


def test_a_folder_behind_the_recipe_is_taken_for_the_data(promptkit: Command, images: Path) -> None:
    done = promptkit("train", "coop", images)
    assert done.status == 2
    assert f"hint:  did you mean --data {images}?" in done.err


def test_debug_shows_the_trace(train: Command) -> None:
    assert "Traceback" in train("gopr", "--debug").err


def test_data_is_asked_for(promptkit: Command) -> None:
    done = promptkit("train", "coop", "--backbone", "tiny")
    assert done.status == 2
    assert "there is no data to train on" in done.err
    assert "--data PATH" in done.err


def test_a_missing_folder_and_one_without_images(promptkit: Command, tmp_path: Path) -> None:
    done = promptkit("train", "coop", "--data", "nowhere", "--backbone", "tiny")
    assert (done.status, "nowhere" in done.err) == (2, True)
    (tmp_path / "empty").mkdir()
    done = promptkit("train", "coop", "--data", "empty", "--backbone", "tiny")
    assert (done.status, "empty" in done.err) == (2, True)


def test_fewer_images_than_shots_is_a_warning(train: Command) -> None:
    done = train("coop", "--out", "run", "--shots", "99")
    assert done.status == 0
    assert re.search(r"warning: fewer training pictures than 99 shots: .*circle \(4\)", done.err)


def test_a_finished_run_is_not_overwritten_without_force(train: Command, tmp_path: Path) -> None:
    train("coop", "--out", "run")
    before = tensors(tmp_path / "run")
    done = train("coop", "--out", "run", "--seed", "2")
    assert done.status == 2
    assert "run holds a run already" in done.err
    assert "--force" in done.err
    assert tensors(tmp_path / "run") == before
    assert train("coop", "--out", "run", "--seed", "2", "--force").status == 0
    assert tensors(tmp_path / "run") != before


def test_an_output_folder_that_cannot_be_made_is_said_before_anything_is_trained(
    train: Command, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    done = train("coop", "--out", "file/run")
    assert done.status == 2
    assert "file/run can't be written" in done.err
    assert "epoch" not in done.out


def test_a_term_that_is_not_finite_stops_the_run_and_keeps_the_last_epoch(train: Command, tmp_path: Path) -> None:
    done = train("coop", "--out", "run", "--lr", "1e38", "--epochs", "4", "--set", "train.warmup_epochs=2")
    assert done.status == 2
    assert re.search(
        r"error: (loss term 'ce' is nan at step|the learner answers with logits that are not finite)", done.err
    )
    with safe_open(tmp_path / "run/learner.safetensors", framework="np") as file:
        assert json.loads(file.metadata()["promptkit"])["epoch"] in (1, 2, 3)


def test_a_rate_that_blows_up_is_an_error_and_nothing_is_called_saved(train: Command, tmp_path: Path) -> None:
    done = train("coop", "--out", "run", "--lr", "1e30", "--set", "train.warmup_epochs=0")
    assert done.status == 2
    assert re.search(r"error: .* (not finite|nan|inf)", done.err), done.err
    assert "saved" not in done.out
    assert not (tmp_path / "run/learner.safetensors").exists()


def damaged(folder: Path, images: Path) -> Path:
    """A data set in which four stars are cut and one circle is empty."""
    shutil.copytree(images, folder)
    for number in range(4):
        star = folder / f"photo/star/00{number}.png"
        star.write_bytes(star.read_bytes()[: star.stat().st_size // 2])
    (folder / "photo/circle/001.png").write_bytes(b"")
    return folder


def test_unreadable_images_are_named_and_counted_or_an_error(promptkit: Command, images: Path, tmp_path: Path) -> None:
    data = damaged(tmp_path / "data", images)
    words = (
        "train",
        "coop",
        "--data",
        data,
        "--backbone",
        "tiny",
        "--weights",
        "none",
        "--epochs",
        "1",
        "--workers",
        "0",
    )
    done = promptkit(*words, "--out", "run")
    assert done.status == 0
    left_out = re.findall(r"warning: (\d) pictures? left out: (.*)", done.err)
    assert 0 < sum(int(count) for count, _ in left_out) <= 5
    assert re.search(r"00\d\.png \(", left_out[0][1])
    found = promptkit("eval", "run", "--split", "all", "--json", "figures.json")
    assert found.status == 0
    assert "warning: 5 pictures left out: " in found.err
    assert json.loads((tmp_path / "figures.json").read_text())["runs"]["run"]["photo"]["n"] == 27
    strict = promptkit("eval", "run", "--split", "all", "--strict")
    assert strict.status == 2
    assert "can't be read" in strict.err


def test_a_second_ctrl_c_leaves_no_trace_of_what_is_put_away_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from promptkit.__main__ import main

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(sys, "argv", ["promptkit", "--version"])
    try:
        with pytest.raises(SystemExit):
            main()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_cleanly_and_keeps_the_last_epoch(images: Path, tmp_path: Path) -> None:
    words = ["train", "coop", "--data", str(images), "--backbone", "tiny", "--weights", "none", "--epochs", "5000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "promptkit", *words, "--out", "run", "--workers", "1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Started in a shell's background, the tests ignore Ctrl-C, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        until = time.monotonic() + 90
        while not (tmp_path / "run/learner.safetensors").exists():
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in out + err
    kept = int(re.search(r"stopped; run holds epoch (\d+)", out)[1])  # type: ignore[index]
    with safe_open(tmp_path / "run/learner.safetensors", framework="np") as file:
        assert json.loads(file.metadata()["promptkit"])["epoch"] == kept
    assert tomllib.loads((tmp_path / "run/run.toml").read_text())["train"]["epochs"] == 5000

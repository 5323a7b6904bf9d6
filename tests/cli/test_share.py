"""`promptkit push`, `pull` and "hf-hub:", against a small server in the hub's place."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import promptkit as package

Command = Callable[..., "Finished"]


def refusing(*words: object, **more: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_run_goes_to_the_hub_and_comes_back(
    hub: Any, train: Command, promptkit: Command, images: Path, tmp_path: Path
) -> None:
    assert train("coop", "--out", "runs/mine").status == 0
    assert promptkit("eval", "runs/mine", "--keep").status == 0
    done = promptkit("push", "runs/mine", "me/shapes-coop")
    assert done.status == 0, done.err
    assert "/me/shapes-coop; say in its README.md under which licence" in done.out
    there = hub.repositories["me/shapes-coop"]
    assert sorted(there) == ["README.md", "learner.safetensors", "log.jsonl", "run.toml"]
    card = there["README.md"].decode()
    assert "Zhou et al., Learning to Prompt" in card
    assert "circle, cross, square, star" in card
    assert "| all pictures | " in card
    assert "# license: say" in card

    done = promptkit("pull", "me/shapes-coop")
    assert done.status == 0, done.err
    for name in ("learner.safetensors", "log.jsonl", "run.toml"):
        assert (tmp_path / "runs/shapes-coop" / name).read_bytes() == (tmp_path / "runs/mine" / name).read_bytes()
    picture = images / "photo/star/000.png"
    answers = package.load("hf-hub:me/shapes-coop", device="cpu")(picture)
    assert answers == package.load("runs/mine", device="cpu")(picture)
    assert promptkit("predict", "hf-hub:me/shapes-coop", picture).out == promptkit("predict", "runs/mine", picture).out
    done = promptkit("eval", "hf-hub:me/shapes-coop", "runs/mine")
    assert done.status == 0, done.err
    assert "shapes-coop" in done.out

    # What is wrong is said in one message.
    for words, message in (
        (["pull", "me/shapes-coop"], "runs/shapes-coop exists already"),
        (["pull", "me/nothing"], "no repository me/nothing at http"),
        (["pull", "nothing"], "'nothing' names no repository of the hub"),
        (["push", "runs/gone", "me/gone"], "runs/gone holds no run"),
        (["push", "runs/mine", "me/so/much"], "'me/so/much' names no repository of the hub"),
    ):
        done = promptkit(*words)
        assert done.status == 2, words
        assert message in done.err
        assert "Traceback" not in done.err
    hub.repositories["me/other"] = {"README.md": b"a model of somebody else's"}
    assert "/me/other holds no run of promptkit" in promptkit("pull", "me/other").err
    hub.repositories["me/damaged"] = {**there, "learner.safetensors": there["learner.safetensors"][:-8]}
    done = promptkit("pull", "me/damaged", "--out", "again")
    assert done.status == 2
    assert not (tmp_path / "again").exists()
    # A full disk, in the run's folder and in the client's cache; a copy that is there already is used.
    with pytest.MonkeyPatch.context() as full:
        full.setattr("shutil.copyfile", refusing)
        done = promptkit("pull", "me/shapes-coop", "--out", "again")
        assert done.status == 2
        assert "again can't be written: No space left on device" in done.err
        assert "choose another --out, or make room" in done.err
        done = promptkit("predict", "hf-hub:me/shapes-coop", picture)
        assert (done.status, "No space left on device; using the copy in" in " ".join(done.err.split())) == (0, True)
    with pytest.MonkeyPatch.context() as full:
        full.setattr("huggingface_hub.hf_hub_download", refusing)
        assert (
            "again can't be written: No space left on device"
            in promptkit("pull", "me/shapes-coop", "--out", "again").err
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "runs"]
    hub.refuses = 403
    done = promptkit("push", "runs/mine", "me/shapes-coop")
    assert done.status == 2
    assert "refuses runs/mine, to me/shapes-coop: 403" in done.err

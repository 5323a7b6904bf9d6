"""`promptkit eval`, as a user meets it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., "Finished"]


def figures(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    return json.loads(path.read_text())["runs"]  # type: ignore[no-any-return]


def test_runs_stand_side_by_side_with_a_row_for_each_domain(train: Command, promptkit: Command, tmp_path: Path) -> None:
    for recipe in ("gopro", "coop", "cocoop", "zeroshot"):
        train(recipe, "--domains", "photo", "--out", f"runs/{recipe}")
    done = promptkit("eval", "runs/gopro", "runs/coop", "runs/cocoop", "runs/zeroshot", "--json", "figures.json")
    assert done.status == 0, done.err
    rows = [line.split("│")[1].strip() for line in done.out.splitlines() if line.startswith("│")]
    assert rows == ["cartoon", "photo", "mean", "worst"]
    together = figures(tmp_path / "figures.json")
    assert list(together) == ["gopro", "coop", "cocoop", "zeroshot"]
    # Sharing the image pass changes no figure.
    for run, scores in together.items():
        promptkit("eval", f"runs/{run}", "--json", "alone.json")
        assert figures(tmp_path / "alone.json") == {run: scores}


def test_the_table_holds_the_figures(train: Command, promptkit: Command, tmp_path: Path) -> None:
    train("coop", "--out", "run")
    done = promptkit("eval", "run", "--json", "figures.json")
    scores = figures(tmp_path / "figures.json")["run"]
    for domain in ("cartoon", "photo"):
        (row,) = (line for line in done.out.splitlines() if domain in line)
        cells = [cell.strip() for cell in row.strip("│").split("│")]
        expected = [f"{100 * scores[domain][figure]:.1f}" for figure in ("accuracy", "macro_accuracy")]
        assert cells == [domain, *expected, str(scores[domain]["n"])]
    (mean,) = (line for line in done.out.splitlines() if "mean" in line)
    assert f"{100 * sum(score['accuracy'] for score in scores.values()) / 2:.1f}" in mean


def test_only_test_images_count_unless_told_otherwise(train: Command, promptkit: Command, tmp_path: Path) -> None:
    train("coop", "--out", "run")
    # Eight pictures per class and domain: 4 train, 1 val, 3 test.
    for split, n in (("test", 12), ("val", 4), ("train", 16), ("all", 32)):
        assert promptkit("eval", "run", "--split", split, "--json", "figures.json").status == 0
        assert {score["n"] for score in figures(tmp_path / "figures.json")["run"].values()} == {n}


@pytest.mark.parametrize("recipe", ["coop", "gopro"])
def test_a_learner_of_base_classes_is_asked_about_new_ones(
    recipe: str, train: Command, promptkit: Command, tmp_path: Path
) -> None:
    train(recipe, "--classes", "base", "--out", "run")
    for classes, n in (("base", 6), ("new", 6), ("data", 12)):
        done = promptkit("eval", "run", "--classes", classes, "--json", "figures.json")
        assert done.status == 0, done.err
        assert "not trained" not in done.err
        assert figures(tmp_path / "figures.json")["run"]["photo"]["n"] == n
    (tmp_path / "names.txt").write_text("star\ncircle\ncross\n")
    assert promptkit("eval", "run", "--classes", "names.txt", "--json", "figures.json").status == 0
    assert figures(tmp_path / "figures.json")["run"]["photo"]["n"] == 9


def test_a_folder_with_some_of_the_trained_classes_is_asked_about_all_of_them(
    train: Command, promptkit: Command, images: Path, tmp_path: Path
) -> None:
    for recipe in ("coop", "zeroshot"):
        train(recipe, "--domains", "photo", "--out", recipe)
    train("coop", "--domains", "photo", "--classes", "base", "--out", "half")
    runs = ("coop", "zeroshot", "half")
    for name in ("cross", "star"):  # one trained by all runs, one by two; the rest of the classes has no picture
        shutil.copytree(images / "photo" / name, tmp_path / "two" / name)

    def asked(*words: object) -> tuple[str, dict[str, int], dict[str, int]]:
        done = promptkit("eval", *runs, "--data", "two", "--split", "all", "--json", "figures.json", *words)
        assert done.status == 0, done.err
        content = json.loads((tmp_path / "figures.json").read_text())
        heads = {run: f"of {len(names)} classes" in done.out for run, names in content["asked"].items()}
        assert all(heads.values()), done.out
        return (
            done.err,
            {run: len(names) for run, names in content["asked"].items()},
            {run: scores["all"]["n"] for run, scores in content["runs"].items()},
        )

    warned, classes, n = asked()
    assert classes == {"coop": 4, "zeroshot": 4, "half": 2}
    assert n == dict.fromkeys(runs, 16)
    assert "warning: half: 1 of the 2 classes of the data were not trained: 'star'" in warned
    # Every answer is one that the learner gives when it is asked about what it was trained on.
    auto = figures(tmp_path / "figures.json")
    assert promptkit("eval", "coop", "--split", "all", "--domains", "photo", "--json", "whole.json").status == 0
    whole = figures(tmp_path / "whole.json")["coop"]["photo"]["per_class"]
    assert auto["coop"]["all"]["per_class"] == [whole[1], whole[3]]

    said, classes, n = asked("--classes", "data")
    assert (classes, "not trained" in said) == (dict.fromkeys(runs, 2), False)
    warned, classes, n = asked("--classes", "trained")
    assert classes == {"coop": 4, "zeroshot": 4, "half": 2}
    assert n == dict.fromkeys(runs, 8)
    assert "'star'" in warned
    (tmp_path / "names.txt").write_text("star\ncircle\ncross\n")
    assert asked("--classes", "names.txt")[1] == dict.fromkeys(runs, 3)


def test_names_that_nobody_trained_on_are_listed_with_the_nearest(
    train: Command, promptkit: Command, images: Path, tmp_path: Path
) -> None:
    train("coop", "--out", "run")
    for name, spelt in (("cross", "Cross"), ("star", "stars"), ("circle", "tent")):
        shutil.copytree(images / "photo" / name, tmp_path / "other" / spelt)
    done = promptkit("eval", "run", "--data", "other")
    assert done.status == 0, done.err
    assert "run: 3 of the 3 classes of the data were not trained: " in done.err
    assert "'Cross' (nearest: 'cross'), 'stars' (nearest: 'star'), 'tent';" in done.err
    assert "of 3 classes" in done.out
    done = promptkit("eval", "run", "--data", "other", "--classes", "trained")
    assert done.status == 2
    assert "other has no picture of the classes to ask about (--classes trained)" in done.err


def test_a_class_specific_learner_says_why_it_cannot(train: Command, promptkit: Command) -> None:
    train("coop", "--classes", "base", "--out", "run", "--set", "prompts.class_specific=true")
    assert promptkit("eval", "run", "--classes", "base").status == 0
    done = promptkit("eval", "run", "--classes", "new")
    assert done.status == 2
    assert "a context of its own for each class it was trained on and none for: square, star" in done.err


def test_a_run_is_evaluated_on_other_data(train: Command, promptkit: Command, tmp_path: Path) -> None:
    from promptkit.testing import write_images

    train("gopro", "--out", "run")
    write_images(tmp_path / "other", ["arrow", "ring", "stripes"], ["sketch"])
    done = promptkit("eval", "run", "--data", "other", "--split", "all", "--json", "figures.json")
    assert done.status == 0, done.err
    assert figures(tmp_path / "figures.json")["run"]["sketch"]["n"] == 24


def test_runs_of_one_name_are_told_apart_by_the_end_of_their_path(
    train: Command, promptkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from promptkit.evaluation.runs import names_of

    paths = [Path("runs/v-bs16/gopro"), Path("runs/v-bs32/gopro"), Path("coop"), Path("a/x/zero"), Path("b/x/zero")]
    assert list(names_of(paths).values()) == ["v-bs16/gopro", "v-bs32/gopro", "coop", "a/x/zero", "b/x/zero"]
    names = [f"runs/a-long-name-of-many-letters-{number}/zeroshot" for number in (16, 32)]
    for name in names:
        assert train("zeroshot", "--out", name).status == 0
    monkeypatch.setenv("COLUMNS", "60")
    done = promptkit("eval", *names, "--json", "figures.json")
    assert done.status == 0, done.err
    assert list(figures(tmp_path / "figures.json")) == [name.removeprefix("runs/") for name in names]
    head = done.out.split("├")[0].split("┡")[0]
    columns = zip(*(line.strip("┃").split("┃") for line in head.splitlines() if "┃" in line), strict=True)
    shown = ["".join(cell.strip() for cell in column) for column in columns]
    for name in names:
        assert any(name.removeprefix("runs/") in cell for cell in shown), shown


# What goes wrong.


def test_a_folder_without_a_run_names_the_runs_beside_it(train: Command, promptkit: Command) -> None:
    train("coop", "--out", "runs/coop")
    done = promptkit("eval", "runs/cop")
    assert done.status == 2
    assert "runs/cop" in done.err
    assert "runs beside it: coop" in done.err
    done = promptkit("eval", "runs/coop/learner.safetensors")
    assert done.status == 2
    assert "learner.safetensors is a file, and a run is the folder that holds its files" in done.err
    assert "hint:  give runs/coop" in done.err


def test_a_file_that_is_no_checkpoint(train: Command, promptkit: Command, tmp_path: Path) -> None:
    train("coop", "--out", "run")
    (tmp_path / "run/learner.safetensors").write_bytes(b"not at all")
    done = promptkit("eval", "run")
    assert done.status == 2
    assert "run/learner.safetensors is no promptkit checkpoint" in done.err


def test_a_checkpoint_of_another_backbone(train: Command, promptkit: Command, tmp_path: Path) -> None:
    import open_clip
    import torch

    train("coop", "--out", "run")
    text = (tmp_path / "run/run.toml").read_text()
    (tmp_path / "run/run.toml").write_text(text)
    other = tmp_path / "other"
    write_local_dir(other, open_clip, torch)
    done = promptkit("eval", "run", "--backbone", f"local-dir:{other}")
    assert done.status == 2
    assert "run was trained on tiny" in done.err
    assert f"not on local-dir:{other}" in done.err


def test_the_weights_of_a_folder_are_called_its_own(promptkit: Command, images: Path, tmp_path: Path) -> None:
    import open_clip
    import torch

    from promptkit.experiments.results import read_results

    write_local_dir(tmp_path / "own", open_clip, torch)
    folder = f"local-dir:{tmp_path / 'own'}"
    shared = ("--data", images, "--backbone", folder, "--workers", "0", "--shots", "2", "--epochs", "1")
    trained = promptkit("train", "gopro", "--out", "run", *shared)
    assert trained.status == 0, trained.err
    assert f"gopro on {folder} (own weights), 4 classes" in trained.out
    assert "prompts read 2 blocks of the image tower: transformer.resblocks.0, 1\n" in trained.out
    benched = promptkit("bench", "few-shot", "--learners", "zeroshot", "--seeds", "1", "--out", "results", *shared)
    assert f"{folder} own weights" in benched.out
    assert {result.weights for result in read_results([tmp_path / "results"])} == {"own weights"}
    assert "(own weights)" in "".join(promptkit("cache", "list").out.split("\n"))
    assert "openai" not in trained.out + benched.out


def write_local_dir(folder: Path, open_clip, torch) -> None:  # type: ignore[no-untyped-def]
    """A small CLIP as open_clip's local-dir: holds it."""
    from safetensors.torch import save_file

    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**config)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")


def test_unknown_names(train: Command, promptkit: Command) -> None:
    train("coop", "--out", "run")
    for words, message in (
        (("--domains", "foto"), "no domain named 'foto'; did you mean 'photo'?"),
        (("--domains", "photo", "cartoon"), "hint:  did you mean --domains photo,cartoon?"),
        (("--split", "tests"), "no split named 'tests'; did you mean 'test'?"),
        (("--classes", "bas"), "no choice of classes named 'bas'; did you mean 'base'?"),
        (("--data", "nowhere"), "nowhere"),
    ):
        done = promptkit("eval", "run", *words)
        assert done.status == 2
        assert message in done.err


def test_figures_that_cannot_be_written_do_not_hide_the_table(train: Command, promptkit: Command) -> None:
    train("coop", "--out", "run")
    done = promptkit("eval", "run", "--json", "nowhere/figures.json")
    assert done.status == 2
    assert "photo" in done.out
    assert "nowhere/figures.json can't be written" in done.err


@pytest.mark.parametrize("cache", ["--cache", "--no-cache"])
def test_logits_that_are_not_finite_or_of_another_shape_are_not_scored(
    cache: str, train: Command, promptkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from promptkit.learner import Learner

    train("coop", "--out", "run")
    logits = Learner.logits
    monkeypatch.setattr(Learner, "logits", lambda learner, view: logits(learner, view) / 0)
    done = promptkit("eval", "run", cache, "--json", "figures.json")
    assert done.status == 2
    assert "run answers with logits that are not finite for" in done.err
    assert ".png and" in done.err
    assert "accuracy" not in done.out
    assert not (tmp_path / "figures.json").exists()
    monkeypatch.setattr(Learner, "logits", lambda learner, view: logits(learner, view)[:, :3])
    done = promptkit("eval", "run", cache)
    assert done.status == 2
    assert "logits of shape (12, 3); 12 images and 4 classes make (12, 4)" in done.err

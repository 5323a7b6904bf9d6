"""`promptkit bench` and `promptkit table`, as a user meets them."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from promptkit.experiments.results import RESULTS, Result, read_results, results_of, write_results
from promptkit.runs.tensorfile import pack, read_text
from promptkit.testing import registered, write_images

Command = Callable[..., "Finished"]
Figures = Callable[[Path], dict[tuple[object, ...], object]]

TINY = ("--backbone", "tiny", "--weights", "none", "--workers", "0", "--device", "cpu", "--batch-size", "8")


@pytest.fixture
def bench(promptkit: Command, images: Path) -> Command:
    """One epoch of two shots on the tiny backbone: bench("few-shot", "--learners", "coop", ...)."""

    def run(protocol: str, *words: object) -> "Finished":
        data = () if "--data" in words else ("--data", images)
        quick = ("--shots", "2", "--seeds", "1", "--epochs", "1")
        return promptkit("bench", protocol, *data, *TINY, *quick, "--out", "results", *words)

    return run


def written(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


KILLED = """
import time
from pathlib import Path

def finished(out):
    runs = {path.parent for path in out.rglob("learner.safetensors")}
    return {run for run in runs if not (run / "state.safetensors").exists() and len(
        (run / "log.jsonl").read_text().splitlines()) == 4}

root, *words = sys.argv[1:]
for protocol in ("base-to-new", "leave-one-domain-out"):
    out = Path(root, protocol)
    command = ["bench", protocol, *words, "--out", str(out)]
    child = start(command, f"{root}/{protocol}-killed.txt")
    while True:  # until one run is finished and another is under way
        stopped = {path.parent for path in out.rglob("state.safetensors")}
        if finished(out) and stopped - finished(out):
            break
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    assert finish(child) == -signal.SIGKILL
    before = {run: (run / "learner.safetensors").stat().st_mtime_ns for run in finished(out)}
    assert finish(start(command, f"{root}/{protocol}-again.txt")) == 0, Path(f"{root}/{protocol}-again.txt").read_text()
    for run, when in before.items():
        assert (run / "learner.safetensors").stat().st_mtime_ns == when, run
    print(protocol, "finished before:", *(run.relative_to(out) for run in before))
whole = ["bench", protocol, *words, "--out", f"{root}/whole"]
assert finish(start(whole, f"{root}/whole.txt")) == 0
"""


def test_a_killed_bench_finishes_without_repeating_a_run(
    warm: Callable[..., "list[Finished]"], figures: Figures, images: Path, tmp_path: Path
) -> None:
    words = (tmp_path, "--data", images, *TINY, "--learners", "coop,gopro", "--seeds", "1,2", "--shots", "2")
    (done,) = warm(*words, "--epochs", "4", "--set", "train.save_minutes=0", cwd=tmp_path, code=KILLED)
    assert done.status == 0, done.out + done.err
    for protocol, runs, tests in (("base-to-new", 4, 8), ("leave-one-domain-out", 8, 8)):
        (line,) = (line for line in done.out.splitlines() if line.startswith(protocol))
        before = line.partition(": ")[2].split()
        again = (tmp_path / f"{protocol}-again.txt").read_text()
        trained = [line.split()[1] for line in again.splitlines() if line.startswith("trained ")]
        assert before
        assert not set(before) & set(trained)
        assert len(before) + len(trained) == runs
        assert "going on in epoch" in again
        assert "± " in again, "the tables come at the end"
        assert len(list((tmp_path / protocol).rglob(RESULTS))) == runs
        assert len(figures(tmp_path / protocol)) == tests * (2 if protocol == "base-to-new" else 1)
    assert figures(tmp_path / "leave-one-domain-out") == figures(tmp_path / "whole")


def test_a_second_start_changes_nothing_and_prints_the_tables(bench: Command, tmp_path: Path) -> None:
    first = bench("base-to-new", "--learners", "zeroshot,coop")
    assert first.status == 0, first.err
    assert "2 runs (2 new), 4 tests to do" in first.out
    before = written(tmp_path)
    again = bench("base-to-new", "--learners", "zeroshot,coop")
    assert again.status == 0
    assert written(tmp_path) == before
    assert "2 runs (2 done), 0 tests to do" in again.out
    assert first.out[first.out.index("base-to-new, 2 shots") :] == again.out[again.out.index("base-to-new, 2 shots") :]
    assert bench("base-to-new", "--learners", "coop", "--seeds", "1,2").out.count("trained base-to-new") == 1


def test_a_lost_or_damaged_result_is_found_again(bench: Command, figures: Figures, tmp_path: Path) -> None:
    bench("base-to-new", "--learners", "coop")
    (file,) = tmp_path.rglob(RESULTS)
    whole = figures(tmp_path)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]) + lines[3][:40])
    done = bench("base-to-new", "--learners", "coop")
    assert done.status == 0, done.err
    assert "1 run (1 trained), 1 test to do" in done.out
    assert "trained base-to-new" not in done.out
    assert figures(tmp_path) == whole
    assert len(file.read_text().splitlines()) == len(lines)


def test_a_run_is_the_one_that_train_makes(bench: Command, promptkit: Command, tmp_path: Path) -> None:
    assert bench("leave-one-domain-out", "--learners", "gopro").status == 0
    (run,) = tmp_path.glob("results/leave-one-domain-out/*/gopro/2-shots/seed-1/photo")
    alone = promptkit("train", "--config", run / "run.toml", "--out", "alone")
    assert alone.status == 0, alone.err
    ours, theirs = load_file(run / "learner.safetensors"), load_file(tmp_path / "alone/learner.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    promptkit("eval", "alone", "--domains", "photo", "--split", "all", "--json", "figures.json")
    expected = json.loads((tmp_path / "figures.json").read_text())["runs"]["alone"]["photo"]
    (result,) = (result for result in read_results([tmp_path]) if result.domain == "photo")
    assert (result.scores["accuracy"], result.scores["ece"], result.scores.n) == (
        expected["accuracy"],
        expected["ece"],
        32,
    )


def test_a_domain_left_out_of_a_given_split_is_tested_on_its_part(bench: Command, tmp_path: Path) -> None:
    for domain, split in product(("photo", "sketch"), ("train", "test")):
        write_images(tmp_path / "own" / domain / split, ["ring", "star"], [], 3)
    done = bench("leave-one-domain-out", "--data", "own", "--learners", "zeroshot")
    assert done.status == 0, done.err
    assert {result.scores.n for result in read_results([tmp_path])} == {6}


def test_the_plan_alone_does_nothing(bench: Command, tmp_path: Path) -> None:
    before = written(tmp_path)
    done = bench("few-shot", "--learners", "zeroshot,coop", "--shots", "1,2", "--plan")
    assert done.status == 0, done.err
    assert written(tmp_path) == before
    assert not (tmp_path / "results").exists()
    assert done.out.count("coop/") == 2
    assert "24 pictures to train on, over all epochs" in done.out
    assert "4 runs (4 new), 4 tests to do" in done.out


# What goes wrong.


def test_a_run_that_fails_stops_no_other(bench: Command, tmp_path: Path) -> None:
    words = ("--learners", "coop,gopro,zeroshot")
    done = bench(
        "base-to-new", *words, "--set", "coop:train.lr=1e30", "--set", "coop:train.warmup_epochs=0", "--epochs", 3
    )
    assert done.status == 1, done.err
    assert "failed: results/base-to-new/" in done.out
    assert "loss term 'ce' is" in done.out or "logits that are not finite" in done.out
    assert {result.learner for result in read_results([tmp_path])} == {"gopro", "zeroshot"}
    assert "harmonic mean of the means" in done.out, "there are tables nevertheless"


def test_a_test_that_fails_stops_no_other(bench: Command, tmp_path: Path) -> None:
    done = bench("base-to-new", "--learners", "coop,zeroshot", "--set", "prompts.class_specific=true")
    assert done.status == 1, done.err
    assert "a context of its own for each class" in done.out
    there = {(result.learner, result.classes) for result in read_results([tmp_path])}
    assert there == {("coop", "base"), ("zeroshot", "base"), ("zeroshot", "new")}


def test_an_unexpected_exception_in_one_learner_is_told_from_the_others(
    bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from promptkit_coop.prompts import CoOpPrompts

    def broken(*arguments: object) -> None:
        raise RuntimeError("no text today")

    with monkeypatch.context() as patch:
        patch.setattr(CoOpPrompts, "text", broken)
        done = bench("few-shot", "--learners", "coop,zeroshot")
    assert done.status == 1
    assert "unexpected RuntimeError: no text today" in done.out
    assert {result.learner for result in read_results([tmp_path])} == {"zeroshot"}
    again = bench("few-shot", "--learners", "coop,zeroshot")
    assert again.status == 0, again.out
    assert {result.learner for result in read_results([tmp_path])} == {"zeroshot", "coop"}


def test_other_settings_are_refused_with_the_difference(bench: Command, tmp_path: Path) -> None:
    assert bench("few-shot", "--learners", "zeroshot,coop").status == 0
    before = written(tmp_path)
    done = bench("few-shot", "--learners", "zeroshot,coop", "--set", "prompts.n_ctx=3", "--set", "train.lr=0.5")
    assert done.status == 2
    assert "seed-1 was trained with other settings: train.lr: 0.002 in the run, 0.5 now" in done.err
    assert written(tmp_path) == before
    elsewhere = bench("few-shot", "--learners", "coop", "--workers", "1")
    assert elsewhere.status == 0, "where it runs may differ"


def test_what_failed_before_it_learned_anything_can_be_corrected(bench: Command, tmp_path: Path) -> None:
    words = ("few-shot", "--learners", "coop", "--set", "train.warmup_epochs=0")
    assert bench(*words, "--set", "train.lr=1e30").status == 1
    (file,) = tmp_path.rglob("run.toml")
    assert "lr = 1e+30" in file.read_text()
    corrected = bench(*words)
    assert corrected.status == 0, corrected.err
    assert "lr = 0.002" in file.read_text()


def test_several_learners_need_commas(bench: Command) -> None:
    done = bench("few-shot", "--learners", "coop", "gopro")
    assert done.status == 2
    assert "hint:  did you mean --learners coop,gopro?" in done.err


def test_a_damaged_run_file_is_one_failed_run(bench: Command, tmp_path: Path) -> None:
    bench("few-shot", "--learners", "coop")
    (file,) = tmp_path.rglob("coop/**/run.toml")
    whole = file.read_text()
    file.write_text("recipe = ")
    done = bench("few-shot", "--learners", "coop,zeroshot")
    assert done.status == 1, done.err
    assert "2 runs (1 damaged, 1 new)" in done.out
    assert "run.toml is no run file" in done.out
    assert {result.learner for result in read_results([tmp_path])} == {"zeroshot", "coop"}

    file.write_text(whole.replace("[prompts]", "[prompts]\nn_gone = 3"))
    changed = bench("few-shot", "--learners", "coop,zeroshot")
    assert changed.status == 1
    assert "prompts.n_gone: unset in the run, 3 now" in changed.out
    # An option that another version of the plugin had.
    weights = file.with_name("learner.safetensors")
    header = json.loads(read_text(weights))
    header["settings"]["prompts"]["n_gone"] = 3
    weights.write_bytes(pack(load_file(weights), json.dumps(header)))
    unknown = bench("few-shot", "--learners", "coop,zeroshot")
    assert unknown.status == 2
    assert "coop/2-shots/seed-1/run.toml: no option of prompts 'coop' named 'n_gone'" in unknown.err


def test_runs_know_their_images_wherever_they_lie(bench: Command, images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "here/own")
    words = ("few-shot", "--learners", "zeroshot,coop")
    assert bench(*words, "--data", "here/own", "--out", "here/results").status == 0
    (tmp_path / "here").rename(tmp_path / "there")
    moved = bench(*words, "--data", "there/own", "--out", "there/results")
    assert moved.status == 0, moved.err
    assert "2 runs (2 done), 0 tests to do" in moved.out

    next(tmp_path.glob("there/own/photo/circle/*")).unlink()
    changed = bench(*words, "--data", "there/own", "--out", "there/results")
    assert changed.status == 2
    assert "the data changed: there/results/few-shot/own/zeroshot/2-shots/seed-1 was trained on" in changed.err


def test_ctrl_c_says_how_to_go_on(bench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from promptkit.training.validation import Validation

    validate, learners = Validation.on_epoch, []

    def interrupt(validation: Validation, result: Any) -> None:
        if validation.learner not in learners:
            learners.append(validation.learner)
        if len(learners) == 2 and result.epoch == 2:
            raise KeyboardInterrupt
        validate(validation, result)

    words = ("few-shot", "--learners", "coop,gopro", "--epochs", "3")
    with monkeypatch.context() as patch:
        patch.setattr(Validation, "on_epoch", interrupt)
        done = bench(*words)
    assert done.status == 130
    assert "the same command goes on" in done.out
    again = bench(*words)
    assert again.status == 0, again.err
    assert "2 runs (1 trained, 1 stopped), 2 tests to do" in again.out
    assert "going on in epoch 2" in again.out
    assert "trained few-shot" in again.out


def test_a_run_that_another_process_holds_is_left_to_it(bench: Command, tmp_path: Path, images: Path) -> None:
    from promptkit.runs.lock import FolderLock

    folder = tmp_path / "results/few-shot" / images.name / "coop/2-shots/seed-1"
    folder.mkdir(parents=True)
    lock = FolderLock(folder)
    lock.take()
    done = bench("few-shot", "--learners", "coop,zeroshot")
    lock.release()
    assert done.status == 0, done.out
    assert "is left to the process that is busy with it" in done.out
    assert {result.learner for result in read_results([tmp_path])} == {"zeroshot"}


def test_a_damaged_learner_fails_and_stays(bench: Command, tmp_path: Path) -> None:
    bench("few-shot", "--learners", "coop,zeroshot")
    (file,) = tmp_path.rglob("coop/**/learner.safetensors")
    file.write_bytes(b"not at all")
    (file.parent / RESULTS).unlink()
    done = bench("few-shot", "--learners", "coop,zeroshot")
    assert done.status == 1
    assert "learner.safetensors is no promptkit checkpoint" in done.out
    assert file.read_bytes() == b"not at all"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("few-shot", "--seeds", "1,x"), "--seeds 1,x: expected whole numbers"),
        (("few-shot", "--shard", "2/2"), "--shard 2/2: expected I/N"),
        (("few-shots",), "no protocol named 'few-shots'; did you mean 'few-shot'?"),
        (("few-shot", "--data", "nowhere"), "no folder or manifest"),
        (("few-shot", "--datasets", "caltech11"), "no dataset named 'caltech11'; did you mean 'caltech101'?"),
        (("cross-dataset", "--datasets", "dtd"), "imagenet"),
        (("few-shot", "--learners", "cop"), "no recipe named 'cop'; did you mean 'coop'?"),
        (("few-shot", "--compare", "cop"), "no learner to compare named 'cop'; did you mean 'coop'?"),
        (("few-shot", "--set", "coop:train.seed=3"), "--set coop:train.seed=3: train.seed can't be set in a bench"),
        (("few-shot", "--templates", "nowhere"), "nowhere can't be read"),
    ],
)
def test_what_cannot_be_planned(words: tuple[str, ...], message: str, bench: Command, tmp_path: Path) -> None:
    done = bench(*words)
    assert done.status == 2
    assert message in done.err
    assert not (tmp_path / "results").exists()


# More than one of something.


def test_shards_together_are_one_process(bench: Command, figures: Figures, tmp_path: Path) -> None:
    words = ("few-shot", "--learners", "zeroshot,coop", "--seeds", "1,2")
    assert bench(*words, "--out", "whole").status == 0
    first = bench(*words, "--shard", "0/2")
    assert "2 runs (2 new)" in first.out
    assert {(result.learner, result.seed) for result in read_results([tmp_path / "results"])} == {
        ("zeroshot", 1),
        ("coop", 1),
    }
    assert "2 runs (2 new)" in bench(*words, "--shard", "1/2").out
    assert figures(tmp_path / "results") == figures(tmp_path / "whole")
    again = bench(*words, "--compare", "all").out
    assert "4 runs (4 done)" in again
    assert "zeroshot less coop, paired by data set and seed" in again


def test_one_shard_has_tables_while_no_seed_is_complete(bench: Command, promptkit: Command) -> None:
    done = bench("leave-one-domain-out", "--learners", "zeroshot", "--seeds", "1,2,3", "--shard", "0/2")
    assert done.status == 0, done.err
    assert "cartoon" in done.out
    assert "mean of domains" not in done.out
    assert promptkit("table", "results", "--format", "latex").status == 0


def test_an_example_learner_takes_part(bench: Command, tmp_path: Path) -> None:
    with registered(import_module("promptkit_lasp"), "promptkit-lasp"):
        done = bench("base-to-new", "--learners", "lasp,zeroshot", "--source", "photo")
    assert done.status == 0, done.err
    results = read_results([tmp_path])
    assert {(result.learner, result.domain, result.classes) for result in results} == {
        (learner, domain, classes)
        for learner in ("lasp", "zeroshot")
        for domain in ("cartoon", "photo")
        for classes in ("base", "new")
    }


def write_catalogue(root: Path) -> None:
    """DTD and EuroSAT as their papers lay them out, with a few drawings for pictures."""
    for folder, images, file, classes in (
        ("dtd", "images", "split_zhou_DescribableTextures.json", ["ring", "stripes", "star"]),
        ("eurosat", "2750", "split_zhou_EuroSAT.json", ["circle", "cross"]),
    ):
        write_images(root / folder / images, classes, [], 4)
        lists: dict[str, list[list[object]]] = {"train": [], "val": [], "test": []}
        for label, name in enumerate(classes):
            for number, split in enumerate(("train", "train", "test", "test")):
                lists[split].append([f"{name}/{number:03}.png", label, name])
        (root / folder / file).write_text(json.dumps(lists))


def test_hand_made_prompts_are_those_of_each_data_set(bench: Command, tmp_path: Path) -> None:
    write_catalogue(tmp_path / "root")
    words = ("--data", "root", "--source", "dtd", "--datasets", "eurosat", "--learners", "zeroshot,coop")
    done = bench("cross-dataset", *words)
    assert done.status == 0, done.err
    results = read_results([tmp_path])
    assert {(result.learner, result.title, result.template, result.source) for result in results} == {
        ("zeroshot", "DTD", "{} texture.", "dtd"),
        ("zeroshot", "EuroSAT", "a centered satellite photo of {}.", "dtd"),
        ("coop", "DTD", "", "dtd"),
        ("coop", "EuroSAT", "", "dtd"),
    }
    assert {(result.title, result.scores.n) for result in results} == {("DTD", 6), ("EuroSAT", 4)}
    own = bench("cross-dataset", *words, "--out", "own", "--set", "prompts.template=one {}")
    assert own.status == 0, own.err
    assert {result.template for result in read_results([tmp_path / "own"])} == {"one {}", ""}
    assert {result.split for result in results} == {"published"}


def test_hand_made_prompts_from_a_file(bench: Command, promptkit: Command, images: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one {}\ntwo {}\n")
    done = bench("few-shot", "--learners", "zeroshot,coop", "--templates", "prompts.txt")
    assert done.status == 0, done.err
    found = read_results([tmp_path])
    assert {(result.learner, result.template, result.split) for result in found} == {
        ("zeroshot", "one {}\ntwo {}", "drawn"),
        ("coop", "", "drawn"),
    }
    assert f"{images.name} (drawn)" in promptkit("table", "results", "--format", "csv").out


def test_zero_shot_is_what_train_and_eval_find(bench: Command, promptkit: Command, tmp_path: Path) -> None:
    write_catalogue(tmp_path / "root")
    bench("few-shot", "--data", "root", "--datasets", "dtd,eurosat", "--learners", "zeroshot")
    for name in ("dtd", "eurosat"):
        where = ("--data", "root", "--dataset", name)
        promptkit("train", "zeroshot", *where, *TINY, "--out", name)
        promptkit("eval", name, *where, "--json", "figures.json")
        expected = json.loads((tmp_path / "figures.json").read_text())["runs"][name]["all"]
        (result,) = (result for result in read_results([tmp_path / "results"]) if result.dataset == name)
        assert (result.scores["accuracy"], result.scores["ece"]) == (expected["accuracy"], expected["ece"])


# promptkit table


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two learners, three seeds, base and new classes, written by hand."""
    from promptkit.metrics import Scores

    folder = tmp_path / "found"
    for learner, bonus in (("coop", 0.0), ("gopro", 0.02)):
        for seed in (1, 2, 3):
            run = folder / learner / str(seed)
            run.mkdir(parents=True)
            about = {"protocol": "base-to-new", "learner": learner, "dataset": "dtd", "title": "DTD", "domain": "all"}
            about |= {"recipe": learner, "settings": {}}
            rest = {"split": "published", "source": "", "backbone": "ViT-B-16", "weights": "openai", "template": ""}
            lines = []
            for classes, accuracy in (("base", 0.8 + seed / 100), ("new", 0.42)):
                x = accuracy + bonus
                scores = Scores({"accuracy": x, "macro_accuracy": x - 0.1, "top5": 1.0, "ece": 0.05}, (x, x), 100)
                origin = {"seed": seed, "shots": 16, "run": str(run), "classes": classes}
                origin |= {"packages": {}, "fingerprint": "f", "trained_on": "a", "tested_on": "b"}
                lines.append(Result(**about, **rest, **origin, scores=scores))  # type: ignore[arg-type]
            write_results(run, lines)
    return folder


@pytest.mark.parametrize(
    ("name", "marked"),
    [
        ("rich", "84.00 ± 1.00"),
        ("markdown", "**84.00 ± 1.00**"),
        ("latex", r"\textbf{84.00 $\pm$ 1.00}"),
        ("html", "<strong>84.00 ± 1.00</strong>"),
        ("csv", "gopro,84.00,1.00,81.52,86.48,3,82.41,+1.59"),
    ],
)
def test_every_format_prints_the_tables(name: str, marked: str, results: Path, promptkit: Command) -> None:
    done = promptkit("table", results, "--format", name)
    assert done.status == 0, done.err
    assert marked in done.out
    assert "79.44" in done.out, "the published figure of CoOp"


def test_csv_is_one_table(results: Path, promptkit: Command) -> None:
    rows = list(csv.DictReader(io.StringIO(promptkit("table", results, "--format", "csv").out)))
    assert len(rows) == 8
    assert {(row["learner"], row["mean"]) for row in rows if row["figure"] == "base"} == {
        ("coop", "82.00"),
        ("gopro", "84.00"),
    }
    compared = promptkit("table", results, "--format", "csv", "--compare", "gopro,coop")
    rows = list(csv.DictReader(io.StringIO(compared.out)))
    (base,) = (row for row in rows if row["figure"] == "base")
    assert (base["mean"], base["wins"], base["ties"], base["losses"], base["pairs"]) == ("+2.00", "3", "0", "0", "3")


def test_the_tables_of_one_protocol(results: Path, promptkit: Command) -> None:
    (run, *_) = sorted(results.rglob(RESULTS))
    other = run.parent.parent / "few"
    other.mkdir()
    write_results(other, [replace(one, protocol="few-shot", classes="all") for one in read_results([run.parent])[:1]])
    whole = promptkit("table", results, "--format", "csv").out
    assert ("few-shot" in whole, "base-to-new" in whole) == (True, True)
    done = promptkit("table", results, "--format", "csv", "--protocol", "few-shot")
    assert done.status == 0, done.err
    assert "few-shot" in done.out
    assert "base-to-new" not in done.out


def test_another_metric_and_several_folders(results: Path, promptkit: Command) -> None:
    done = promptkit("table", results / "coop", results / "gopro", "--format", "csv", "--metric", "macro_accuracy")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert {row["learner"]: row["mean"] for row in rows if row["figure"] == "base"} == {
        "coop": "72.00",
        "gopro": "74.00",
    }
    assert {row["published"] for row in rows} == {""}


def test_rows_that_were_made_with_different_things_are_found(results: Path, promptkit: Command) -> None:
    done = promptkit("table", results, "--check")
    assert (done.status, "all 12 results were made with the same" in done.out) == (0, True)
    run = results / "gopro/2"
    write_results(run, [replace(one, packages={"torch": "2.6"}) for one in results_of(run)[0]])
    write_results(
        results / "coop/1", [replace(one, packages={"torch": "2.7"}) for one in results_of(results / "coop/1")[0]]
    )
    done = promptkit("table", results, "--check", "--format", "csv")
    assert done.status == 1
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert [(row["made with"], row["which"], row["learner"], row["seed"]) for row in rows] == [
        ("torch", "2.6", "gopro", "2"),
        ("torch", "2.7", "coop", "1"),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--format", "latx"), "no format named 'latx'; did you mean 'latex'?"),
        (("--metric", "acc"), "no metric named 'acc'"),
        (("--protocol", "few-shots"), "no protocol named 'few-shots'"),
        (("--compare", "gopro"), "--compare gopro: two learners or more are expected"),
        (("--compare", "gopro,cop"), "no learner named 'cop'; did you mean 'coop'?"),
    ],
)
def test_what_cannot_be_tabulated(words: tuple[str, ...], message: str, results: Path, promptkit: Command) -> None:
    done = promptkit("table", results, *words)
    assert done.status == 2
    assert message in done.err


def test_an_unknown_metric_is_answered_with_the_nearest(results: Path, promptkit: Command) -> None:
    done = promptkit("table", results, "--metric", "acuracy")
    assert done.status == 2
    assert "no metric named 'acuracy'; did you mean 'accuracy'?" in done.err

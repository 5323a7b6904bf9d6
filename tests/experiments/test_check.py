"""What results say they were made with, and tables whose rows were made with different things."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from promptkit.config import resolve
from promptkit.experiments.check import made_with
from promptkit.experiments.results import Result
from promptkit.experiments.summary import summarize
from promptkit.registry import Entry, Registry, installed
from promptkit.runs.packages import packages_of, trained_and_tested

MakeResult = Callable[..., Result]


def test_what_a_run_is_made_with_is_what_it_uses_with_the_commit_of_what_is_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "loss.py").write_text("first\n")
    for words in (["init", "-q"], ["add", "loss.py"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout[:12]
    for number, name in enumerate(("focal", "edited")):  # a package is asked about once
        (tmp_path / "loss.py").write_text(("first\n", "second\n")[number])
        info = tmp_path / f"{name}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (info / "direct_url.json").write_text(json.dumps({"url": tmp_path.as_uri(), "dir_info": {"editable": True}}))
        monkeypatch.syspath_prepend(tmp_path)
        registry = Registry({kind: dict(entries) for kind, entries in installed().entries.items()})
        loss = registry.get("loss", "cross-entropy")
        registry.entries["loss"]["other"] = Entry("loss", "other", loss, name, "1.2")
        found = packages_of(resolve(registry, "zeroshot", sets=["loss=other"]), registry)
        assert sorted(found) == sorted(["clip-promptkit", name, "open_clip_torch", "torch"])
        assert found[name] == f"1.2, git {commit}{('', '-dirty')[number]}"


def test_a_test_with_another_version_than_the_training_says_both() -> None:
    found = trained_and_tested({"torch": "2.6", "coop": "1"}, {"torch": "2.7", "coop": "1"})
    assert found == {"torch": "2.6; tested with 2.7", "coop": "1"}


def test_rows_of_one_table_that_were_made_with_different_things_are_named(result: MakeResult) -> None:
    same = [result(0.5, learner=learner, seed=seed) for learner in ("coop", "gopro") for seed in (1, 2)]
    # What only one learner uses, and pictures that ought to differ, are no difference.
    same += [result(0.5, dataset="eurosat", title="EuroSAT", trained_on="c", tested_on="d")]
    same[-1] = replace(same[-1], packages={**same[-1].packages, "promptkit-coop": "3"})
    alike = made_with(summarize(same))
    assert not alike.rows
    assert "all 5 results were made with the same" in alike.title

    torch = replace(same[0], packages={**same[0].packages, "torch": "2.6.0"})
    found = made_with(summarize([torch, *same[1:]]))
    assert found.title.endswith("made with different torch")
    assert found.rows == (
        ("torch", "2.6.0", "coop", "DTD", "all", "base", "16", "1", "1"),
        ("torch", "2.7.0", "all", "all", "all", "base", "16", "all", "4"),
    )
    pictures = made_with(summarize([replace(same[0], trained_on="e" * 64, fingerprint="0" * 64), *same[1:]]))
    assert [row[:3] for row in pictures.rows] == [
        ("weights", "0" * 16, "coop"),
        ("weights", "f" * 16, "all"),
        ("training pictures", "a" * 16, "gopro"),
        ("training pictures", "e" * 16, "coop"),
    ]

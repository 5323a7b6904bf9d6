"""The learners of the zoo through the command line: trained, stopped, resumed, opened again and evaluated."""

import json
import tomllib
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import promptkit as package
from promptkit import ConfigError, registry
from promptkit.offered import LEARNERS
from promptkit.registry import SLOT_KINDS
from promptkit.testing import registered
from promptkit.testing.specimen import Specimen

Command = Callable[..., "Finished"]

ZOO = Path(package.__file__).parents[1] / "plugins/zoo"
MODULES = tomllib.loads((ZOO / "pyproject.toml").read_text())["project"]["entry-points"]["promptkit"]


ALL = [import_module(module) for module in MODULES.values()]
OWN = {
    "cupl": ("--descriptions", "said.json"),
    "coprompt": ("--descriptions", "said.json"),
    "dapl": ("--unlabelled", "pictures"),
    "promptkd": ("--teacher", "teacher"),
}
"""What a learner learns from beside labelled pictures."""


def test_every_module_has_its_entry_point_test_paper_line_and_offer() -> None:
    readme = (ZOO / "README.md").read_text()
    assert MODULES.keys() == {recipe for recipe, folder in LEARNERS.items() if folder == "zoo"}
    assert {f"promptkit_zoo.{path.stem}" for path in (ZOO / "promptkit_zoo").glob("[!_]*.py")} == set(MODULES.values())
    with registered(ALL, "clip-promptkit-zoo"):
        for name, module in MODULES.items():
            assert (ZOO / "tests" / f"test_{module.rpartition('.')[2]}.py").is_file()
            assert f"| `{name}` | " in readme
            recipe = registry.installed().get("recipe", name)
            assert recipe.paper
            assert recipe.settings


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_learner_trains_resumes_after_a_stop_and_is_evaluated(
    name: str, train: Command, promptkit: Command, images: Path, tmp_path: Path
) -> None:
    said = {name: [f"it looks like a {name}."] for name in ("circle", "cross", "square", "star")}
    (tmp_path / "said.json").write_text(json.dumps(said))
    words = ["--domains", "photo", "--batch-size", 4]
    (tmp_path / "pictures").symlink_to(images)
    with registered(ALL, "clip-promptkit-zoo"):
        if name == "promptkd":
            assert train("zeroshot", "--domains", "photo", "--epochs", 0, "--out", "teacher").status == 0
        words += OWN.get(name, ())
        recipe = registry.installed().get("recipe", name)
        if recipe.settings.get("train.epochs") == 0:
            assert (done := train(name, *words, "--epochs", 0, "--out", "run")).status == 0, done.err
        else:
            assert (done := train(name, *words, "--out", "whole")).status == 0, done.err
            with pytest.MonkeyPatch.context() as patch:
                stop_after_the_first_epoch(patch)
                assert train(name, *words, "--out", "run").status == 130
            assert (done := promptkit("train", "--out", "run", "--resume")).status == 0, done.err
            whole, resumed = (load_file(tmp_path / run / "learner.safetensors") for run in ("whole", "run"))
            assert all((whole[key] - resumed[key]).abs().max() < 1e-6 for key in whole)
        done = promptkit("eval", "run", "--data", images, "--workers", 0)
    assert done.status == 0, done.err
    assert "cartoon" in done.out


def test_learners_that_adapt_find_the_same_in_processes_of_their_own(
    promptkit: Command, figures: Callable[[Path], Any], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "site/clip_promptkit_zoo-0.dist-info"  # what the processes of --jobs find
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: clip-promptkit-zoo\nVersion: 0\n")
    points = "".join(f"{name} = {MODULES[name]}\n" for name in ("tpt", "tda"))
    (info / "entry_points.txt").write_text(f"[promptkit]\n{points}")
    monkeypatch.syspath_prepend(info.parent)
    monkeypatch.setattr(registry, "_installed", [])
    tiny = ("--backbone", "tiny", "--weights", "none", "--workers", 0, "--device", "cpu", "--batch-size", 5)
    words = ("bench", "few-shot", "--data", images, *tiny, "--shots", 2, "--seeds", 1)
    words = (*words, "--learners", "tpt=tpt[test_views.crops=3],tda")
    for out, jobs in (("alone", ()), ("side", ("--jobs", 2))):
        done = promptkit(*words, "--out", out, *jobs)
        assert done.status == 0, done.err
    found = figures(tmp_path / "side")
    assert len(found) == 2 * 2, "learners, domains"
    assert found == figures(tmp_path / "alone")


def stop_after_the_first_epoch(patch: pytest.MonkeyPatch) -> None:
    from promptkit.training.validation import Validation

    on_epoch = Validation.on_epoch

    def interrupt(validation: Validation, result: Any) -> None:
        if result.epoch == 2:
            raise KeyboardInterrupt
        on_epoch(validation, result)

    patch.setattr(Validation, "on_epoch", interrupt)


def test_tip_adapter_without_training_keeps_its_cache(train: Command) -> None:
    with registered(import_module("promptkit_zoo.tip_adapter"), "clip-promptkit-zoo"):
        done = train("tip-adapter", "--domains", "photo", "--epochs", 0, "--out", "run")
        assert done.status == 0, done.err
    state = load_file("run/learner.safetensors")
    assert state["prompts.filled"].sum(1).tolist() == [4.0] * 4
    full = state["prompts.filled"].bool()
    assert (state["prompts.keys"][full].norm(dim=-1) - 1).abs().max() < 1e-5
    assert not state["prompts.keys"][~full].any()


@pytest.mark.parametrize("slot", ["prompts", "projector", "loss", "learner"])
def test_any_component_works_in_another_recipe_or_is_refused(slot: str) -> None:
    """In CoOp's: two steps are taken, and answers given."""
    taken, refused = set(), dict[str, str]()
    with registered(ALL, "clip-promptkit-zoo") as found:
        coop = found.get("recipe", "coop")
        for name in sorted(found.entries[SLOT_KINDS[slot]]):
            needed = set(getattr(found.component(slot, name), "views", ("image",)))
            views = [
                n for n, entry in found.entries["views"].items() if needed <= set(getattr(entry.value, "names", ()))
            ]
            recipe = replace(coop, **{slot: name}, views="standard" if needed == {"image"} else views[0], settings={})
            found.entries["recipe"]["mixed"] = replace(found.entries["recipe"]["coop"], name="mixed", value=recipe)
            specimen = Specimen(found, "recipe", "mixed")
            try:
                learner = specimen.trained()
            except ConfigError as error:
                refused[name] = str(error)
                continue
            assert specimen.answer(learner).isfinite().all(), name
            taken.add(name)
    assert (
        refused.keys()
        == {
            "prompts": {"tip-adapter"},
            "projector": {"promptkd"},
            "loss": {"coprompt", "dapl", "mmrl", "proda", "tcp"},
            "learner": {"dapl", "mmrl", "prograd", "promptkd", "rpo", "tip-adapter"},
        }[slot]
    )
    assert all(" in the slot " in said for said in refused.values()), "they say what they need"
    assert len(taken) > 4

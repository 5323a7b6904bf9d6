"""Learners with settings of their own, and grids of them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from promptkit.errors import ConfigError, UnknownNameError
from promptkit.experiments.results import Result, read_results
from promptkit.experiments.summary import summarize
from promptkit.experiments.variants import Variant, read_variants, split_learners
from promptkit.registry import installed

Command = Callable[..., "Finished"]


def read(text: str, *vary: str) -> list[Variant]:
    return read_variants(split_learners(text), vary, installed())


def test_learners_are_recipes_some_with_settings_and_a_name() -> None:
    assert read("zeroshot, gopro[loss.contrast=0,loss.consistency=0],no contrast=gopro[loss.contrast=0],again=coop") == [
        Variant("zeroshot", "zeroshot"),
        Variant(
            "gopro[loss.contrast=0,loss.consistency=0]", "gopro", ("loss.contrast=0", "loss.consistency=0")
        ),
        Variant("no contrast", "gopro", ("loss.contrast=0",)),
        Variant("again", "coop"),
    ]  # fmt: skip


def test_a_grid_varies_the_learners_that_have_the_settings() -> None:
    found = read("zeroshot,coop,short=coop[prompts.n_ctx=1]", "prompts.n_ctx=2,4", "prompts.position=end,front")
    assert [variant.name for variant in found] == [
        "zeroshot",
        *(f"coop[prompts.n_ctx={n},prompts.position={place}]" for n in (2, 4) for place in ("end", "front")),
        *(f"short[prompts.n_ctx={n},prompts.position={place}]" for n in (2, 4) for place in ("end", "front")),
    ]
    assert found[-1].sets == ("prompts.n_ctx=1", "prompts.n_ctx=4", "prompts.position=front")


def test_a_file_holds_what_does_not_fit_a_line(tmp_path: Path) -> None:
    file = tmp_path / "learners.toml"
    file.write_text(
        '["no contrast"]\nrecipe = "gopro"\n"loss.contrast" = 0\n'
        '[long]\nrecipe = "coop"\nviews = "gopro"\nprompts.n_ctx = 8\n'
    )
    assert read(f"coop,{file}") == [
        Variant("coop", "coop"),
        Variant("no contrast", "gopro", ("loss.contrast=0",)),
        Variant("long", "coop", ("views=gopro", "prompts.n_ctx=8")),
    ]
    file.write_text("[lacking]\nlr = 1\n")
    with pytest.raises(ConfigError, match="'lacking' names no recipe"):
        read(str(file))


@pytest.mark.parametrize(
    ("learners", "vary", "error"),
    [
        ("coop[prompts.n_cxt=4]", (), "did you mean 'n_ctx'"),
        ("coop", ("prompts.n_cxt=1,2",), "did you mean 'n_ctx'"),
        ("coop", ("prompts.n_ctx=one",), "expected int"),
        ("zeroshot", ("loss.contrast=0,1",), "contrast"),
        ("coop", ("prompts.n_ctx",), "expected slot.field=value,value"),
        ("coop[prompts.n_ctx=4", (), "expected RECIPE"),
        ("=coop", (), "expected RECIPE"),
        ("cop", (), "did you mean 'coop'"),
        ("coop,coop", (), "names 'coop' twice"),
        ("gopro=coop", (), "a recipe has this name"),
    ],
)
def test_what_is_misspelt_is_named_before_anything_runs(learners: str, vary: tuple[str, ...], error: str) -> None:
    with pytest.raises((ConfigError, UnknownNameError)) as raised:
        read(learners, *vary)
    assert error in f"{raised.value} {raised.value.hint}"


def test_variants_stand_side_by_side_in_one_table(promptkit: Command, images: Path, tmp_path: Path) -> None:
    words = ["--data", images, "--backbone", "tiny", "--weights", "none", "--workers", 0, "--epochs", 1, "--seeds", "1"]
    words += ["--shots", 1, "--learners", "zeroshot,coop[prompts.n_ctx=2],front=coop[prompts.position=front]"]
    words += ["--vary", "train.lr=0.1,0.01", "--source", "photo", "--out", "results"]
    done = promptkit("bench", "few-shot", *words)
    assert done.status == 0, done.err
    found = {result.learner: result for result in read_results([tmp_path / "results"])}
    assert set(found) == {
        "zeroshot", "coop[prompts.n_ctx=2,train.lr=0.1]",
        "coop[prompts.n_ctx=2,train.lr=0.01]", "front[train.lr=0.1]", "front[train.lr=0.01]",
    }  # fmt: skip
    settings = found["front[train.lr=0.1]"].settings
    assert (settings["prompts.position"], settings["train.lr"], found["front[train.lr=0.1]"].recipe) == (
        "front",
        0.1,
        "coop",
    )
    assert "front[train.lr=0.1]" in "".join(done.out.split("\n"))
    assert "5 runs (5 done), 0 tests to do" in promptkit("bench", "few-shot", *words).out


def test_one_name_with_different_settings_is_never_taken_for_the_same(result: Callable[..., Result]) -> None:
    summary = summarize([result(accuracy=0.5), result(accuracy=0.7, settings={"prompts.n_ctx": 4})])
    assert list(summary.results) == ["coop [as published]", "coop [prompts.n_ctx=4]"]

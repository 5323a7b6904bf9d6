"""Settings: precedence, types, names."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from promptkit import hookimpl
from promptkit.components import Loss
from promptkit.config import read_run_file, resolve
from promptkit.errors import ConfigError, UnknownNameError
from promptkit.learner import Recipe
from promptkit.registry import installed
from promptkit.settings import option_fields
from promptkit.testing import registered


@dataclass(frozen=True)
class Options:
    width: Annotated[int, "in tokens"] = 4
    rate: Annotated[float, "per step"] = 0.5
    on: Annotated[bool, "or off"] = False
    mode: Annotated[Literal["fast", "slow"], "of two"] = "fast"
    limit: Annotated[int | None, "none: no limit"] = None
    words: Annotated[str, "any"] = ""


FIELDS = {field.name: field for field in option_fields(Options)}


def test_options_know_type_default_and_help() -> None:
    assert (FIELDS["width"].kind, FIELDS["width"].default, FIELDS["width"].help) == (int, 4, "in tokens")
    assert FIELDS["mode"].type_name == "fast|slow"


@pytest.mark.parametrize(
    ("name", "typed", "value"),
    [
        ("width", "8", 8),
        ("width", 8, 8),
        ("rate", "1e-3", 0.001),
        ("rate", 2, 2.0),
        ("on", "true", True),
        ("on", False, False),
        ("mode", "slow", "slow"),
        ("limit", "3", 3),
        ("limit", "none", None),
        ("words", "a photo of a", "a photo of a"),
    ],
)
def test_what_is_typed_becomes_the_options_type(name: str, typed: object, value: object) -> None:
    parsed = FIELDS[name].parse(typed, f"loss.{name}")
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "typed"), [("width", "4.5"), ("width", 4.5), ("width", True), ("rate", "x"), ("on", "1"), ("mode", "x")]
)
def test_a_wrong_type_is_answered_with_what_was_typed_and_expected(name: str, typed: object) -> None:
    with pytest.raises(ConfigError) as caught:
        FIELDS[name].parse(typed, f"loss.{name}")
    assert caught.value.message == f"loss.{name}={typed!r}: expected {FIELDS[name].type_name}"
    assert FIELDS[name].help in caught.value.hint


def settings(recipe: str = "gopro", **sources: Any) -> dict[str, Any]:
    return resolve(installed(), recipe, **sources).to_tables()


def test_later_sources_win() -> None:
    assert settings()["train"]["momentum"] == 0.9
    assert settings()["train"]["batch_size"] == 4  # the recipe's
    file = {"train": {"batch_size": 5, "seed": 5, "lr": 0.5}}
    assert settings(file=file)["train"]["batch_size"] == 5
    merged = settings(file=file, sets=["train.seed=6", "train.lr=0.25"], flags={"train.lr": 0.125})["train"]
    assert (merged["batch_size"], merged["seed"], merged["lr"]) == (5, 6, 0.125)


def test_a_component_is_swapped_and_has_its_own_options() -> None:
    tables = settings(sets=["prompts=coop", "prompts.n_ctx=2"])
    assert tables["prompts"] == {
        "name": "coop",
        "n_ctx": 2,
        "ctx_init": "",
        "position": "end",
        "class_specific": False,
    }
    assert tables["loss"]["name"] == "gopro"


@pytest.mark.parametrize("recipe", ["zeroshot", "coop", "cocoop", "gopro", "gopro-reference"])
def test_a_run_file_resolves_to_itself(recipe: str, tmp_path: Path) -> None:
    first = settings(recipe, sets=["train.seed=7"])
    (tmp_path / "run.toml").write_text(tomli_w.dumps(first))
    assert settings(recipe, file=read_run_file(tmp_path / "run.toml")) == first


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["prompt.n_ctx=3"], "no slot named 'prompt'; did you mean 'prompts'?"),
        (["prompt=coop"], "no slot named 'prompt'; did you mean 'prompts'?"),
        (["prompts=copo"], "no prompts named 'copo'; did you mean 'coop'?"),
        (["prompts.nctx=3"], "no option of prompts 'gopro' named 'nctx'; did you mean 'n_ctx'?"),
        (["train.batchsize=3"], "no option of train named 'batchsize'; did you mean 'batch_size'?"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(sets: list[str], message: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        settings(sets=sets)
    assert caught.value.message == message


def test_set_without_a_value_says_what_it_takes() -> None:
    with pytest.raises(ConfigError, match=r"--set train.lr: expected slot.field=value"):
        settings(sets=["train.lr"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not toml", "is no run file"),
        ("[train]\nlr = 1", "names no recipe"),
        ("recipe = 3", "names no recipe"),
        ("\x00", "is no run file"),
    ],
)
def test_a_file_that_is_no_run_file_says_so(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_run_file(tmp_path / "run.toml")


@pytest.mark.parametrize("tables", [{"train": 3}, {"train": {"lr": [1]}}, {"train": {"lr": {"x": 1}}}, {"x": {"y": 1}}])
def test_a_run_file_of_the_wrong_shape_is_an_error(tables: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, UnknownNameError)):
        settings(file=tables)


scalars = st.one_of(st.text(max_size=8), st.integers(), st.floats(), st.booleans())


@given(
    st.dictionaries(
        st.sampled_from(["data", "backbone", "train", "prompts", "loss", "views", "nonsense", "recipe"]),
        st.one_of(scalars, st.dictionaries(st.sampled_from(["lr", "n_ctx", "name", "path", "x"]), scalars, max_size=3)),
        max_size=4,
    )
)
def test_any_tables_either_resolve_or_raise_one_of_ours(tables: dict[str, Any]) -> None:
    with contextlib.suppress(ConfigError, UnknownNameError):
        settings(file=tables)


class Templated(Loss):
    """A loss whose teacher has a template."""

    @dataclass(frozen=True)
    class Options:
        template: Annotated[str, "the teacher's prompt"] = "a photo of a {}."
        weight: Annotated[float, "of it"] = 1.0

    def forward(self, outputs: Any) -> dict[str, Any]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("sets", "template", "weight", "epochs"),
    [
        ((), "a photo of a {}.", 1.0, 3),
        (("data.dataset=caltech101",), "a photo of a {}.", 1.0, 3),
        (("data.dataset=dtd",), "{} texture.", 2.0, 3),
        (("data.dataset=eurosat",), "a field of {}.", 1.0, 9),
        (("data.dataset=eurosat", "loss.template=a {}.", "train.epochs=1"), "a {}.", 1.0, 1),
        (("data.dataset=dtd", "loss=cross-entropy"), None, None, 3),
    ],
)
def test_settings_follow_the_data_set(
    sets: tuple[str, ...], template: str | None, weight: float | None, epochs: int
) -> None:
    """Templates by themselves, in any slot; what a recipe sets for the data set comes before, what is typed before that."""
    datasets = {"dtd": {"loss.weight": 2.0}, "eurosat": {"loss.template": "a field of {}.", "train.epochs": 9}}
    recipe = Recipe("x", prompts="template", loss="templated", settings={"train.epochs": 3}, datasets=datasets)
    plugin = ModuleType("templated")
    plugin.register_losses = hookimpl(specname="register_losses")(lambda register: register("templated", Templated))
    plugin.register_recipes = hookimpl(specname="register_recipes")(lambda register: register("templated", recipe))
    with registered(plugin, "promptkit-templated"):
        settings = resolve(installed(), "templated", sets=sets)
    options = settings.components["loss"].options
    assert (getattr(options, "template", None), getattr(options, "weight", None)) == (template, weight)
    assert settings.train.epochs == epochs

"""What each protocol trains and tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

from promptkit.data.selection import subset
from promptkit.errors import ConfigError, DataError, UnknownNameError
from promptkit.experiments.plan import Plan, Request, make_plan
from promptkit.experiments.protocols import OTHERS, VARIANTS, Target, open_data
from promptkit.registry import installed
from promptkit.testing import write_images

Planner = Callable[..., Plan]


@pytest.fixture
def plan(images: Path) -> Planner:
    """Plans a protocol for coop and zeroshot with 2 shots: plan("few-shot", seeds=(1, 2))."""

    def make(protocol: str, *paths: Path, datasets: tuple[str, ...] = (), source: str = "", **request: object) -> Plan:
        opened = open_data(protocol, paths or (images,), datasets, installed(), source)
        wanted = {"learners": ("zeroshot", "coop"), "seeds": (1,), "shots": (2,), "source": source, **request}
        return make_plan(Request(protocol, **wanted), opened, installed())  # type: ignore[arg-type]

    return make


def described(plan: Plan) -> list[tuple[str, str, str, list[tuple[str, tuple[str, ...], str]]]]:
    """Of every training of coop: folder, domains, classes and targets."""
    return [
        (
            str(training.folder),
            training.config.data.domains,
            training.config.data.classes,
            [(target.data.name, target.domains, target.classes) for target, _ in training.targets],
        )
        for training in plan.trainings
        if training.config.recipe == "coop"
    ]


def test_base_to_new_trains_on_one_half_and_tests_each_in_every_domain(plan: Planner, images: Path) -> None:
    name = images.name
    targets = [(name, (), "base"), (name, (), "new")]
    assert described(plan("base-to-new")) == [(f"base-to-new/{name}/coop/2-shots/seed-1", "", "base", targets)]
    ((_, domains, _, same),) = described(plan("base-to-new", source="photo"))
    assert (domains, same) == ("photo", targets)
    (training, _) = plan("base-to-new", source="photo").trainings
    assert training.dataset.classnames == ("circle", "cross")
    assert [item.domain for item in subset(training.dataset, "train").items] == ["photo"] * 4


def test_few_shot_is_planned_for_every_number_of_shots(plan: Planner, images: Path) -> None:
    planned = plan("few-shot", shots=(1, 2, 4), seeds=(1, 2))
    assert len(planned.trainings) == 3 * 2 * 2
    counts = {
        training.config.data.shots: len(subset(training.dataset, "train").items) for training in planned.trainings
    }
    assert counts == {1: 8, 2: 16, 4: 32}
    assert {targets[0] for *_, targets in described(planned)} == {(images.name, (), "all")}
    assert len({training.folder for training in planned.trainings}) == 12


def test_leave_one_domain_out_tests_on_the_one_it_did_not_see(plan: Planner, tmp_path: Path) -> None:
    write_images(tmp_path / "three", ["ring", "star"], ["cartoon", "photo", "sketch"], 2)
    assert described(plan("leave-one-domain-out", tmp_path / "three")) == [
        (
            f"leave-one-domain-out/three/coop/2-shots/seed-1/{domain}",
            others,
            "all",
            [("three", (domain,), "all")],
        )
        for domain, others in (("cartoon", "photo,sketch"), ("photo", "cartoon,sketch"), ("sketch", "cartoon,photo"))
    ]
    write_images(tmp_path / "none", ["ring", "star"], [], 2)
    with pytest.raises(DataError, match="needs two or more"):
        plan("leave-one-domain-out", tmp_path / "none")


@pytest.mark.parametrize("protocol", ["cross-dataset", "domain-generalization"])
def test_a_transfer_trains_on_the_source_and_tests_on_all(protocol: str, plan: Planner, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_images(tmp_path / name, ["ring", "star"], [], 4)
    planned = plan(protocol, *(tmp_path / name for name in "abc"), source="b")
    targets = [("b", (), "all"), ("a", (), "all"), ("c", (), "all")]
    assert described(planned) == [(f"{protocol}/b/coop/2-shots/seed-1", "", "all", targets)]
    assert planned.source == "b"
    with pytest.raises(UnknownNameError, match="no data set to train on named 'd'"):
        plan(protocol, *(tmp_path / name for name in "abc"), source="d")


def test_transfers_are_about_the_published_data_sets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from promptkit.experiments import protocols

    def titles(*names: str) -> list[str]:
        return [installed().dataset(name).title for name in names]

    asked: list[str] = []
    monkeypatch.setattr(protocols, "open_dataset", lambda root, named, policy: asked.append(named.title))
    open_data("cross-dataset", [tmp_path], [], installed())
    assert asked == titles("imagenet", *OTHERS)
    asked.clear()
    open_data("domain-generalization", [tmp_path], [], installed())
    assert asked == titles("imagenet", *VARIANTS)
    assert titles(*VARIANTS) == [
        "ImageNetV2", "ImageNet-Sketch", "ImageNet-A", "ImageNet-R",
    ]  # fmt: skip


def test_settings_go_to_the_learners_that_have_them(plan: Planner) -> None:
    sets = ("prompts.n_ctx=3", "coop:train.lr=0.5", "zeroshot:prompts.template=a {}")
    zeroshot, coop = plan("few-shot", sets=sets, flags={"train.epochs": 7}).trainings
    assert (coop.config.components["prompts"].options.n_ctx, coop.config.train.lr) == (3, 0.5)
    assert zeroshot.config.components["prompts"].options.template == "a {}"
    assert zeroshot.config.train.lr != 0.5
    assert (coop.config.train.epochs, coop.images) == (7, 7 * 16)
    assert (zeroshot.config.train.epochs, zeroshot.images) == (0, 0)
    with pytest.raises(UnknownNameError, match="n_ctxt"):
        plan("few-shot", sets=("prompts.n_ctxt=3",))


def test_a_seed_gives_the_images_that_training_alone_would_take(plan: Planner, images: Path) -> None:
    from promptkit.training.run import training_data

    for protocol in ("base-to-new", "leave-one-domain-out"):
        for training in plan(protocol, seeds=(1, 2)).trainings:
            alone = training_data(training.config.data, training.config.train.seed, installed())
            assert alone.items == training.dataset.items
            assert alone.fingerprint() == training.dataset.fingerprint()


def test_what_does_not_go_together(plan: Planner, images: Path, tmp_path: Path) -> None:
    for words, request, message in (
        (("base-to-old",), {}, "no protocol named 'base-to-old'; did you mean 'base-to-new'?"),
        (("few-shot",), {"learners": ("cop",)}, "no recipe named 'cop'; did you mean 'coop'?"),
        (("few-shot",), {"seeds": (1, 1)}, "--seeds 1,1 names one twice"),
        (("few-shot",), {"learners": ()}, "--learners  names none"),
        (("few-shot",), {"source": "foto"}, "no domain named 'foto'"),
        (("few-shot", images, images), {}, "the same name"),
        (("few-shot", images, tmp_path), {"datasets": ("dtd",)}, "one --data, and there are 2"),
        (("leave-one-domain-out",), {"source": "photo"}, "every domain but one"),
    ):
        with pytest.raises((UnknownNameError, ConfigError, DataError)) as error:
            plan(*words, **request)
        assert message in error.value.message


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("data.path=elsewhere", "--data"), ("data.dataset=dtd", "--datasets"), ("data.domains=photo", "--source"),
        ("coop:data.classes=new", "the protocol chooses"), ("coop: data.shots = 4", "--shots"),
        ("data.split=draw", "--split"), ("coop:data.split_seed=1", "share their test pictures"),
        ("train.seed=3", "--seeds"),
    ],
)  # fmt: skip
def test_what_a_bench_sets_itself_is_refused(text: str, hint: str, plan: Planner) -> None:
    with pytest.raises(ConfigError) as error:
        plan("few-shot", sets=("prompts.n_ctx=3", text))
    assert f"--set {text}" in error.value.message
    assert hint in error.value.hint


def test_what_cannot_be_tested_is_found_before_anything_is_trained(plan: Planner, tmp_path: Path) -> None:
    write_images(tmp_path / "three", ["cross", "ring", "star"], [], 4)
    for place in ("photo/train", "photo/test", "sketch/train"):
        write_images(tmp_path / "own" / place, ["cross", "ring", "star", "square"], [], 2)
    write_images(tmp_path / "alone/train", ["ring", "star"], [], 2)
    for protocol, folder, message in (
        ("base-to-new", "three", "three, new classes can't be tested: 'new' leaves 1 of the 3 classes"),
        ("few-shot", "own", "own, sketch can't be tested: there is no test picture"),
        ("base-to-new", "own", "own, sketch, base classes can't be tested: there is no test picture"),
        ("leave-one-domain-out", "own", "own, sketch can't be tested: there is no test picture"),
        ("few-shot", "alone", "alone can't be tested: there is no test picture"),
    ):
        with pytest.raises(DataError) as error:
            plan(protocol, tmp_path / folder)
        assert message in error.value.message
    assert len(plan("few-shot", tmp_path / "three").trainings) == 2


def test_a_result_says_whose_split_it_was_found_on(images: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_images(tmp_path / "own" / part, ["ring", "star"], [], 2)
    opened = open_data("few-shot", [images, tmp_path / "own"], [], installed())
    assert [Target(data).split for data in opened] == ["drawn", "given"]
    (drawn,) = open_data("few-shot", [tmp_path / "own"], [], installed(), policy="draw")
    assert Target(drawn).split == "drawn"


def test_a_domain_that_is_tested_whole_was_not_drawn(plan: Planner, images: Path, tmp_path: Path) -> None:
    for place in ("photo/train", "photo/test", "sketch/train", "sketch/test"):
        write_images(tmp_path / "own" / place, ["ring", "star"], [], 2)

    def splits(folder: Path) -> set[str]:
        planned = plan("leave-one-domain-out", folder)
        return {target.split for training in planned.trainings for target, _ in training.targets}

    assert splits(images) == {"whole"}
    assert splits(tmp_path / "own") == {"given"}

"""What learners do with test pictures beside answering: alone, along a stream, or with a whole domain; cached or not."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from promptkit import hookimpl
from promptkit.components import Views
from promptkit.data.images import open_image
from promptkit.data.layouts import Dataset, read_dataset
from promptkit.data.loading import views_to_test
from promptkit.evaluation.evaluate import Evaluation, evaluate
from promptkit.experiments.results import read_results
from promptkit.learner import Learner, Recipe
from promptkit.settings import LoaderSettings
from promptkit.tensors import Batch
from promptkit.testing import build_recipe, registered

Command = Callable[..., "Finished"]


class Noisy(Views):
    """The picture at the size of the tower, and some more of it under noise."""

    @dataclass(frozen=True)
    class Options:
        more: Annotated[int, "noisy views"] = 2

    def __init__(self, options: Any, image: Any) -> None:
        super().__init__(options, image)
        self.names = ("image", *(f"noisy{i}" for i in range(options.more)))

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> Mapping[str, np.ndarray]:
        rows, columns = (np.linspace(0, side - 1, 32).astype(int) for side in image.shape[:2])
        plain = image[rows][:, columns].transpose(2, 0, 1).astype(np.float32) / 255 - 0.5
        noise = {name: rng.normal(size=plain.shape).astype(np.float32) for name in self.names[1:]}
        return {"image": plain, **{name: plain + 0.3 * part for name, part in noise.items()}}


class Episodic(Learner):
    """A step along the gradient of the entropy of all views, for each picture by itself."""

    adapts = "episodic"

    @dataclass(frozen=True)
    class Options:
        step: Annotated[float, "length of the step"] = 0.5

    def predict(self, batch: Batch) -> Tensor:
        assert (batch.label == -1).all()
        views = self.image_features(batch).split()
        seen = torch.stack([view.pooled for view in views.values()], 1)
        with torch.enable_grad():
            shift = torch.zeros_like(seen[:, 0], requires_grad=True)
            said = (5 * (seen + shift[:, None]) @ self.texts().T).softmax(-1).mean(1)
            (gradient,) = torch.autograd.grad(-(said * said.log()).sum(), shift)
        return 5 * (views["image"].pooled - self.options.step * gradient) @ self.texts().T

    def texts(self) -> Tensor:
        return self.encode_text(None)[0, :, 0].detach()


class Online(Episodic):
    """Moves every picture by the mean of those before it."""

    adapts = "online"

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.reset()

    def reset(self) -> None:
        self.before: list[Tensor] = []

    def predict(self, batch: Batch) -> Tensor:
        rows = []
        for row in self.image_features(batch).split()["image"].pooled:
            self.before.append(row)
            rows.append(row - torch.stack(self.before).mean(0))
        return 5 * torch.stack(rows) @ self.texts().T


class Transductive(Episodic):
    """Takes the mean of the domain away."""

    adapts = "transductive"

    def predict(self, batch: Batch) -> Tensor:
        seen = self.image_features(batch).split()["image"].pooled
        return 5 * (seen - seen.mean(0)) @ self.texts().T


class Plugin:
    @hookimpl
    def register_views(self, register: Any) -> None:
        register("noisy", Noisy)

    @hookimpl
    def register_learners(self, register: Any) -> None:
        for learner in KINDS:
            register(learner.adapts, learner)

    @hookimpl
    def register_recipes(self, register: Any) -> None:
        for learner in KINDS:
            register(learner.adapts, Recipe("For a test", "coop", learner=learner.adapts, test_views="noisy"))


KINDS = (Episodic, Online, Transductive)
NAMES = [kind.adapts for kind in KINDS]


@pytest.fixture
def plugin() -> Iterator[Any]:
    with registered(Plugin()) as registry:
        yield registry


@pytest.fixture
def dataset(images: Path) -> Dataset:
    return read_dataset(images)


def built(dataset: Dataset, name: str, *sets: str) -> Learner:
    torch.manual_seed(0)
    return build_recipe(name, dataset.classnames, ["prompts.ctx_init=a photo of a", *sets]).eval()


def answers(found: Evaluation, name: str = "a") -> dict[str, Tensor]:
    return {domain: predictions.probabilities for domain, predictions in found.predictions[name].items()}


def ask(learner: Learner, dataset: Dataset, batch_size: int = 64, cache: bool = True) -> dict[str, Tensor]:
    found = evaluate({"a": learner}, dataset, LoaderSettings(batch_size, workers=0), cache)
    assert sum(map(len, found.predictions["a"].values())) == len(dataset.items)
    return answers(found)


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)


@pytest.mark.parametrize("name", NAMES)
def test_what_predict_answers_is_what_is_evaluated_however_pictures_come(
    plugin: Any, dataset: Dataset, name: str
) -> None:
    learner = built(dataset, name)
    said = ask(learner, dataset)
    assert same(said, ask(learner, dataset, 5))
    assert same(said, ask(learner, dataset, 7, cache=False))
    assert not same(said, ask(built(dataset, "coop", "test_views=noisy", "prompts.ctx_init=a photo of a"), dataset))

    # By hand: the stream is drawn from the seed, and no domain knows of another.
    for domain, items in dataset.by_domain().items():
        order = torch.arange(len(items))
        if name == "online":
            order = torch.randperm(len(items), generator=torch.Generator().manual_seed(1))
        made = [views_to_test(learner.test_views, open_image(items[i].path), 1) for i in order]
        batch = Batch(
            {view: torch.stack([one[view] for one in made]) for view in made[0]}, torch.full((len(made),), -1)
        )
        learner.reset()
        with torch.no_grad():
            expected = learner.predict(batch).softmax(1).topk(4)[0][order.argsort()]
        torch.testing.assert_close(said[domain], expected, atol=1e-5, rtol=0)


def test_learners_of_every_kind_stand_side_by_side(plugin: Any, dataset: Dataset) -> None:
    learners = {name: built(dataset, name) for name in NAMES}
    heard: list[int] = []
    from promptkit.evaluation.evaluate import work

    found = evaluate(learners, dataset, LoaderSettings(workers=0), on_batch=heard.append)
    assert sum(heard) == work(learners, dataset) == (3 + 3) * len(dataset.items)
    for name in NAMES:
        assert same(answers(found, name), ask(learners[name], dataset))


def test_views_and_order_are_drawn_from_the_seed_and_the_picture(plugin: Any, dataset: Dataset, tmp_path: Path) -> None:
    said = {name: ask(built(dataset, name), dataset) for name in ("episodic", "online")}
    for name, before in said.items():
        assert not same(before, ask(built(dataset, name, "train.seed=2"), dataset))
    views = built(dataset, "episodic").test_views
    picture = open_image(dataset.items[0].path)
    first, other = (views_to_test(views, one, 1)["noisy1"] for one in (picture, picture[:, ::-1]))
    assert torch.equal(first, views_to_test(views, picture.copy(), 1)["noisy1"])
    assert not torch.equal(first - views_to_test(views, picture, 1)["image"], other)


def test_a_plain_learner_looks_at_one_of_many_views(plugin: Any, dataset: Dataset) -> None:
    plain = built(dataset, "coop", "test_views=noisy", "test_views.more=0")
    assert same(ask(plain, dataset), ask(built(dataset, "coop", "test_views=noisy"), dataset))


def test_eval_sets_what_happens_at_test_time(plugin: Any, train: Command, promptkit: Command) -> None:
    assert train("coop", "--epochs", 1, "--out", "run").status == 0

    def accuracy(*words: str) -> Any:
        done = promptkit("eval", "run", "--workers", 0, "--json", "figures.json", *words)
        assert done.status == 0, done.err
        return json.loads(Path("figures.json").read_text())["runs"]["run"]

    plain = accuracy()
    adapted = ("--set", "learner=episodic", "--set", "test_views=noisy", "--set", "learner.step=30")
    assert accuracy(*adapted) != plain
    assert accuracy() == plain
    done = promptkit("eval", "run", "--set", "prompts.n_ctx=3")
    assert done.status == 2
    assert "prompts.n_ctx belongs to what was trained" in done.err
    shown = promptkit("show", "episodic").out
    assert "test_views.more" in shown


def test_a_bench_of_learners_that_adapt_finds_what_each_finds_alone(
    plugin: Any, promptkit: Command, images: Path
) -> None:
    tiny = ("--backbone", "tiny", "--weights", "none", "--workers", 0, "--device", "cpu")
    words = ("few-shot", "--data", images, *tiny, "--epochs", 1, "--shots", 2, "--seeds", "1,2")
    words = ("bench", *words, "--learners", ",".join(("coop", *NAMES)))
    done = promptkit(*words)
    assert done.status == 0, done.err
    together = {result.key: result.scores for result in read_results([Path("results")])}
    assert len(together) == 2 * 2 * 4
    for k in range(2):
        assert promptkit(*words, "--out", "shards", "--shard", f"{k}/2").status == 0
    assert together == {result.key: result.scores for result in read_results([Path("shards")])}
    for result in read_results([Path("results")]):
        if result.seed == 1 and result.domain == "photo":
            assert promptkit("eval", result.run, "--workers", 0, "--json", "alone.json").status == 0
            (alone,) = json.loads(Path("alone.json").read_text())["runs"].values()
            expected = alone["photo"]["accuracy"], alone["photo"]["ece"]
            assert (result.scores["accuracy"], result.scores["ece"]) == expected

"""PLOT keeps the contract, and its defining term is the paper's."""

import pytest
import torch
from promptkit_zoo import plot

from promptkit.learner import Learner, Recipe
from promptkit.tensors import Batch
from promptkit.testing import build_recipe, check_recipe, registered

NAMES = ("cat", "yellow school bus", "aeroplane at night")


def build(recipe: str, *sets: str) -> Learner:
    with registered(plot, "clip-promptkit-zoo"):
        return build_recipe(recipe, NAMES, sets)


def batch(seed: int = 0) -> Batch:
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return Batch({"image": pixels}, torch.tensor([0, 2]))


def test_it_keeps_the_contract() -> None:
    with registered(plot, "clip-promptkit-zoo"):
        assert check_recipe("plot") == []


def test_a_plan_moves_equal_masses_and_balances_them() -> None:
    cost = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    plan = plot.sinkhorn(cost, 0.1, 100)
    torch.testing.assert_close(plan.sum(-1), torch.full((2, 3, 5), 1 / 5))
    torch.testing.assert_close(plan.sum(-2), torch.full((2, 3, 4), 1 / 4))
    # The optimum is the only plan of these masses of the form u exp(-cost / entropy) v.
    scaled = plan.log() + cost / 0.1
    rank_one = scaled - scaled[..., :1, :] - scaled[..., :, :1] + scaled[..., :1, :1]
    torch.testing.assert_close(rank_one, torch.zeros_like(rank_one), atol=1e-4, rtol=0)


def test_logits_are_similarities_under_the_plan() -> None:
    learner = build("plot")
    outputs = learner(batch())
    view = outputs.views["image"]
    for b in range(2):
        for c in range(len(NAMES)):
            similarity = view.patches[b] @ view.text[0, c].T
            plan = plot.sinkhorn(1 - similarity, 0.1, 100)
            expected = learner.scene.backbone.logit_scale * (plan * similarity).sum()
            torch.testing.assert_close(outputs.logits[b, c], expected, rtol=1e-4, atol=1e-4)


def test_pooled_logits_are_added_on_imagenet() -> None:
    learner = build("plot", "data.dataset=imagenet")
    outputs = learner(batch())
    view, scale = outputs.views["image"], learner.scene.backbone.logit_scale
    for b in range(2):
        for c in range(len(NAMES)):
            similarity = view.patches[b] @ view.text[0, c].T
            plan = plot.sinkhorn(1 - similarity, 0.1, 100)
            mean = view.text[0, c].mean(0)
            expected = scale * (plan * similarity).sum() + scale * view.image[b] @ (mean / mean.norm())
            torch.testing.assert_close(outputs.logits[b, c], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("dataset", "epochs", "batch_size"), [("caltech101", 200, 128), ("imagenet", 50, 128), ("oxford_flowers", 200, 32)]
)
def test_settings_are_those_of_the_published_code(dataset: str, epochs: int, batch_size: int) -> None:
    recipes: dict[str, Recipe] = {}
    plot.register_recipes(recipes.__setitem__)
    settings = {**recipes["plot"].settings, **recipes["plot"].datasets.get(dataset, {})}
    assert (settings["train.epochs"], settings["train.batch_size"]) == (epochs, batch_size)

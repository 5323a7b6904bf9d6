"""PLOT keeps the contract, and its defining term is the paper's."""

import promptkit_plot
import torch

from promptkit.learner import Learner
from promptkit.tensors import Batch
from promptkit.testing import build_recipe, check_recipe, registered

NAMES = ("cat", "yellow school bus", "aeroplane at night")


def build(recipe: str, *sets: str) -> Learner:
    with registered(promptkit_plot, "promptkit-plot"):
        return build_recipe(recipe, NAMES, sets)


def batch(seed: int = 0) -> Batch:
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return Batch({"image": pixels}, torch.tensor([0, 2]))


def test_it_keeps_the_contract() -> None:
    with registered(promptkit_plot, "promptkit-plot"):
        assert check_recipe("plot") == []


def test_a_plan_moves_equal_masses_and_balances_them() -> None:
    cost = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    plan = promptkit_plot.sinkhorn(cost, 0.1, 100)
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
            plan = promptkit_plot.sinkhorn(1 - similarity, 0.1, 100)
            expected = learner.scene.backbone.logit_scale * (plan * similarity).sum()
            torch.testing.assert_close(outputs.logits[b, c], expected, rtol=1e-4, atol=1e-4)

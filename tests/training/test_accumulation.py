"""A step's batch in parts: the gradient of the whole, or a refusal."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from promptkit.backbones.tiny import tiny_backbone
from promptkit.build import build_learner
from promptkit.components import Scene
from promptkit.config import resolve
from promptkit.learner import Learner
from promptkit.registry import installed
from promptkit.runs.checkpoint import read_tensors
from promptkit.tensors import Batch
from promptkit.training.accumulation import check_accumulates

Command = Callable[..., "Finished"]


def learner(recipe: str) -> Learner:
    scene = Scene(tiny_backbone(), ("cat", "dog", "owl"))
    return build_learner(resolve(installed(), recipe), installed(), scene)


def batch(*views: str) -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels = {view: torch.randn(7, 3, 32, 32, generator=generator) for view in views}
    return Batch(pixels, torch.tensor([0, 1, 2, 0, 1, 2, 0]))


@pytest.mark.parametrize("recipe", ["coop", "cocoop"])
@pytest.mark.parametrize("parts", [2, 3, 7])
def test_the_gradients_of_parts_add_up_to_that_of_the_whole(recipe: str, parts: int) -> None:
    one, images = learner(recipe), batch("image")
    check_accumulates(one, images, parts)

    def gradients(chunks: list[Batch]) -> dict[str, torch.Tensor]:
        one.zero_grad()
        for part in chunks:
            terms = one.loss(one(part))
            one.backward({name: len(part.label) / 7 * term for name, term in terms.items()})
        return {
            name: parameter.grad.clone() for name, parameter in one.named_parameters() if parameter.grad is not None
        }

    whole, added = gradients([images]), gradients(images.chunk(parts))
    assert whole.keys() == added.keys() != set()
    for name, gradient in whole.items():
        torch.testing.assert_close(added[name], gradient, rtol=1e-5, atol=1e-6)


def test_features_of_several_views_are_cut_by_image() -> None:
    one, images = learner("gopro"), batch("image", "view1", "view2")
    features = one.image_features(images)
    cut = Batch(images.views, images.label, features).chunk(3)
    assert [len(part.label) for part in cut] == [3, 3, 1]
    for part in cut:
        assert part.features is not None
        alone = one.image_features(Batch(part.views, part.label))
        torch.testing.assert_close(part.features.pooled, alone.pooled, rtol=0, atol=1e-6)


def test_training_in_parts_learns_what_whole_batches_teach(train: Command, tmp_path: Path) -> None:
    assert train("coop", "--out", "whole").status == 0
    done = train("coop", "--out", "parts", "--accumulate", 3)
    assert done.status == 0, done.err
    whole, parts = read_tensors(tmp_path / "whole"), read_tensors(tmp_path / "parts")
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_loss_that_looks_across_the_batch_is_refused(train: Command) -> None:
    done = train("gopro", "--accumulate", 2)
    assert done.status == 2
    assert "train.accumulate would change what is computed" in done.err
    assert "loss term 'contrast' is" in done.err

"""NT-Xent against a loop over its definition, and the loss's terms and options."""

import math

import pytest
import torch
from promptkit_gopro.losses import GOProLoss, nt_xent
from torch.nn import functional as F

from promptkit.components import Scene
from promptkit.tensors import Outputs, View
from promptkit.testing import tiny_backbone

SCENE = Scene(tiny_backbone(), ("cat", "dog", "owl"))


def nt_xent_loop(a: torch.Tensor, b: torch.Tensor, temperature: float) -> torch.Tensor:
    """-log of the positive's share, for each picture in each direction."""
    a, b = (F.normalize(x, dim=-1) for x in (a, b))
    total = torch.zeros(())
    for own, other in ((a, b), (b, a)):
        for i in range(len(own)):
            positive = (own[i] @ other[i] / temperature).exp()
            negatives = sum(
                (own[i] @ other[j] / temperature).exp() + (own[i] @ own[j] / temperature).exp()
                for j in range(len(own))
                if j != i
            )
            total = total - (positive / (positive + negatives)).log()
    return total / (2 * len(a))


@pytest.mark.parametrize("images", [1, 2, 5])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_nt_xent_is_its_definition(images: int, temperature: float):
    torch.manual_seed(0)
    a, b = (torch.randn(images, 8, requires_grad=True) for _ in range(2))
    loss, expected = nt_xent(a, b, temperature), nt_xent_loop(a, b, temperature)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, (a, b)), torch.autograd.grad(expected, (a, b)))


def test_nt_xent_is_symmetric_and_looks_at_directions_alone():
    torch.manual_seed(0)
    a, b = torch.randn(2, 6, 8).unbind()
    torch.testing.assert_close(nt_xent(a, b, 0.1), nt_xent(b, a, 0.1))
    torch.testing.assert_close(nt_xent(a, b, 0.1), nt_xent(3 * a, 0.2 * b, 0.1))


def test_nt_xent_of_views_that_say_nothing():
    """All vectors equal: the positive is one of 2B - 1."""
    same = torch.ones(5, 4)
    assert nt_xent(same, same, 0.1).item() == pytest.approx(math.log(9), abs=1e-5)


def outputs() -> Outputs:
    torch.manual_seed(0)

    def view() -> View:
        image, text = F.normalize(torch.randn(4, 6), dim=-1), F.normalize(torch.randn(4, 3, 1, 6), dim=-1)
        return View(image, text, torch.randn(4, 5), torch.randn(4, 3, 1, 5))

    return Outputs(torch.randn(4, 3), {name: view() for name in GOProLoss.views}, torch.tensor([0, 1, 2, 0]))


def test_terms_are_weighted_and_read_projected_features():
    seen = outputs()
    plain = GOProLoss(GOProLoss.Options(contrast=1.0), SCENE)(seen)
    weighted = GOProLoss(GOProLoss.Options(consistency=3.0, contrast=0.5), SCENE)(seen)
    image, moco, augmix = (seen.views[name] for name in ("image", "moco", "augmix"))
    torch.testing.assert_close(plain["ce"], F.cross_entropy(seen.logits, seen.label))
    torch.testing.assert_close(
        plain["consistency"],
        ((image.text_projected - moco.text_projected) ** 2).mean()
        + ((image.text_projected - augmix.text_projected) ** 2).mean(),
    )
    torch.testing.assert_close(plain["contrast"], nt_xent(image.image_projected, moco.image_projected, 0.1))
    torch.testing.assert_close(weighted["consistency"], 3 * plain["consistency"])
    torch.testing.assert_close(weighted["contrast"], 0.5 * plain["contrast"])
    assert list(plain) == ["ce", "consistency", "contrast"]

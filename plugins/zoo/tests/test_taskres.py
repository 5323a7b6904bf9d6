"""TaskRes against its formula, on text features with norms of their own."""

import open_clip
import torch
from promptkit_zoo import taskres
from torch.nn.functional import cross_entropy, normalize

from promptkit.components import read_templates
from promptkit.tensors import Batch
from promptkit.testing import build_recipe, check_recipe, registered

NAMES = ("cat", "yellow school bus", "aeroplane at night")


def test_it_keeps_the_contract() -> None:
    with registered(taskres, "clip-promptkit-zoo"):
        assert check_recipe("taskres") == []


def test_residuals_are_added_before_the_norm() -> None:
    with registered(taskres, "clip-promptkit-zoo"):
        learner = build_recipe("taskres", NAMES, ["data.dataset=imagenet", "prompts.alpha=0.3"])
    clip, residual = learner.scene.backbone.model, learner.prompts.residual
    with torch.no_grad():
        residual.normal_(generator=torch.Generator().manual_seed(0))
    templates = read_templates(taskres.IMAGENET)
    assert (len(templates), templates[0], templates[-1]) == (8, "itap of a {}.", "a photo of a {}.")
    base = [clip.encode_text(open_clip.tokenize([t.format(name) for t in templates])).mean(0) for name in NAMES]
    pixels, label = torch.randn(2, 3, 32, 32), torch.tensor([0, 2])
    text = normalize(torch.stack(base).detach() + 0.3 * residual, dim=-1)
    expected = clip.logit_scale.exp() * normalize(clip.encode_image(pixels), dim=-1) @ text.T
    outputs = learner(Batch({"image": pixels}, label))
    torch.testing.assert_close(outputs.logits, expected, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(cross_entropy(expected, label), residual)
    learner.backward(learner.loss(outputs))
    torch.testing.assert_close(residual.grad, gradient, rtol=1e-4, atol=1e-6)
    assert [name for name, _ in learner.named_parameters()] == ["prompts.residual"]

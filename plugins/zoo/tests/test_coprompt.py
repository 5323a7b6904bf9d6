"""CoPrompt's terms against their formulas, with MaPLe's prompts beside it."""

import numpy as np
import pytest
import torch
from promptkit_zoo import coprompt, maple
from torch.nn.functional import cross_entropy, normalize

from promptkit import ConfigError
from promptkit.build import build_learner
from promptkit.components import Scene
from promptkit.config import resolve
from promptkit.registry import installed
from promptkit.tensors import Batch
from promptkit.testing import build_recipe, check_recipe, registered, tiny_backbone

NAMES = ("cat", "yellow school bus", "moon")
SAID = {name: [f"a {name} of kind {kind}." for kind in ("one", "two")] for name in NAMES}
PLUGINS = (coprompt, maple)


def test_it_keeps_the_contract_and_asks_for_descriptions() -> None:
    with registered(PLUGINS, "clip-promptkit-zoo"):
        assert check_recipe("coprompt") == []
        with pytest.raises(ConfigError, match="loss 'coprompt' needs sentences about the classes"):
            build_recipe("coprompt")


def test_terms_are_distances_from_frozen_clip_on_another_view_and_sentence() -> None:
    with registered(PLUGINS, "clip-promptkit-zoo"):
        config = resolve(
            installed(),
            "coprompt",
            sets=["loss.weight=3"],
            flags={"backbone.name": "tiny", "backbone.weights": "none"},
        )
        learner = build_learner(config, installed(), Scene(tiny_backbone(), NAMES, descriptions=SAID))
    backbone = learner.scene.backbone
    one, other = torch.randn(2, 2, 3, 32, 32)
    label = torch.tensor([0, 2])
    outputs = learner(Batch({"image": one, "second": other}, label))
    torch.manual_seed(3)
    terms = learner.loss(outputs)
    torch.manual_seed(3)
    place = int(torch.randint(2, ()))

    def adapted(features: torch.Tensor, share: float, adapter: torch.nn.Sequential) -> torch.Tensor:
        return normalize(share * adapter(features) + (1 - share) * features, dim=-1)

    seen = backbone.encode_image(one, learner.prompts.vision()).pooled
    image = adapted(seen, 0.1, learner.projector.image_adapter)
    text = adapted(learner.encode_text(None)[0, :, 0], 0.2, learner.projector.text_adapter)
    sentences = backbone.encode_captions([SAID[name][place] for name in NAMES])
    logits = backbone.logit_scale * image @ text.T
    torch.testing.assert_close(outputs.logits, logits, rtol=1e-5, atol=1e-5)
    frozen = backbone.encode_image(other).pooled
    expected = {
        "ce": cross_entropy(logits, label),
        "text": 3 * (1 - (text * sentences).sum(1).mean()),
        "image": 3 * (1 - (image * frozen).sum(1).mean()),
    }
    torch.testing.assert_close(terms, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(learner.eval().predict(Batch.of(one)), logits, rtol=1e-5, atol=1e-5)


def test_both_views_are_drawn_from_the_generator() -> None:
    views = coprompt.CoPromptViews(coprompt.CoPromptViews.Options(), tiny_backbone().image)
    picture = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    made = [views(picture, np.random.default_rng(seed)) for seed in range(4)]
    assert any(not np.array_equal(one["image"], one["second"]) for one in made)
    assert any(not np.array_equal(one["image"], made[0]["image"]) for one in made)

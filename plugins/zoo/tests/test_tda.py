"""TDA against the lists and dictionaries that its released code keeps."""

import math

import torch
from promptkit_zoo import tda
from torch import Tensor

from promptkit.learner import Learner
from promptkit.tensors import Batch
from promptkit.testing import build_recipe, check_recipe, registered

NAMES = ("cat", "yellow school bus", "aeroplane at night")


def build(*sets: str) -> Learner:
    with registered(tda, "clip-promptkit-zoo"):
        return build_recipe("tda", NAMES, sets).eval()


def literal(seen: Tensor, text: Tensor, scale: Tensor, least: float, most: float) -> Tensor:
    """Picture by picture (N V D) as the released code, with its sorted lists for every class."""
    caches: tuple[dict[int, list[tuple[float, Tensor, Tensor]]], ...] = ({}, {})
    said = []
    for views in seen:
        logits = scale * views @ text.T
        entropies = -(logits.softmax(1) * logits.log_softmax(1)).sum(1)
        if len(views) > 1:
            chosen = entropies.argsort()[: int(len(views) * 0.1)]
            output, image = logits[chosen], views[chosen].mean(0)
            averaged = output.log_softmax(1).logsumexp(0) - math.log(len(output))
            loss = float(-(averaged * averaged.exp()).sum())
            logits, probability = output.mean(0), output.softmax(1).mean(0)
        else:
            image, loss, logits, probability = views[0], float(entropies[0]), logits[0], logits.softmax(1)[0]
        row = int(logits.argmax())
        uncertain = least < loss / math.log2(len(text)) < most
        for cache, shots, takes in zip(caches, (3, 2), (True, uncertain), strict=True):
            if takes:
                kept = cache.setdefault(row, [])
                if len(kept) < shots:
                    kept.append((loss, image, probability))
                elif loss < kept[-1][0]:
                    kept[-1] = (loss, image, probability)
                kept.sort(key=lambda item: item[0])
        answer = logits.clone()
        for label, items in caches[0].items():
            answer[label] += sum(2.0 * torch.exp(5 * image @ key - 5) for _, key, _ in items)
        for items in caches[1].values():
            for _, key, votes in items:
                against = (votes > 0.03) & (votes < 1)
                answer -= 0.117 * torch.exp(1 * image @ key - 1) * against
        said.append(answer)
    return torch.stack(said)


def test_the_stream_is_answered_as_the_released_code_does() -> None:
    for n_views, sets in ((1, ()), (20, ("learner.least=0", "learner.most=1"))):
        learner = build(*sets)
        learner.scene.backbone.model.logit_scale.data.fill_(math.log(3))  # so that some pictures are uncertain
        generator = torch.Generator().manual_seed(0)
        names = ["image", *(f"crop{i}" for i in range(n_views - 1))]
        views = {name: torch.randn(30, 3, 32, 32, generator=generator) for name in names}
        asked = Batch(views, torch.full((30,), -1))
        seen = learner.image_features(asked).pooled.unflatten(0, (n_views, 30)).transpose(0, 1)
        text = learner.encode_text(None)[0, :, 0]
        least, most = (0.2, 0.5) if n_views == 1 else (0, 1)
        expected = literal(seen, text, learner.scene.backbone.logit_scale, least, most)
        said = learner.predict(asked)
        torch.testing.assert_close(said, expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(said, learner.predict(asked), atol=1e-3), "the second time, it has seen them"
        learner.reset()
        torch.testing.assert_close(learner.predict(asked), said)


def test_it_keeps_the_contract_and_has_the_settings_of_its_data_sets() -> None:
    with registered(tda, "clip-promptkit-zoo"):
        assert check_recipe("tda") == []
    options = build("data.dataset=eurosat").options
    assert (options.alpha, options.beta) == (4.0, 8.0)
    assert len(build("data.dataset=imagenetv2").prompts.templates) == 7
    assert len(build("data.dataset=imagenet_r").prompts.templates) == 80
    assert build("data.dataset=dtd").prompts.templates == ("{} texture.",)

"""Compiled towers: the same features, and no compilation for every new number of classes or pictures."""

from collections.abc import Iterator

import pytest
import torch

from promptkit.backbones.base import Compute, Taps
from promptkit.backbones.tiny import tiny_backbone
from promptkit.tensors import TextPrompts

NAMES = ("cat", "sports car", "dog", "golden retriever puppy", "tench", "a rather long name of a class", "owl", "ship")


@pytest.fixture(autouse=True)
def eager_backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs are traced as ever, and run without a C++ compiler."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: compile_(function, backend="eager", **options))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def mean(tokens: torch.Tensor) -> torch.Tensor:
    return tokens.mean(1)


@pytest.mark.filterwarnings("ignore")
def test_compiled_towers_equal_eager_ones_and_do_not_compile_for_ever() -> None:
    eager, compiled = tiny_backbone(), tiny_backbone()
    compiled.configure(Compute(compile=True))
    graphs = []
    for number, (images, classes) in enumerate(((4, 5), (3, 8), (4, 2), (2, 7), (5, 3), (6, 6))):
        pixels = torch.randn(images, 3, 32, 32)
        context = torch.randn(images, 1, 1, 4, eager.text_width, requires_grad=True)
        results = []
        for backbone in (eager, compiled):
            seen = backbone.encode_image(pixels, taps=Taps(mean))
            text = backbone.encode_text(TextPrompts(context), backbone.class_tokens(NAMES[:classes], 4))
            (gradient,) = torch.autograd.grad(text.square().cos().sum(), context)
            results.append((seen.pooled, *seen.taps, text, gradient))
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=str(number))
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert graphs[-1] == graphs[2], graphs

"""Compiled towers: the same features, and no compilation for every new number of classes or pictures."""

from collections.abc import Callable
from pathlib import Path

# In a process of its own: torch.compile sees the shape checks of the tests as code that is new each time. The backend
# "eager" traces graphs as ever, and runs them without a C++ compiler.
SCRIPT = """
import torch
from promptkit.backbones.base import Intermediates
from promptkit.settings import BackboneSettings
from promptkit.backbones.tiny import tiny_backbone
from promptkit.tensors import TextPrompts

NAMES = ("cat", "sports car", "dog", "golden retriever puppy", "tench", "a rather long name of a class", "owl", "ship")
compile_ = torch.compile
torch.compile = lambda function, **options: compile_(function, backend="eager", **options)
torch.manual_seed(0)
eager, compiled = tiny_backbone(), tiny_backbone()
compiled.configure(BackboneSettings(compile=True))

def mean(tokens):
    return tokens.mean(1)

for images, classes in ((4, 5), (3, 8), (4, 2), (2, 7), (5, 3), (6, 6)):
    pixels = torch.randn(images, 3, 32, 32)
    context = torch.randn(images, 1, 1, 4, eager.text_width, requires_grad=True)
    results = []
    for backbone in (eager, compiled):
        seen = backbone.encode_image(pixels, intermediates=Intermediates(mean))
        text = backbone.encode_text(TextPrompts(context), backbone.class_tokens(NAMES[:classes], 4))
        (gradient,) = torch.autograd.grad(text.square().cos().sum(), context)
        results.append((seen.pooled, *seen.intermediates, text, gradient))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    print(torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


def test_compiled_towers_equal_eager_ones_and_do_not_compile_for_ever(
    warm: Callable[..., "list[Finished]"], tmp_path: Path
) -> None:
    (done,) = warm(cwd=tmp_path, code=SCRIPT)
    assert done.status == 0, done.err
    graphs = [int(line) for line in done.out.split()]
    assert graphs[0] > 0
    assert graphs[-1] == graphs[2], graphs

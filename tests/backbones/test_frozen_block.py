"""Frozen blocks give what autograd gives, keep less, and step aside for anything in them that is learned."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from promptkit.backbones import packed, prompt_encoder
from promptkit.backbones.base import Position
from promptkit.backbones.frozen_block import is_frozen
from promptkit.backbones.openclip import OpenClipBackbone
from promptkit.backbones.passes import Cost, pass_sizes, what_to_keep
from promptkit.backbones.prompt_encoder import encode_plain
from promptkit.backbones.tiny import tiny_backbone
from promptkit.tensors import ClassTokens, TextPrompts

NAMES = ("cat", "hot dog", "sea anemone", "a very long name that goes on and on " * 4)
KEEPS = ("all", "inputs", "nothing")


def gradients(
    encode: Callable[[TextPrompts, ClassTokens], torch.Tensor], prompts: TextPrompts, classes: ClassTokens
) -> list[torch.Tensor]:
    """Features, and gradients to contexts and deep prompts."""
    features = encode(prompts, classes)
    probe = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    learned = [prompts.context] if prompts.deep is None else [prompts.context, prompts.deep]
    return [features.detach(), *torch.autograd.grad((features * probe).sum(), learned)]


def distances(found: list[torch.Tensor], expected: list[torch.Tensor]) -> list[float]:
    return [float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]


def plain(backbone: OpenClipBackbone) -> Callable[[TextPrompts, ClassTokens], torch.Tensor]:
    return lambda prompts, classes: encode_plain(backbone.text_tower, prompts, classes)


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("contexts", [1, len(NAMES)])
def test_frozen_blocks_equal_the_towers_own(
    keep: str, quick_gelu: bool, position: Position, contexts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_backbone(quick_gelu=quick_gelu)
    assert all(map(is_frozen, backbone.text_tower.blocks))
    monkeypatch.setattr(prompt_encoder, "what_to_keep", lambda passes, *_: [keep] * passes)
    classes = backbone.class_tokens(NAMES, 3, position)
    for n_deep in (0, 2):
        deep = torch.randn(n_deep, 1, 3, 32, requires_grad=True) if n_deep else None
        prompts = TextPrompts(torch.randn(2, contexts, 1, 3, 32, requires_grad=True), deep)
        features, *found = distances(
            gradients(backbone.encode_text, prompts, classes), gradients(plain(backbone), prompts, classes)
        )
        assert features < 1e-5
        assert max(found) < 1e-4


def kept_bytes(backbone: OpenClipBackbone, keep: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Of everything that the backward pass needs, but for parameters and what the layout holds."""
    monkeypatch.setattr(prompt_encoder, "what_to_keep", lambda passes, *_: [keep] * passes)
    classes = backbone.class_tokens([*NAMES[:3], "a name of several more words"] * 10, 2)
    prompts = TextPrompts(torch.randn(4, 1, 1, 2, 32, requires_grad=True))
    backbone.encode_text(prompts, classes)
    storages: dict[int, torch.UntypedStorage] = {}
    known = {parameter.untyped_storage().data_ptr() for parameter in backbone.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known and tensor.is_floating_point():
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        backbone.encode_text(prompts, classes)
    return sum(storage.nbytes() for storage in storages.values())


def test_frozen_blocks_keep_far_less_than_autograd_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone(text={"layers": 12}, quick_gelu=True)
    kept = {keep: kept_bytes(backbone, keep, monkeypatch) for keep in ("all", "inputs")}
    for module in packed, prompt_encoder:
        monkeypatch.setattr(module, "is_frozen", lambda block: False)
    autograd = kept_bytes(backbone, "all", monkeypatch)
    assert kept["all"] < 0.65 * autograd
    assert kept["inputs"] < autograd / 8


def test_steps_that_live_side_by_side_share_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is used again when nothing of a step is left, and no sooner."""
    backbone = tiny_backbone()
    classes = backbone.class_tokens(NAMES, 2)
    contexts = [torch.randn(3, 1, 1, 2, 32, requires_grad=True) for _ in range(3)]

    def encode(context: torch.Tensor) -> torch.Tensor:
        return backbone.encode_text(TextPrompts(context), classes).square().cos().sum()

    expected = [torch.autograd.grad(encode(context), context)[0] for context in contexts]
    monkeypatch.setattr(prompt_encoder, "what_to_keep", lambda passes, *_: ["all"] * passes)
    first, second = encode(contexts[0]), encode(contexts[1])
    found = [torch.autograd.grad(second, contexts[1])[0]]
    third = encode(contexts[2])  # in the memory of the second
    found = [torch.autograd.grad(first, contexts[0])[0], *found, torch.autograd.grad(third, contexts[2])[0]]
    assert distances(found, expected)[0] < 1e-5
    arenas = backbone.encoder._arenas._free
    assert [len(free) for free in arenas.values()] == [2]
    with torch.no_grad():
        encode(contexts[0])
    assert not arenas


def test_what_is_learned_in_a_block_gets_its_gradient() -> None:
    backbone = tiny_backbone()
    weight = backbone.text_tower.blocks[1].mlp.c_fc.weight.requires_grad_()
    assert [is_frozen(block) for block in backbone.text_tower.blocks] == [True, False, True]
    classes = backbone.class_tokens(NAMES, 2)
    prompts = TextPrompts(torch.randn(2, 1, 1, 2, 32))
    found, expected = (
        torch.autograd.grad(encode(prompts, classes).square().cos().sum(), weight)[0]
        for encode in (backbone.encode_text, plain(backbone))
    )
    assert distances([found], [expected])[0] < 1e-4


def test_a_hook_in_a_block_is_called() -> None:
    backbone = tiny_backbone()
    seen: list[Any] = []
    classes, prompts = backbone.class_tokens(NAMES, 2), TextPrompts(torch.randn(1, 1, 1, 2, 32))
    handle = backbone.text_tower.blocks[0].mlp.register_forward_hook(lambda *arguments: seen.append(arguments[0]))
    backbone.encode_text(prompts, classes)
    assert seen
    handle.remove()
    assert is_frozen(backbone.text_tower.blocks[0])


def test_autocast_takes_the_plain_blocks() -> None:
    block = tiny_backbone().text_tower.blocks[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_frozen(block)


def test_gradients_of_gradients_are_refused() -> None:
    backbone = tiny_backbone()
    backbone.encoder.memory_bytes = 1
    context = torch.randn(1, 1, 1, 2, 32, requires_grad=True)
    features = backbone.encode_text(TextPrompts(context), backbone.class_tokens(NAMES, 2))
    (gradient,) = torch.autograd.grad(features.square().cos().sum(), context, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@given(
    passes=st.integers(1, 50),
    inputs=st.integers(1, 100),
    more=st.integers(0, 1000),
    work=st.integers(1, 1000),
    budget=st.integers(1, 50_000),
)
def test_what_is_kept_fits_in_the_budget(passes: int, inputs: int, more: int, work: int, budget: int) -> None:
    cost = Cost(work=work, inputs=inputs, everything=inputs + more, largest=1)
    keeps = what_to_keep(passes, cost, 1.0, budget)
    assert len(keeps) == passes
    assert keeps[-1] == "all"
    assert keeps == sorted(keeps, key=["nothing", "inputs", "all"].index)
    held = [{"nothing": 0, "inputs": inputs, "all": cost.everything}[keep] for keep in keeps]
    assert sum(held) + work <= max(budget, held[-1] + work)
    if passes * (inputs + more) + work <= budget:
        assert set(keeps) == {"all"}


@given(rows=st.integers(1, 100), classes=st.integers(1, 2000), largest=st.integers(1, 2**27))
def test_passes_are_no_larger_than_they_may_be(rows: int, classes: int, largest: int) -> None:
    cost = Cost(work=1, inputs=1, everything=1, largest=largest)
    row_step, class_step = pass_sizes(rows, classes, cost, 2**40, gradients=True, on_cpu=True)
    assert row_step * class_step * largest / classes <= max(2**24, largest / classes)
    assert pass_sizes(rows, classes, cost, 2**40, gradients=True, on_cpu=False) == (rows, classes)

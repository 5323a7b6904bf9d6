"""The fast path gives what the plain path gives, and the plain path what open_clip gives."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptkit.backbones.base import Position
from promptkit.backbones.openclip import OpenClipBackbone
from promptkit.backbones.prompt_encoder import encode_plain
from promptkit.backbones.segments import Segment
from promptkit.backbones.tiny import tiny_backbone
from promptkit.edits import Delta, Edits
from promptkit.errors import BackboneError
from promptkit.settings import BackboneSettings
from promptkit.tensors import ClassTokens, TextPrompts

Make = Callable[..., OpenClipBackbone]

NAMES = ("cat", "hot dog", "sea anemone", "Boeing 737-800", "pneumonoultramicroscopicsilicovolcanoconiosis", "x")
LONG = "a very long name that goes on and on " * 4
TOWERS = [
    "plain",
    "linear projection",
    "no projection",
    "eos pooling",
    "layer scale",
    "custom block",
    "every custom feature",
    "one block",
    "not causal",
    "read at the first token",
    "read at the last token",
]
TINY = tiny_backbone()


def both(backbone: OpenClipBackbone, context: torch.Tensor, deep: torch.Tensor | None, classes: ClassTokens) -> Any:
    """Features, and gradients to what is learned, by the encoder and by the reference."""
    return both_of(backbone, TextPrompts(context, deep), [context] if deep is None else [context, deep], classes)


def both_of(backbone: OpenClipBackbone, prompts: TextPrompts, learned: list[torch.Tensor], classes: ClassTokens) -> Any:
    for tensor in learned:
        tensor.requires_grad_()
    results = []
    for encode in (backbone.encode_text, lambda p, c: encode_plain(backbone.text_tower, p, c)):
        features = encode(prompts, classes)
        probe = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
        gradients = torch.autograd.grad((features * probe).sum(), learned, allow_unused=True)
        results.append((features.detach(), gradients))
    return results


@contextmanager
def texts_padded(padded: bool) -> Iterator[None]:
    """As they are on a GPU, or as on a CPU."""
    of = Segment.of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Segment, "of", lambda *arguments, **_: of(*arguments, padded=padded))
        yield


def random_edits(seed: int = 0) -> tuple[Edits, list[torch.Tensor]]:
    """A delta of every weight and a residual at every place of the tiny text tower, each in some block."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"q": (32, 32), "k": (32, 32), "v": (32, 32), "out": (32, 32), "fc1": (128, 32), "fc2": (32, 128)}
    learned, deltas, residuals = [], {}, {}

    def draw(*shape: int) -> torch.Tensor:
        learned.append(0.3 * torch.randn(*shape, generator=generator))
        return learned[-1]

    for i, (name, (out, into)) in enumerate(shapes.items()):
        for block in {i % 3, 2}:
            deltas[block, name] = Delta(draw(2, into), draw(out, 2), 0.7)
    for block, place in ((0, "mlp"), (1, "block"), (2, "after"), (2, "mlp")):
        weight = draw(32, 32)
        residuals[block, place] = lambda tokens, weight=weight: (tokens @ weight).tanh()
    return Edits(deltas, residuals), learned


def assert_same(results: Any) -> None:
    (features, gradients), (expected, expected_gradients) = results
    assert features.shape == expected.shape
    assert relative(features, expected) < 1e-5
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(features.shape[:-1]))
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert (gradient is None) == (expected_gradient is None)
        if gradient is not None:
            assert relative(gradient, expected_gradient) < 1e-4


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.detach(), b.detach()
    return float((a - b).norm() / b.norm().clamp(min=1e-12))


@pytest.mark.parametrize("kind", ["clip", "custom text"])
@pytest.mark.parametrize("tower", TOWERS)
def test_contexts_made_of_words_give_open_clips_features(make_backbone: Make, tower: str, kind: str) -> None:
    backbone = make_backbone(tower, kind)
    prompts = TextPrompts(backbone.embed_words("a photo of a")[None, None, None])
    expected = {
        "end": ["a photo of a cat.", "a photo of a hot dog."],
        "middle": ["a photo cat of a.", "a photo hot dog of a."],
        "front": ["cat a photo of a.", "hot dog a photo of a."],
    }
    for position, captions in expected.items():
        classes = backbone.class_tokens(["cat", "hot dog"], 4, position)
        target = backbone.model.encode_text(backbone.prompt_tokenizer.tokenizer(captions), normalize=True)
        for features in (backbone.encode_text(prompts, classes), encode_plain(backbone.text_tower, prompts, classes)):
            assert relative(features[0, :, 0], target) < 1e-5
        assert relative(backbone.encode_captions(captions), target) < 1e-5


@pytest.mark.parametrize("kind", ["coca", "pad mask"])
def test_towers_that_mask_padding(make_backbone: Make, kind: str) -> None:
    backbone = make_backbone("plain" if kind == "coca" else "not causal", kind)
    captions = ["a photo of a cat.", "a photo of a hot dog."]
    prompts = TextPrompts(backbone.embed_words("a photo of a")[None, None, None])
    features = backbone.encode_text(prompts, backbone.class_tokens(["cat", "hot dog"], 4))
    target = backbone.model.encode_text(backbone.prompt_tokenizer.tokenizer(captions), normalize=True)
    assert relative(features[0, :, 0], target) < 1e-5


@pytest.mark.parametrize("tower", TOWERS)
def test_which_towers_are_packed(make_backbone: Make, text_towers: Any, tower: str) -> None:
    everything, packed = text_towers
    backbone = make_backbone(tower)
    classes = backbone.class_tokens(NAMES, 2)
    backbone.encode_text(TextPrompts(torch.randn(1, 1, 1, 2, 32)), classes)
    assert tuple(TOWERS) == everything
    assert (classes in backbone.encoder._layouts) == (tower in packed)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=5),
    long=st.booleans(),
    position=st.sampled_from(["end", "middle", "front"]),
    images=st.integers(1, 3),
    class_specific=st.booleans(),
    n_prompts=st.integers(1, 2),
    n_ctx=st.integers(1, 4),
    n_deep=st.integers(0, 2),
    deep_per_class=st.booleans(),
    late=st.booleans(),
    read_only=st.integers(0, 2),
    edited=st.booleans(),
    padded=st.booleans(),
    memory=st.sampled_from([None, 400_000]),
    checkpoint=st.sampled_from(["auto", "on", "off"]),
)
def test_fast_is_plain(
    names: list[str],
    long: bool,
    position: Position,
    images: int,
    class_specific: bool,
    n_prompts: int,
    n_ctx: int,
    n_deep: int,
    deep_per_class: bool,
    late: bool,
    read_only: int,
    edited: bool,
    padded: bool,
    memory: int | None,
    checkpoint: Literal["auto", "on", "off"],
) -> None:
    names = [*names, LONG] if long else names
    classes = TINY.class_tokens(names, n_ctx, position)
    generator = torch.Generator().manual_seed(0)
    n_prompts = 1 if read_only else n_prompts
    late = late and n_deep > 0 and not class_specific
    draw = partial(torch.randn, generator=generator)
    context = None if late else draw(images, len(names) if class_specific else 1, n_prompts, n_ctx, 32)
    deep = draw(n_deep, len(names) if deep_per_class else 1, n_ctx, 32) if n_deep else None
    readers = draw(images, len(names) if class_specific else 1, read_only, 32) if read_only else None
    edits, learned = random_edits() if edited else (Edits(), [])
    first = 2 if n_deep == 1 else 1
    prompts = TextPrompts(context, deep, first, readers, edits)
    learned += [tensor for tensor in (context, deep, readers) if tensor is not None]
    TINY.encoder.memory_bytes = memory
    TINY.encoder.checkpoint = checkpoint
    with texts_padded(padded):
        assert_same(both_of(TINY, prompts, learned, classes))


@pytest.mark.parametrize("position", ["end", "middle"])
@pytest.mark.parametrize("kind", ["clip", "custom text"])
@pytest.mark.parametrize("tower", TOWERS)
def test_fast_is_plain_for_all_towers(make_backbone: Make, tower: str, kind: str, position: Position) -> None:
    backbone = make_backbone(tower, kind)
    torch.manual_seed(0)
    classes = backbone.class_tokens([*NAMES, LONG], 3, position)
    deep = torch.randn(1, 1, 3, 32) if tower != "one block" else None
    assert_same(both(backbone, torch.randn(2, 1, 2, 3, 32), deep, classes))


@pytest.mark.parametrize("padded", [False, True])
def test_lengths_that_differ_wildly_are_not_padded_to_the_longest(padded: bool) -> None:
    classes = TINY.class_tokens(["cat"] * 40 + ["hot dog", LONG], 2)
    TINY.encoder.memory_bytes = None
    with texts_padded(padded):
        assert_same(both(TINY, torch.randn(1, 1, 1, 2, 32), None, classes))
    (layout,) = TINY.encoder._layouts[classes].values()
    places = sum(math.prod(bucket.shape) for bucket in layout.rest.buckets)
    assert len(layout.rest.ids) <= places < 2 * len(layout.rest.ids)
    assert len(layout.rest.buckets) == (2 if padded else 3)


def test_small_memory_means_many_checkpointed_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone()
    classes = backbone.class_tokens(NAMES[:3], 2)
    prompts = TextPrompts(torch.randn(2, 1, 2, 2, 32, requires_grad=True))
    passes: list[tuple[int, int]] = []
    encode = backbone.encoder._encode

    def count(rows: Any, classes: Any, some: range, keep: Any) -> Any:
        passes.append((rows.count, len(some)))
        return encode(rows, classes, some, keep)

    monkeypatch.setattr(backbone.encoder, "_encode", count)
    backbone.encode_text(prompts, classes)
    assert passes == [(4, 3)]
    passes.clear()
    backbone.encoder.memory_bytes = 1
    features = backbone.encode_text(prompts, classes)
    assert passes == [(1, 1)] * 12
    features.sum().backward()
    assert len(passes) == 23  # all but the last run again for the backward pass, which begins with the last
    passes.clear()
    with torch.no_grad():
        backbone.encode_text(prompts, classes)
    assert passes == [(1, 1)] * 12


@pytest.mark.parametrize("position", ["end", "front"])
def test_what_is_left_over_comes_first(position: Position, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone()
    classes = backbone.class_tokens(NAMES[:3], 2, position)
    backbone.configure(BackboneSettings(checkpoint="on"))
    monkeypatch.setattr("promptkit.backbones.prompt_encoder.pass_sizes", lambda *_: (2, 2))
    passes: list[tuple[int, int]] = []
    encode = backbone.encoder._encode
    monkeypatch.setattr(backbone.encoder, "_encode", lambda *a: passes.append((a[0].count, len(a[2]))) or encode(*a))
    assert_same(both(backbone, torch.randn(5, 1, 1, 2, 32), None, classes))
    assert passes[:6] == [(1, 1), (1, 2), (2, 1), (2, 2), (2, 1), (2, 2)]
    assert len(passes) == 12


@pytest.mark.parametrize("memory", [None, 1])
@pytest.mark.parametrize("checkpoint", ["auto", "on", "off"])
def test_checkpointing_is_a_choice_and_changes_no_bit(
    checkpoint: Literal["auto", "on", "off"], memory: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_backbone()
    backbone.configure(BackboneSettings(checkpoint=checkpoint))
    backbone.encoder.memory_bytes = memory
    classes = backbone.class_tokens(NAMES[:3], 2)
    context, deep = torch.randn(2, 1, 1, 2, 32), torch.randn(1, 1, 2, 32)
    passes: list[int] = []
    encode = backbone.encoder._encode
    monkeypatch.setattr(backbone.encoder, "_encode", lambda *a: passes.append(1) or encode(*a))
    results = both(backbone, context, deep, classes)
    assert_same(results)
    once = 1 if memory is None else 6
    again = {"on": once, "auto": once - 1, "off": 0}[checkpoint]
    assert len(passes) == once + again
    backbone.encoder.checkpoint = "off"
    (features, gradients), _ = both(backbone, context, deep, classes)
    assert torch.equal(features, results[0][0])
    for gradient, other in zip(gradients, results[0][1], strict=True):
        assert torch.equal(gradient, other)


def test_memory_that_runs_out_turns_checkpointing_on() -> None:
    backbone = tiny_backbone()
    backbone.configure(BackboneSettings(checkpoint="off"))
    backbone.encode_text(TextPrompts(torch.randn(2, 1, 1, 2, 32, requires_grad=True)), backbone.class_tokens(NAMES, 2))
    assert backbone.use_less_memory()
    assert backbone.encoder.checkpoint == "auto"


def test_training_after_evaluation_in_inference_mode() -> None:
    with torch.inference_mode():
        classes = TINY.class_tokens(NAMES, 2, "middle")
        TINY.encode_text(TextPrompts(torch.randn(1, 1, 1, 2, 32)), classes)
    assert_same(both(TINY, torch.randn(1, 1, 1, 2, 32), None, classes))


def test_autocast() -> None:
    backbone = tiny_backbone()
    classes = backbone.class_tokens(NAMES, 2, "middle")
    prompts = TextPrompts(torch.randn(2, 1, 1, 2, 32, requires_grad=True), torch.randn(1, 1, 2, 32))
    with torch.autocast("cpu", torch.bfloat16):
        features = backbone.encode_text(prompts, classes)
    features.float().sum().backward()
    exact = backbone.encode_text(prompts, classes)
    assert relative(features.float(), exact) < 0.05
    assert relative(exact, encode_plain(backbone.text_tower, prompts, classes)) < 1e-5


def test_other_dtypes() -> None:
    backbone = tiny_backbone().to(torch.float64)
    classes = backbone.class_tokens(NAMES, 2)
    prompts = TextPrompts(torch.randn(2, 1, 1, 2, 32))
    features = backbone.encode_text(prompts, classes)
    assert features.dtype == torch.float64
    assert relative(features, encode_plain(backbone.text_tower, prompts, classes)) < 1e-12


@pytest.mark.parametrize(
    ("context", "deep", "message"),
    [
        ((1, 1, 1, 2, 31), None, "context vectors are 31 wide; this text tower takes 32"),
        ((1, 1, 1, 3, 32), None, "3 context tokens for classes with 2 open places"),
        ((1, 5, 1, 2, 32), None, "contexts of 5 classes for 6 classes"),
        (
            (1, 1, 1, 2, 32),
            (1, 1, 2, 31),
            "deep prompts are 1 x 2 x 31; this text tower and these classes take 1 x 2 x 32, or "
            "6 in front where each class has its own",
        ),
        (
            (1, 1, 1, 2, 32),
            (3, 1, 2, 32),
            "deep prompts for blocks 1 to 3; the text tower has 3, and they go from block 1 to 2",
        ),
    ],
)
def test_prompts_that_do_not_fit(context: tuple[int, ...], deep: tuple[int, ...] | None, message: str) -> None:
    prompts = _unchecked_prompts(torch.randn(context), torch.randn(deep) if deep else None)
    with pytest.raises(BackboneError) as caught:
        TINY.encoder(prompts, TINY.class_tokens(NAMES, 2))
    assert caught.value.message == message


def _unchecked_prompts(context: torch.Tensor, deep: torch.Tensor | None) -> TextPrompts:
    """Shapes that the checks of the test suite would refuse, as they reach the encoder in production."""
    prompts = object.__new__(TextPrompts)
    object.__setattr__(prompts, "context", context)
    object.__setattr__(prompts, "deep", deep)
    return prompts

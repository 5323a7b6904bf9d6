"""Class names become tokens with open places, whatever the tokenizer's frame looks like."""

from collections.abc import Sequence

import open_clip
import pytest
import torch

from promptkit.backbones.base import Position
from promptkit.backbones.prompt_tokenizer import ClipTokenizer, PromptTokenizer
from promptkit.backbones.tiny import tiny_backbone
from promptkit.errors import BackboneError


class Letters:
    """A tokenizer with one token per letter, and any frame."""

    def __init__(self, start: list[int], end: list[int], pad: int, tail: list[int]) -> None:
        self.start, self.end, self.pad, self.tail = start, end, pad, tail

    def __call__(self, texts: Sequence[str], context_length: int = 16) -> torch.Tensor:
        rows = []
        for text in texts:
            room = context_length - len(self.start) - len(self.end) - len(self.tail)
            row = self.start + [ord(letter) for letter in text][:room] + self.end
            rows.append(row + [self.pad] * (context_length - len(row) - len(self.tail)) + self.tail)
        return torch.tensor(rows)


FRAMES = {
    "start and end": Letters([1], [2], 0, []),
    "two start tokens": Letters([1, 3], [2], 0, []),
    "no start, pads with its end": Letters([], [2], 2, []),
    "neither": Letters([], [], 0, []),
    "another pad": Letters([1], [2], 9, []),
    "class token in the last place": Letters([1], [2], 0, [5]),
}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("words", ["", "of"])
def test_any_frame(frame: str, position: Position, words: str) -> None:
    tokenizer = FRAMES[frame]
    classes = PromptTokenizer(tokenizer, 16).tokenize_names(["ab", "cde"], 3, position, words)
    assert classes.names == ("ab", "cde")
    for row, (name, context_positions) in enumerate(zip(("ab", "cde"), classes.context_positions, strict=True)):
        phrase = f"{words} {name}" if words else name
        template = {"end": f"XXX{phrase}.", "middle": f"X{phrase}XX.", "front": f"{phrase}XXX."}[position]
        (expected,) = tokenizer([template])
        assert (expected[context_positions] == ord("X")).all()
        torch.testing.assert_close(classes.ids[row].index_fill(0, context_positions, ord("X")), expected)


@pytest.mark.parametrize("length", [77, 32])
def test_the_tokenizer_at_hand_is_open_clips_own(length: int) -> None:
    texts = ["a photo of a dog.", "Übermäßig lang " * 20, ""]
    ours, theirs = ClipTokenizer(length), open_clip.get_tokenizer("ViT-B-16", context_length=length)
    assert torch.equal(ours(texts), theirs(texts))
    assert torch.equal(ours("dog", context_length=9), theirs("dog", context_length=9))
    assert ours.decode([320, 1125]) == theirs.decode([320, 1125])


@pytest.mark.parametrize("frame", FRAMES)
def test_the_longest_name_that_fits_and_one_more(frame: str) -> None:
    tokenizer = FRAMES[frame]
    prompt_tokenizer = PromptTokenizer(tokenizer, 16)
    room = 16 - len(tokenizer.start) - max(len(tokenizer.end), 1) - len(tokenizer.tail) - 3
    assert prompt_tokenizer.tokenize_names(["x" * (room - 1)], 3, "end").ids.shape == (1, 16)
    with pytest.raises(BackboneError, match=r"class 'x+' is \d+ tokens long; with 3 context tokens.* takes 16"):
        prompt_tokenizer.tokenize_names(["ab", "x" * room], 3, "end")


def test_clip() -> None:
    backbone = tiny_backbone()
    classes = backbone.class_tokens(["hot dog"], 4)
    expected = backbone.prompt_tokenizer.tokenizer(["X X X X hot dog."])
    assert classes.names == ("hot dog",)
    assert classes.context_positions.tolist() == [[1, 2, 3, 4]]
    torch.testing.assert_close(classes.ids[:, 5:], expected[:, 5:])
    assert backbone.class_tokens([], 4).ids.shape == (0, 77)


def test_words_are_embedded_without_their_frame() -> None:
    backbone = tiny_backbone()
    ids = backbone.prompt_tokenizer.tokenizer(["a photo of a"])[0, 1:5]
    torch.testing.assert_close(backbone.embed_words("a photo of a"), backbone.model.token_embedding(ids))
    assert backbone.embed_words("").shape == (0, 32)


def test_a_name_that_is_too_long() -> None:
    with pytest.raises(BackboneError) as caught:
        tiny_backbone().class_tokens(["cat", "dog " * 80], 4)
    assert "is 81 tokens long; with 4 context tokens, start and end that makes 87" in caught.value.message
    assert "takes 77" in caught.value.message
    assert caught.value.hint == "shorten the name, or use fewer context tokens"


@pytest.mark.parametrize("frame", FRAMES)
def test_the_longest_caption_that_fits_and_one_more(frame: str) -> None:
    tokenizer = FRAMES[frame]
    prompt_tokenizer = PromptTokenizer(tokenizer, 16)
    room = 16 - len(tokenizer.start) - max(len(tokenizer.end), 1) - len(tokenizer.tail)
    torch.testing.assert_close(prompt_tokenizer.captions(["x" * room]).ids, tokenizer(["x" * room]))
    with pytest.raises(BackboneError, match=r"caption 'x+' is \d+ tokens long.* takes 16"):
        prompt_tokenizer.captions(["ab", "x" * (room + 1)])


def test_a_template_that_would_cut_the_class_name_is_an_error() -> None:
    long = "a photo " * 38
    with pytest.raises(BackboneError) as caught:
        tiny_backbone().encode_captions(["a photo of a cat.", f"{long}of a cat."])
    assert "is 80 tokens long; with start and end that makes 82, and the text tower takes 77" in caught.value.message
    assert caught.value.hint == "shorten the template or the name"

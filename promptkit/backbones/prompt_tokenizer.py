"""Class names as tokens with open places for contexts, for any tokenizer of open_clip."""

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import open_clip
import torch
from torch import Tensor

from promptkit.backbones.base import Position
from promptkit.errors import BackboneError
from promptkit.tensors import ClassTokens

Tokenizer = Callable[..., Tensor]
"""`tokenizer(texts, context_length=...)` gives ids (texts context_length), as open_clip's tokenizers do."""

WIDE = 1024
"""Names are tokenised at this length, so that a long one is counted and not cut."""


class ClipTokenizer:
    """CLIP's own, as open_clip has it at hand: to make another takes a tenth of a second."""

    def __init__(self, context_length: int) -> None:
        self.context_length = context_length

    def __call__(self, texts: str | list[str], context_length: int | None = None) -> Tensor:
        ids: Tensor = open_clip.tokenize(texts, context_length or self.context_length)
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        return str(open_clip.decode(torch.tensor(tokens)))


class PromptTokenizer:
    """Knows how a tokenizer frames a text, which it finds out by asking: start ids, end ids, padding.

    CLIP frames with one start and one end token; SigLIP has no start, and pads with its end token; open_clip's "clips"
    mode puts a class token in the very last place.
    """

    def __init__(self, tokenizer: Tokenizer, context_length: int) -> None:
        """Ask the tokenizer.

        Args:
            tokenizer: `tokenizer(texts, context_length=...)` gives ids (texts context_length), as open_clip's do.
            context_length: L, the positions of the text tower.
        """
        self.tokenizer = tokenizer
        self.context_length = context_length
        wide = tokenizer(["dog", "plane"], context_length=WIDE)[0].tolist()
        self.tail: list[int] = wide[-1:] if wide[-1] != wide[-2] else []
        self.pad: int = wide[-1 - len(self.tail)]
        self.start: list[int] = []
        self.end: list[int] = []
        one, other = self.encode(["dog", "plane"])
        self.start = _common(one, other)
        self.end = _common(one[::-1], other[::-1])[::-1]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, of any length, without padding, start and end.

        Args:
            texts: Any.

        Returns:
            A list for each text.
        """
        bodies = []
        for row in self.tokenizer(list(texts), context_length=WIDE).tolist():
            stop = WIDE - len(self.tail)
            while stop and row[stop - 1] == self.pad:
                stop -= 1
            bodies.append(row[len(self.start) : stop - len(self.end)])
        return bodies

    def word(self, token: int) -> str:
        """What a token stands for, often a piece of a word; control characters are spelt out.

        Args:
            token: Its id.

        Returns:
            Its text, without spaces around it.
        """
        tokenizer: Any = self.tokenizer  # open_clip's own, or one that holds Hugging Face's
        decode = tokenizer.decode if hasattr(tokenizer, "decode") else tokenizer.tokenizer.decode
        return "".join(x if x.isprintable() else ascii(x)[1:-1] for x in str(decode([token])).strip())

    def tokenize_names(self, names: Sequence[str], n_ctx: int, position: Position, words: str = "") -> ClassTokens:
        """ "<n_ctx places> words name." with the name at the end, in the middle or at the front, as in CoOp's
        `PromptLearner` (`trainers/coop.py`), whose class tokens are as many as the name has without its full stop.

        Args:
            names: Of C classes.
            n_ctx: M, the number of open places.
            position: Of the name among them.
            words: In front of each name.

        Returns:
            Ids (C L), and where the open places are (C M).

        Raises:
            BackboneError: Naming the class, when one doesn't fit.
        """
        rows, context_positions = [], []
        phrases = [f"{words} {name}" if words else name for name in names]
        bare, dotted = self.encode(phrases), self.encode([f"{phrase}." for phrase in phrases])
        for phrase, word, body in zip(phrases, bare, dotted, strict=True):
            before, split = {"end": (n_ctx, 0), "middle": (n_ctx // 2, len(word)), "front": (0, len(word))}[position]
            places = [-1] * n_ctx
            inner = places[:before] + body[:split] + places[before:] + body[split:]
            row = self.start + inner + (self.end or [self.pad])
            length = len(row) + len(self.tail)
            if length > self.context_length:
                raise BackboneError(
                    f"class {phrase!r} is {len(body)} tokens long; with {n_ctx} context tokens, start and end that makes "
                    f"{length}, and the text tower takes {self.context_length}",
                    "shorten the name, or use fewer context tokens",
                )
            rows.append(row + [self.pad] * (self.context_length - length) + self.tail)
            context_positions.append([i for i, token in enumerate(row) if token == -1])
        ids = torch.tensor(rows, dtype=torch.long).reshape(len(names), self.context_length)
        return ClassTokens(
            tuple(names), ids.clamp(min=0), torch.tensor(context_positions, dtype=torch.long).reshape(len(names), n_ctx)
        )

    def captions(self, texts: Sequence[str]) -> ClassTokens:
        """Plain texts without open places.

        Args:
            texts: N of them.

        Returns:
            Ids (N L).

        Raises:
            BackboneError: When one doesn't fit.
        """
        for text, body in zip(texts, self.encode(texts), strict=True):
            length = len(self.start) + len(body) + max(len(self.end), 1) + len(self.tail)
            if length > self.context_length:
                raise BackboneError(
                    f"caption {text!r} is {len(body)} tokens long; with start and end that makes {length}, and the text "
                    f"tower takes {self.context_length}",
                    "shorten the template or the name",
                )
        ids = self.tokenizer(list(texts), context_length=self.context_length)
        return ClassTokens(tuple(texts), ids, ids[:, :0])


def _common(one: list[int], other: list[int]) -> list[int]:
    """The ids that two texts begin with."""
    return [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]

"""Texts cut in columns and packed without padding: which token lies where, and how attention gets its rows back."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from promptkit.backbones.text_tower import TextTower

FEW_TOKENS = 64
"""Of a bucket: its operations take longer to call than to compute."""


@dataclass(frozen=True, eq=False)
class Bucket:
    """Texts of similar length that lie next to each other in a segment, and how attention pads them."""

    tokens: slice
    texts: slice
    shape: tuple[int, int]
    """Texts, longest length."""
    pad: Int[Tensor, " padded"] | None
    """Which token lies at each place, where some are padded."""
    unpad: Int[Tensor, " tokens"] | None
    causal: Bool[Tensor, "Lq Lk"]
    """True where a query may look."""
    until_last: Bool[Tensor, "texts 1 Lk"]
    """What the last token of each text may look at."""


@dataclass(frozen=True, eq=False)
class Segment:
    """Some columns of some texts, packed: S tokens, n of them context tokens."""

    ids: Int[Tensor, " S"]
    positions: Int[Tensor, " S"]
    context_positions: Int[Tensor, " n"]
    """Where in the segment the context tokens lie."""
    text: Int[Tensor, " S"]
    """Which text each token is of."""
    number: Int[Tensor, " n"]
    """Which of the M context tokens each one is."""
    last: Int[Tensor, " texts"]
    buckets: tuple[Bucket, ...]
    restore: Int[Tensor, " texts"]
    """Back from the order of the buckets to the order of the classes."""

    @staticmethod
    def of(words: Tensor, numbers: Tensor, begin: int, ends: Int[Tensor, " texts"], padded: bool = False) -> "Segment":
        """Columns `begin` up to, not including, `ends` of each row (on the CPU).

        `padded` makes fewer buckets: that is quicker where each operation has a price.
        """
        lengths = ends - begin
        if not padded:
            group = _alike(lengths)
        elif lengths.max() * len(lengths) > 4 * lengths.sum():
            group = lengths.log2().ceil().long()  # no text is padded to more than twice its length
        else:
            group = torch.zeros_like(lengths)
        order = group.argsort(stable=True)
        lengths, group = lengths[order], group[order]
        starts = lengths.cumsum(0) - lengths
        rank = torch.arange(len(order)).repeat_interleave(lengths)
        offset = torch.arange(len(rank)) - starts[rank]
        column, text = begin + offset, order[rank]
        context_positions = (numbers[text, column] >= 0).nonzero()[:, 0]
        buckets = []
        for g in sorted(set(group.tolist())):
            members = (group == g).nonzero()[:, 0]
            first, n, longest = int(members[0]), len(members), int(lengths[members].max())
            begin_token = int(starts[first])
            tokens = slice(begin_token, begin_token + int(lengths[members].sum()))
            inside = torch.arange(longest).minimum(lengths[members, None] - 1)
            even = int(lengths[members].min()) == longest
            buckets.append(
                Bucket(
                    tokens=tokens,
                    texts=slice(first, first + n),
                    shape=(n, longest),
                    pad=None if even else (starts[members, None] - begin_token + inside).flatten(),
                    unpad=None if even else (rank[tokens] - first) * longest + offset[tokens],
                    causal=torch.ones(longest, longest, dtype=torch.bool).tril(),
                    until_last=(torch.arange(longest) < lengths[members, None])[:, None],
                )
            )
        return Segment(
            ids=words[text, column].clamp(min=0),
            positions=column,
            context_positions=context_positions,
            text=text,
            number=numbers[text, column][context_positions],
            last=starts + lengths - 1,
            buckets=tuple(buckets),
            restore=order.argsort(),
        )

    def to(self, device: torch.device) -> "Segment":
        moved: Segment = _move(self, device)
        return moved

    def embed(self, tower: TextTower, context: Float[Tensor, "R #C M W"]) -> Float[Tensor, "#R S W"]:
        """The input of block 0. A segment without context tokens has one row only."""
        positions: Tensor = tower.source.positional_embedding[self.positions]
        x: Tensor = tower.embed(self.ids)[None] + positions.to(tower.source.transformer.get_cast_dtype())
        if not len(self.context_positions):
            return x
        tokens = self.pick(context)
        return x.expand(len(context), -1, -1).index_copy(
            1, self.context_positions, tokens.to(x.dtype) + positions[self.context_positions].to(x.dtype)
        )

    def pick(self, context: Float[Tensor, "R #C M W"]) -> Float[Tensor, "R n W"]:
        """The context tokens that lie here."""
        text = self.text[self.context_positions] if context.shape[1] > 1 else 0
        return context.flatten(1, 2).index_select(1, text * context.shape[2] + self.number)

    def replace(self, x: Float[Tensor, "#R S W"], context: Float[Tensor, "#C M W"]) -> Float[Tensor, "#R S W"]:
        """Other context tokens in place of those that lie here, the same in all rows."""
        if not len(self.context_positions):
            return x
        tokens = self.pick(context[None]).to(x.dtype)
        return x.index_copy(1, self.context_positions, tokens.expand(len(x), -1, -1))

    def gather(self, x: Float[Tensor, "C L W"]) -> Float[Tensor, "1 S W"]:
        """Its tokens from all positions of all texts."""
        return x[self.text, self.positions][None]


def _alike(lengths: Int[Tensor, " texts"]) -> Int[Tensor, " texts"]:
    """A bucket for each length, or for a few that have too few tokens alone; none is padded to more than twice its length."""
    counts = lengths.bincount().tolist()
    group, tokens, shortest = [0] * len(counts), 0, 0
    for length, texts in enumerate(counts):
        if tokens >= FEW_TOKENS or length > 2 * shortest:
            tokens, shortest = 0, length
        group[length] = shortest
        tokens += length * texts
    return torch.tensor(group)[lengths]


def _move(value: Any, device: torch.device) -> Any:
    """A layout's dataclasses on another device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_move(item, device) for item in value)
    if isinstance(value, Bucket | Segment):
        return type(value)(**{name: _move(item, device) for name, item in vars(value).items()})
    return value

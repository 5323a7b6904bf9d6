"""Causal attention over a packed segment, after a prefix that its texts have in common."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from promptkit.backbones.segments import Bucket, Segment

Keys = tuple[Tensor, Tensor]
"""Keys and values of a prefix, (#R H P d) each."""
Queries = Literal["all", "last"]
"""Which tokens ask: all, or those that see what the last of each text sees, as many for each (at least itself)."""


def attend(
    q: Float[Tensor, "#R queries H d"],
    k: Float[Tensor, "#R S H d"],
    v: Float[Tensor, "#R S H d"],
    segment: Segment,
    prefix: Keys | None,
    queries: Queries = "all",
) -> Float[Tensor, "R queries H d"]:
    attended = [_attend(q, k, v, segment, bucket, prefix, queries) for bucket in segment.buckets]
    return attended[0] if len(attended) == 1 else torch.cat(attended, dim=1)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, segment: Segment, bucket: Bucket, prefix: Keys | None, queries: Queries
) -> Float[Tensor, "R tokens H d"]:
    """Attention of one bucket's queries to the prefix and, causally, to their own text.

    The prefix is not repeated for each text: its scores are one product over the queries of all texts.
    """
    if queries == "all":
        q, visible = _padded(q, bucket), bucket.causal
    else:
        each = torch.unflatten(q, 1, (len(segment.last), -1))[:, bucket.texts]
        q, visible = each.permute(0, 3, 1, 2, 4), bucket.until_last
    k, v = _padded(k, bucket), _padded(v, bucket)
    q = q * q.shape[-1] ** -0.5
    scores = (q @ k.transpose(-1, -2)).masked_fill(~visible, -torch.inf)
    if prefix is None:
        out = scores.softmax(-1) @ v
    else:
        prefix_keys, prefix_values = prefix
        split = prefix_keys.shape[2]
        ahead = torch.unflatten(q.flatten(2, 3) @ prefix_keys.transpose(-1, -2), 2, q.shape[2:4])
        scores = scores.expand(len(ahead), *scores.shape[1:])
        weights = torch.cat([ahead, scores], dim=-1).softmax(-1).to(v.dtype)
        out = weights[..., split:] @ v
        out = out + torch.unflatten(weights[..., :split].flatten(2, 3) @ prefix_values, 2, q.shape[2:4])
    out = out.permute(0, 2, 3, 1, 4).flatten(1, 2)
    return out.index_select(1, bucket.unpad) if queries == "all" else out


def _padded(t: Tensor, bucket: Bucket) -> Float[Tensor, "#R H texts L d"]:
    picked = t[:, bucket.tokens].index_select(1, bucket.pad)
    return torch.unflatten(picked, 1, bucket.shape).permute(0, 3, 1, 2, 4)

"""Causal attention over a packed segment, after a prefix that its texts have in common."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from promptkit.backbones.segments import Bucket, Segment

aten: Any = torch.ops.aten

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
    return _unpadded(out, bucket) if queries == "all" else out.permute(0, 2, 3, 1, 4).flatten(1, 2)


def attend_forward(qkv: Float[Tensor, "#R S 3 H d"], segment: Segment, prefix: Keys | None) -> Float[Tensor, "R S H d"]:
    """What `attend` gives when all tokens ask. Its gradients are those of `attend_backward`."""
    rows, keys, values = _spread(qkv, prefix)
    out = qkv.new_empty(rows, *qkv[:, :, 0].shape[1:])
    for bucket in segment.buckets:
        q, k, v = _texts(qkv, bucket, rows)
        ahead, own = _parted(_weights(q, k, keys, bucket), keys, bucket)
        out[:, bucket.tokens] = _packed(torch.baddbmm(_joined(own @ v, bucket), ahead, values), bucket, rows)
    return out


def attend_backward(
    grad: Float[Tensor, "R S H d"], qkv: Float[Tensor, "#R S 3 H d"], segment: Segment, prefix: Keys | None
) -> tuple[Float[Tensor, "R S 3 H d"], Float[Tensor, "R H P d"], Float[Tensor, "R H P d"]]:
    """Gradients of queries, keys and values, and of those of the prefix. Weights are quicker computed again than kept."""
    rows, keys, values = _spread(qkv, prefix)
    scale = qkv.shape[-1] ** -0.5
    grad_qkv = qkv.new_empty(rows, *qkv.shape[1:])
    grad_keys, grad_values = torch.zeros_like(keys), torch.zeros_like(values)
    for bucket in segment.buckets:
        q, k, v = _texts(qkv, bucket, rows)
        weights = _weights(q, k, keys, bucket)
        ahead, own = _parted(weights, keys, bucket)
        (g,) = _texts(grad[:, :, None], bucket, rows)
        if bucket.pad is not None:
            g = g * bucket.until_last.mT.repeat(len(g) // bucket.shape[0], 1, 1)  # what pads have said is not read
        joined = _joined(g, bucket)
        grads = torch.cat([_apart(joined @ values.mT, bucket), g @ v.mT], dim=-1)
        scores = aten._softmax_backward_data(grads, weights, -1, grads.dtype) * scale
        from_ahead, from_own = _parted(scores, keys, bucket)
        grad_keys.baddbmm_(from_ahead.mT, _joined(q, bucket))
        grad_values.baddbmm_(ahead.mT, joined)
        grad_q = torch.baddbmm(_joined(from_own @ k, bucket), from_ahead, keys)
        for j, part in enumerate((grad_q, from_own.mT @ q, own.mT @ g)):
            grad_qkv[:, bucket.tokens, j] = _packed(part, bucket, rows)
    return grad_qkv, torch.unflatten(grad_keys, 0, (rows, -1)), torch.unflatten(grad_values, 0, (rows, -1))


def _spread(qkv: Tensor, prefix: Keys | None) -> tuple[int, Float[Tensor, "RH P d"], Float[Tensor, "RH P d"]]:
    """How many rows there are, and the keys and values of the prefix for every row and head."""
    if prefix is None:
        nothing = qkv.new_empty(len(qkv) * qkv.shape[3], 0, qkv.shape[4])
        return len(qkv), nothing, nothing
    rows = max(len(qkv), len(prefix[0]))
    keys, values = (t.expand(rows, -1, -1, -1).flatten(0, 1) for t in prefix)
    return rows, keys, values


def _texts(parts: Float[Tensor, "#R S n H d"], bucket: Bucket, rows: int) -> list[Float[Tensor, "RHtexts L d"]]:
    """Each part, text after text, for every row and head."""
    return [_padded(part, bucket).expand(rows, -1, -1, -1, -1).flatten(0, 2) for part in parts.unbind(2)]


def _weights(q: Tensor, k: Tensor, keys: Tensor, bucket: Bucket) -> Float[Tensor, "RHtexts L PplusL"]:
    """What each token gives the prefix, and the tokens of its own text."""
    scale = q.shape[-1] ** -0.5
    hidden = q.new_zeros(bucket.causal.shape).masked_fill_(~bucket.causal, -torch.inf)
    ahead = _apart(_joined(q, bucket) @ (keys * scale).mT, bucket)
    return torch.cat([ahead, torch.baddbmm(hidden, q, k.mT, alpha=scale)], dim=-1).softmax(-1)


def _parted(
    t: Float[Tensor, "RHtexts L PplusL"], keys: Float[Tensor, "RH P d"], bucket: Bucket
) -> tuple[Float[Tensor, "RH textsL P"], Float[Tensor, "RHtexts L L"]]:
    """What is of the prefix, and what of a text's own tokens."""
    return _joined(t[..., : keys.shape[1]], bucket), t[..., keys.shape[1] :]


def _joined(t: Float[Tensor, "RHtexts L n"], bucket: Bucket) -> Float[Tensor, "RH textsL n"]:
    """All texts as one, to meet the prefix that they have in common."""
    return torch.unflatten(t, 0, (-1, bucket.shape[0])).flatten(1, 2)


def _apart(t: Float[Tensor, "RH textsL n"], bucket: Bucket) -> Float[Tensor, "RHtexts L n"]:
    return torch.unflatten(t, 1, bucket.shape).flatten(0, 1)


def _packed(t: Tensor, bucket: Bucket, rows: int) -> Float[Tensor, "R tokens H d"]:
    """Back to the order of the segment, without pads."""
    return _unpadded(t.view(rows, -1, *bucket.shape, t.shape[-1]), bucket)


def _padded(t: Float[Tensor, "#R S H d"], bucket: Bucket) -> Float[Tensor, "#R H texts L d"]:
    picked = t[:, bucket.tokens]
    if bucket.pad is not None:
        picked = picked.index_select(1, bucket.pad)
    return torch.unflatten(picked, 1, bucket.shape).permute(0, 3, 1, 2, 4)


def _unpadded(t: Float[Tensor, "R H texts L d"], bucket: Bucket) -> Float[Tensor, "R tokens H d"]:
    tokens = t.permute(0, 2, 3, 1, 4).flatten(1, 2)
    return tokens if bucket.unpad is None else tokens.index_select(1, bucket.unpad)

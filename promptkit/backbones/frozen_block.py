"""A block of a frozen text tower that keeps, for the backward pass, what the gradients of its inputs need and no more.

Autograd keeps about 19 widths a token with QuickGELU: what each small operation may need. Gradients of inputs need 9: input,
queries, keys and values, what goes into the second norm, and into the activation; all else follows from them at little
cost. The input alone will do where memory is short: then all of the block but its last linear map is computed again.
"""

from typing import Any

import torch
from jaxtyping import Float
from open_clip.transformer import LayerNorm, QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from promptkit.backbones.arena import Arena
from promptkit.backbones.attention import Keys, attend_backward, attend_forward
from promptkit.backbones.segments import Segment

aten: Any = torch.ops.aten
ACTIVATIONS: dict[type[nn.Module], tuple[float, Any, Any]] = {
    nn.GELU: (1.0, aten.gelu.out, aten.gelu_backward.grad_input),
    QuickGELU: (1.702, aten.silu.out, aten.silu_backward.grad_input),
}
"""With (a, f, g): the activation of x is f(a x) / a, and g the gradient of f."""


def is_frozen(block: Any) -> bool:
    """Whether `frozen_block` computes what the block does: open_clip's plain block, nothing in it learned or hooked."""
    parts = {
        "ln_1": LayerNorm,
        "ln_2": LayerNorm,
        "attn": nn.MultiheadAttention,
        "ls_1": nn.Identity,
        "ls_2": nn.Identity,
    }
    return (
        type(block) is ResidualAttentionBlock
        and all(type(getattr(block, name)) is kind for name, kind in parts.items())
        and [type(part) for part in block.mlp[::2]] == [nn.Linear, nn.Linear]
        and type(block.mlp.gelu) in ACTIVATIONS
        and getattr(block.mlp.gelu, "approximate", "none") == "none"
        and not any(parameter.requires_grad for parameter in block.parameters())
        and not any(part._forward_hooks or part._forward_pre_hooks for part in block.modules())
        and not torch.is_autocast_enabled(block.ln_1.weight.device.type)
    )


def kept_bytes(block: Any, tokens: int, recompute: bool, dtype: torch.dtype) -> int:
    """What a block keeps, its input not counted but its output."""
    hidden, width = block.mlp.c_fc.weight.shape
    kept: int = width if recompute else 5 * width + hidden
    return tokens * dtype.itemsize * kept


def frozen_block(
    block: Any, x: Float[Tensor, "#R S W"], segment: Segment, prefix: Keys | None, recompute: bool, arena: Arena | None
) -> tuple[Float[Tensor, "R S W"], Keys]:
    """The new tokens, and the keys and values of the segment (R H S d).

    `recompute` keeps the input alone. What is kept lies in the arena, if there is one. First-order gradients only, to the
    tokens and the prefix.
    """
    out, k, v = _FrozenBlock.apply(x, *(prefix or (None, None)), block, segment, recompute, arena)
    return out, (k.transpose(1, 2), v.transpose(1, 2))


class _FrozenBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        prefix_keys: Tensor | None,
        prefix_values: Tensor | None,
        block: Any,
        segment: Segment,
        recompute: bool,
        arena: Arena | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        prefix = None if prefix_keys is None or prefix_values is None else (prefix_keys, prefix_values)
        scale, activate, _ = ACTIVATIONS[type(block.mlp.gelu)]
        qkv, middle, hidden = kept = _to_activation(block, x, segment, prefix, None if recompute else arena)
        project = block.mlp.c_proj
        active = activate(hidden, out=hidden if recompute else torch.empty_like(hidden))
        out = _map(active, project.weight, project.bias, arena, alpha=1 / scale).view_as(middle).add_(middle)
        ctx.block, ctx.segment = block, segment
        ctx.save_for_backward(x, prefix_keys, prefix_values, *(() if recompute else kept))
        ctx.set_materialize_grads(False)
        _, k, v = _heads(block, qkv).unbind(2)
        return out, k, v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_k: Tensor | None, grad_v: Tensor | None) -> Any:
        x, prefix_keys, prefix_values, *kept = ctx.saved_tensors
        block, segment = ctx.block, ctx.segment
        prefix = None if prefix_keys is None else (prefix_keys, prefix_values)
        qkv, middle, hidden = kept or _to_activation(block, x, segment, prefix)
        del kept
        heads = _heads(block, qkv)
        grad_prefix: tuple[Tensor | None, ...] = None, None
        if grad is None:
            grad_qkv = torch.zeros_like(heads)
        else:
            grad = _through_mlp(block, grad, middle, hidden)
            attended = (grad @ block.attn.out_proj.weight).view(*grad.shape[:2], *heads.shape[3:])
            grad_qkv, *found = attend_backward(attended, heads, segment, prefix)
            if prefix is not None and ctx.needs_input_grad[1]:
                grad_prefix = tuple(g.sum_to_size(t.shape) for g, t in zip(found, prefix, strict=True))
        if not ctx.needs_input_grad[0]:
            return None, *grad_prefix, None, None, None, None
        grad_qkv = grad_qkv.sum_to_size(heads.shape)
        for j, of_keys in (1, grad_k), (2, grad_v):
            if of_keys is not None:
                grad_qkv[:, :, j] += of_keys
        grad_x = _norm_backward(block.ln_1, grad_qkv.flatten(2) @ block.attn.in_proj_weight, x)
        if grad is not None:
            grad_x += grad.sum_to_size(x.shape)
        return grad_x, *grad_prefix, None, None, None, None


def _heads(block: Any, qkv: Float[Tensor, "#R S threeW"]) -> Float[Tensor, "#R S 3 H d"]:
    return torch.unflatten(qkv, -1, (3, block.attn.num_heads, -1))


def _to_activation(
    block: Any, x: Tensor, segment: Segment, prefix: Keys | None, arena: Arena | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, the tokens between the two halves, and what goes into the activation, (tokens 4W)."""
    attn, project, expand = block.attn, block.attn.out_proj, block.mlp.c_fc
    scale = ACTIVATIONS[type(block.mlp.gelu)][0]
    qkv = _map(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias, arena)
    attended = attend_forward(_heads(block, qkv), segment, prefix).flatten(2)
    middle = _map(attended, project.weight, project.bias, arena).add_(x)
    hidden = _map(block.ln_2(middle).flatten(0, 1), expand.weight, expand.bias, arena, beta=scale, alpha=scale)
    return qkv, middle, hidden


def _map(
    x: Float[Tensor, "... I"], weight: Tensor, bias: Tensor, arena: Arena | None, **scales: float
) -> Float[Tensor, "... O"]:
    """`alpha` times the linear map of x, and `beta` times its bias, in the arena if there is one."""
    tokens = x.flatten(0, -2)
    out = None if arena is None else arena.empty(len(tokens), len(bias), dtype=x.dtype)
    return torch.addmm(bias, tokens, weight.T, out=out, **scales).view(*x.shape[:-1], -1)


def _through_mlp(block: Any, grad: Tensor, middle: Tensor, hidden: Tensor) -> Tensor:
    """Gradient of the tokens between the two halves. The scale of the activation cancels."""
    backward = ACTIVATIONS[type(block.mlp.gelu)][2]
    inner = grad.flatten(0, 1) @ block.mlp.c_proj.weight
    inner = backward(inner, hidden, grad_input=inner) @ block.mlp.c_fc.weight
    return _norm_backward(block.ln_2, inner.view_as(middle), middle).add_(grad)


def _norm_backward(norm: Any, grad: Tensor, x: Tensor) -> Tensor:
    _, mean, deviation = torch.native_layer_norm(x, norm.normalized_shape, None, None, norm.eps)
    found: Tensor = aten.native_layer_norm_backward(
        grad, x, norm.normalized_shape, mean, deviation, norm.weight, norm.bias, [True, False, False]
    )[0]
    return found

"""Causal attention by blocks of queries, for CPUs: what lies above the diagonal is left out a block at a time.

Heads that share keys are one product. The probabilities are kept, so that going back takes four products a block and no
exponentials:  dV = Pᵀ g;  dS = P (g Vᵀ - sum(g y));  dQ = dS K;  dK = dSᵀ Q.

1. Dao et al. 2022, FlashAttention, arXiv 2205.14135 (the gradient by blocks; it recomputes P).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

# Queries a block: small enough that little above the diagonal is computed, and that its scores stay in the cache.
QUERIES_A_BLOCK = 64


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads, (T, D) = q.shape[:2], q.shape[2:]
        q = (q * D**-0.5).reshape(k.shape[0] * k.shape[1], -1, T, D)
        k, v = k.flatten(0, 1), v.flatten(0, 1)
        y, kept = q.new_empty(*q.shape[:3], v.shape[2]), []
        for start, stop, seen in _blocks(T, k.shape[1]):
            scores = torch.bmm(q[:, :, start:stop].flatten(1, 2), k[:, :seen].mT)
            later = torch.ones(stop - start, stop - start, dtype=torch.bool, device=q.device).triu_(1)
            scores.unflatten(1, (-1, stop - start))[..., start - stop :].masked_fill_(later, -torch.inf)
            p = scores.softmax(-1)
            y[:, :, start:stop] = torch.bmm(p, v[:, :seen]).unflatten(1, (-1, stop - start))
            kept.append(p)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(q, k, v, y, *kept)
        return y.view(*heads, T, -1)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, y, *kept = ctx.saved_tensors
        (B, H, T, _), scale = g.shape, q.shape[3] ** -0.5
        g = g.reshape(y.shape)
        along = (g * y).sum(-1, keepdim=True)
        d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for p, (start, stop, seen) in zip(kept, _blocks(T, k.shape[1]), strict=True):
            g_block, q_block, sums = (part[:, :, start:stop].flatten(1, 2) for part in (g, q, along))
            d_v[:, :seen].baddbmm_(p.mT, g_block)
            d_scores = torch.bmm(g_block, v[:, :seen].mT).sub_(sums).mul_(p)
            d_q[:, :, start:stop] = torch.bmm(d_scores, k[:, :seen]).unflatten(1, (-1, stop - start))
            d_k[:, :seen].baddbmm_(d_scores.mT, q_block)
        d_k, d_v = (part.unflatten(0, (B, -1)) for part in (d_k, d_v))
        return d_q.mul_(scale).view(B, H, T, -1), d_k, d_v


def _blocks(num_queries: int, num_keys: int) -> Iterator[tuple[int, int, int]]:
    """The first query of each block, the one behind its last, and how many keys that last one sees."""
    for start in range(0, num_queries, QUERIES_A_BLOCK):
        stop = min(start + QUERIES_A_BLOCK, num_queries)
        yield start, stop, num_keys - num_queries + stop


def blocked_attention(
    q: Tensor,  # [B, H, T, D]
    k: Tensor,  # [B, Hkv, S, D], Hkv a divisor of H, S >= T: the T newest positions are the queries' own
    v: Tensor,  # [B, Hkv, S, Dv]
) -> Tensor:  # [B, H, T, Dv]
    """Softmax attention in which query t sees keys up to its own position. Its twin is `causal_attention`."""
    return _BlockedAttention.apply(q, k, v)

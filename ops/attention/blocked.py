"""Causal attention by blocks of queries, for CPUs: what lies above the diagonal is left out a block at a time.

Heads that share keys are one product. The probabilities are kept, so that going back takes four products a block and no
exponentials:  dV = Pᵀ g;  dS = P (g Vᵀ - sum(g y));  dQ = dS K;  dK = dSᵀ Q.

1. Dao et al. 2022, FlashAttention, arXiv 2205.14135 (the gradient by blocks; it recomputes P).
"""

import torch
from torch import Tensor

# Queries a block: small enough that little above the diagonal is computed, and that its scores stay in the cache.
QUERIES_A_BLOCK = 64


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape, (T, D) = q.shape, q.shape[2:]
        q = (q * D**-0.5).reshape(k.shape[0] * k.shape[1], -1, T, D)
        k, v = k.flatten(0, 1), v.flatten(0, 1)
        y, kept = torch.empty_like(q), []
        for start, stop in _blocks(T):
            scores = torch.bmm(q[:, :, start:stop].flatten(1, 2), k[:, :stop].mT)
            later = torch.ones(stop - start, stop - start, dtype=torch.bool, device=q.device).triu_(1)
            scores.unflatten(1, (-1, stop - start))[..., start:].masked_fill_(later, -torch.inf)
            p = scores.softmax(-1)
            y[:, :, start:stop] = torch.bmm(p, v[:, :stop]).unflatten(1, (-1, stop - start))
            kept.append(p)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(q, k, v, y, *kept)
        return y.view(shape)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, y, *kept = ctx.saved_tensors
        shape, T, scale = g.shape, g.shape[2], g.shape[3] ** -0.5
        g = g.reshape(q.shape)
        along = (g * y).sum(-1, keepdim=True)
        d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for p, (start, stop) in zip(kept, _blocks(T), strict=True):
            g_block, q_block, sums = (part[:, :, start:stop].flatten(1, 2) for part in (g, q, along))
            d_v[:, :stop].baddbmm_(p.mT, g_block)
            d_scores = torch.bmm(g_block, v[:, :stop].mT).sub_(sums).mul_(p)
            d_q[:, :, start:stop] = torch.bmm(d_scores, k[:, :stop]).unflatten(1, (-1, stop - start))
            d_k[:, :stop].baddbmm_(d_scores.mT, q_block)
        d_k, d_v = (part.unflatten(0, (shape[0], -1)) for part in (d_k, d_v))
        return d_q.mul_(scale).view(shape), d_k, d_v


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + QUERIES_A_BLOCK, length)) for start in range(0, length, QUERIES_A_BLOCK)]


def blocked_attention(
    q: Tensor,  # [B, H, T, D]
    k: Tensor,  # [B, Hkv, T, D], Hkv a divisor of H
    v: Tensor,  # [B, Hkv, T, D]
) -> Tensor:  # [B, H, T, D]
    """Softmax attention in which query t sees keys up to its own position. Its twin is torch's, with `is_causal`."""
    return _BlockedAttention.apply(q, k, v)

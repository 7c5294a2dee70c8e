"""The delta rule over a span of chunks: a few batched matrix products, and two small ones a chunk for the state.

For a chunk with the entering state S and the factors of decays.py (Γ read, Γ' recall, γ entering a read, γ' entering a
recall, λ leaving, τ through), the values that are written, less what is recalled and times beta, solve

    (I + A) N = beta (V - γ' K S),   A = strictLower(beta Γ' KKᵀ)

With T = (I + A)^-1, chunk after chunk,

    N  = T beta V + W S,   W = -T beta γ' K
    S' = τ S + (λK)ᵀ N

and then for all chunks at once

    O  = scale (γ Q S + P N),   P = Γ QKᵀ

1. Yang et al. 2024, arXiv 2406.06484.  2. Yang et al. 2025, arXiv 2412.06464.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ops.delta_rule.decays import Decays


class Span(NamedTuple):
    """n chunks of C tokens of each of `rows` = batch x heads, all in the state's dtype; chunk by chunk, rows within."""

    q: Tensor  # [n * rows, C, Dk]
    k: Tensor  # [n * rows, C, Dk]
    v: Tensor  # [n * rows, C, Dv]
    beta: Tensor  # [n * rows, C, 1]
    decays: Decays
    scale: float


class Recurrence(NamedTuple):
    """What a span's chunks do to the state, and what the state went through."""

    P: Tensor  # [n * rows, C, C]
    W: Tensor  # [n * rows, C, Dk]
    N: Tensor  # [n * rows, C, Dv], what is written
    k_leaving: Tensor  # [n * rows, C, Dk]
    states: Tensor  # [n + 1, rows, Dk, Dv], before the first chunk and after each


def span_inverse(x: Span) -> Tensor:  # [n * rows, C, C]
    """T = (I + A)^-1 by substitution: products of powers of A lose every digit where keys resemble one another."""
    A = torch.bmm(x.k, x.k.mT).mul_(x.decays.recall).mul_(x.beta)
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    # Reads nothing on or above the diagonal of A.
    return torch.linalg.solve_triangular(A, eye.expand_as(A), upper=False, unitriangular=True)


def span_recurrence(
    x: Span,
    T: Tensor,  # [n * rows, C, C]
    S: Tensor,  # [rows, Dk, Dv], what enters the span
) -> Recurrence:
    """What every token writes and the states between the chunks: two products a chunk in sequence."""
    rows = len(S)
    N = torch.bmm(T, x.v * x.beta)
    W = torch.bmm(T, x.k * (x.decays.entering_recall * -x.beta))
    k_leaving = x.k * x.decays.leaving
    states = S.new_empty(len(N) // rows + 1, *S.shape)
    states[0] = S
    factors = (part.split(rows) for part in (N, W, k_leaving.mT, x.decays.through[..., None]))
    for before, after, values, recall, keys, fading in zip(states[:-1], states[1:], *factors, strict=True):
        values.baddbmm_(recall, before)
        torch.mul(before, fading, out=after).baddbmm_(keys, values)
    P = torch.bmm(x.q, x.k.mT).mul_(x.decays.read)
    return Recurrence(P, W, N, k_leaving, states)


def span_output(x: Span, r: Recurrence) -> Tensor:  # [n * rows, C, Dv]
    """What every token reads."""
    out = torch.bmm(x.q * x.decays.entering_read, r.states[:-1].flatten(0, 1))
    return out.baddbmm_(r.P, r.N, beta=x.scale, alpha=x.scale)

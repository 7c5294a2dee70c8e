"""The delta rule over a span of chunks: a few batched matrix products, and one small product a chunk for the state.

For a chunk with the entering state S and the factors of decays.py (Γ read, Γ' recall, γ entering a read, γ' entering a
recall, λ leaving, τ through), the values that are written, less what is recalled and times beta, solve

    (I + A) N = beta (V - γ' K S),   A = strictLower(beta Γ' KKᵀ)

With T = (I + A)^-1 they are N = U + W S, U = T beta V, W = -T beta γ' K, so that everything is linear in S:

    O  = scale (γ Q S + P N),   P = Γ QKᵀ
    S' = M S + (λK)ᵀ U,         M = τ I + (λK)ᵀ W

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
    M: Tensor  # [n * rows, Dk, Dk]
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
    """The states between the chunks, one product each, and with them what every token writes."""
    U = torch.bmm(T, x.v * x.beta)
    W = torch.bmm(T, x.k * (x.decays.entering_recall * -x.beta))
    k_leaving = x.k * x.decays.leaving
    M = torch.bmm(k_leaving.mT, W)
    M.diagonal(dim1=1, dim2=2).add_(x.decays.through)
    steps = M.unflatten(0, (-1, len(S)))
    states = S.new_empty(len(steps) + 1, *S.shape)
    states[0] = S
    torch.bmm(k_leaving.mT, U, out=states[1:].flatten(0, 1))
    for before, after, step in zip(states[:-1].unbind(), states[1:].unbind(), steps.unbind(), strict=True):
        after.baddbmm_(step, before)
    N = U.baddbmm_(W, states[:-1].flatten(0, 1))
    P = torch.bmm(x.q, x.k.mT).mul_(x.decays.read)
    return Recurrence(P, W, M, N, k_leaving, states)


def span_output(x: Span, r: Recurrence) -> Tensor:  # [n * rows, C, Dv]
    """What every token reads."""
    out = torch.bmm(x.q * x.decays.entering_read, r.states[:-1].flatten(0, 1))
    return out.baddbmm_(r.P, r.N, beta=x.scale, alpha=x.scale)

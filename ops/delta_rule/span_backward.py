"""The gradients of a span of chunks, in the symbols of span.py.

From dO and the gradient dS' of the state after a chunk, chunk by chunk from the last,

    dN = scale Pᵀ dO + λK dS'
    dS = τ dS' + scale (γ Q)ᵀ dO + Wᵀ dN

and then for all chunks at once

    X  = Tᵀ dN               the adjoint of (I + A) N = ..., so that dA = -strictLower(X Nᵀ)
    dV = beta X

A decay multiplies what a row of q or k reads and divides what a row of k writes, so that no gradient of a Γ is needed:
the gradient of g_i is q·dq + (k·dk as a reader) - (k·dk as a writer), and of a chunk's last g also S'·dS'. These terms
cancel where nearly everything is forgotten at once: an absolute error of rounding is left.

1. Yang et al. 2024, arXiv 2406.06484.  2. Giles 2008, the adjoint of a linear solution.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ops.delta_rule.span import Recurrence, Span, span_recurrence


class SpanGradients(NamedTuple):
    """Of what entered, in its shapes; `a` of the log decays."""

    q: Tensor  # [n * rows, C, Dk]
    k: Tensor  # [n * rows, C, Dk]
    v: Tensor  # [n * rows, C, Dv]
    beta: Tensor  # [n * rows, C, 1]
    a: Tensor  # [n * rows, C, 1]
    state: Tensor  # [rows, Dk, Dv]


def span_backward(
    x: Span,
    T: Tensor,  # [n * rows, C, C]
    S: Tensor,  # [rows, Dk, Dv], what entered the span
    d_out: Tensor,  # [n * rows, C, Dv]
    d_state: Tensor,  # [rows, Dk, Dv], of the state after the span
    predict_from: str,
) -> SpanGradients:
    """The gradients of a span from its inputs and T; states and written values are computed again."""
    r, decays = span_recurrence(x, T, S), x.decays
    entering = r.states[:-1].flatten(0, 1)
    d_N, d_states = _in_sequence(x, r, d_out, d_state)
    leaving = d_states[1:].flatten(0, 1)
    X = torch.bmm(T.mT, d_N)
    d_scores = torch.bmm(d_out, r.N.mT).mul_(decays.read)
    d_q = torch.bmm(d_out, entering.mT).mul_(decays.entering_read)
    d_q.baddbmm_(d_scores, x.k, beta=x.scale, alpha=x.scale)
    # -dA Γ': the gradient of KKᵀ but for beta and the sign. A has no diagonal.
    d_gram = torch.bmm(X, r.N.mT).mul_(decays.recall)
    d_gram.diagonal(dim1=1, dim2=2).zero_()
    # Before beta, which multiplies the rows of A and of what is recalled alike.
    reading = torch.bmm(X, entering.mT).mul_(decays.entering_recall).baddbmm_(d_gram, x.k, beta=-1, alpha=-1)
    writing = torch.bmm(r.N, leaving.mT).mul_(decays.leaving).baddbmm_(d_scores.mT, x.q, alpha=x.scale)
    writing.baddbmm_(d_gram.mul_(x.beta).mT, x.k, alpha=-1)
    read = _row_dot(x.k, reading)
    d_g = _row_dot(x.q, d_q) - _row_dot(x.k, writing)
    d_g[:, -1] += (r.states[1:] * d_states[1:]).sum((-2, -1)).view(-1, 1)
    return SpanGradients(
        q=d_q,
        k=writing.addcmul_(reading, x.beta),
        v=X * x.beta,
        beta=_row_dot(X, x.v) + read,
        a=_log_decay_gradient(d_g, read * x.beta, predict_from),
        state=d_states[0],
    )


def _in_sequence(
    x: Span,
    r: Recurrence,
    d_out: Tensor,  # [n * rows, C, Dv]
    d_state: Tensor,  # [rows, Dk, Dv]
) -> tuple[Tensor, Tensor]:  # [n * rows, C, Dv], [n + 1, rows, Dk, Dv]
    """The gradients of what every token writes, and of the state before the first chunk and after each."""
    rows = len(d_state)
    d_N = torch.bmm(r.P.mT, d_out).mul_(x.scale)
    d_states = torch.empty_like(r.states)
    d_states[-1] = d_state
    q_entering = x.q * (x.decays.entering_read * x.scale)
    torch.bmm(q_entering.mT, d_out, out=d_states[:-1].flatten(0, 1))
    factors = (part.split(rows) for part in (d_N, r.W.mT, r.k_leaving, x.decays.through[..., None]))
    turns = zip(d_states[:-1], d_states[1:], *factors, strict=True)
    for before, after, d_values, recall, keys, fading in reversed(tuple(turns)):
        d_values.baddbmm_(keys, after)
        before.addcmul_(after, fading).baddbmm_(recall, d_values)
    return d_N, d_states


def _log_decay_gradient(
    d_g: Tensor,  # [n, C, 1], of the sums that include a token's own decay
    d_recalled: Tensor,  # [n, C, 1], of the sum at which the token recalls
    predict_from: str,
) -> Tensor:  # [n, C, 1]
    """The gradient of each log decay: a reverse sum over the chunk. Imli recalls one decay earlier."""
    if predict_from == "decayed":
        d_g += d_recalled
    else:
        d_g[:, :-1] += d_recalled[:, 1:]
    return d_g.flip(1).cumsum(1).flip(1)


def _row_dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True)

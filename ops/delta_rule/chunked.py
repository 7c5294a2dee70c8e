"""The delta rule a chunk of tokens at a time: matrix products instead of a loop over tokens, and a backward of its own.

Kept for the backward are the inputs, each chunk's inverse T (span.py) and the state before each span, nothing else. A
span is some hundred tokens on a CPU, so that the time a token and the memory of intermediate results do not grow with
the length; elsewhere it is the whole length. Document starts are exact anywhere.

1. Yang et al. 2024, Parallelizing Linear Transformers with the Delta Rule over Sequence Length, arXiv 2406.06484.
2. Yang et al. 2025, Gated Delta Networks, arXiv 2412.06464.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ops.delta_rule.arguments import check_delta_rule, state_dtype
from ops.delta_rule.decays import chunk_decays
from ops.delta_rule.layout import chunks_into, into_chunks
from ops.delta_rule.span import Span, span_inverse, span_output, span_recurrence
from ops.delta_rule.span_backward import span_backward
from runtime.errors import UserError

# Tokens a chunk and a span, and numbers in one intermediate result of a span of several chunks, at most (README.md).
CHUNK = 32
SPAN_TOKENS = 512
SPAN_NUMBERS = 2**20


def chunked_delta_rule(
    q: Tensor,  # [B, T, H, Dk], normalised by the caller
    k: Tensor,  # [B, T, H, Dk], of length one
    v: Tensor,  # [B, T, Hv, Dv]; value head j listens to key head j // (Hv / H)
    beta: Tensor,  # [B, T, Hv]
    g: Tensor | None = None,  # [B, T, Hv], log decay, at most 0; None: no decay
    state: Tensor | None = None,  # [B, Hv, Dk, Dv] in fp32 (fp64 for fp64 values); None: zeros
    *,
    scale: float | None = None,  # None: Dk ** -0.5
    predict_from: str = "decayed",  # or "undecayed"
    starts: Tensor | None = None,  # [B, T] bool: the state is emptied before this token
    chunk: int = CHUNK,  # a power of two
) -> tuple[Tensor, Tensor]:  # [B, T, Hv, Dv] in v's dtype; [B, Hv, Dk, Dv]
    """What each token reads and the state after the last one: `delta_rule_reference` in matrix products.

    Raises UserError as the reference does, and for a chunk that is no power of two.
    """
    check_delta_rule(q, k, v, beta, g, state, predict_from, starts)
    if chunk < 1 or chunk & (chunk - 1):
        raise UserError(f"chunk must be a power of two, got {chunk}; nearest {_nearest_power_of_two(chunk)}")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return _ChunkedDeltaRule.apply(q, k, v, beta, g, state, starts, scale, predict_from, chunk)


class _ChunkedDeltaRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, beta, g, state, starts, scale, predict_from, chunk) -> tuple[Tensor, Tensor]:
        inputs, settings = (q, k, v, beta, g, starts), (scale, predict_from, chunk)
        rows = v.shape[0] * v.shape[2], q.shape[-1], v.shape[-1]
        S = v.new_zeros(rows, dtype=state_dtype(v)) if state is None else state.reshape(rows)
        out, inverses, entering = _padded_like(v, chunk), [], []
        for tokens in _spans(v, rows, chunk):
            x = _read_span(*inputs, *settings, tokens)
            entering.append(S)
            inverses.append(span_inverse(x))
            r = span_recurrence(x, inverses[-1], S)
            chunks_into(out[:, tokens], span_output(x, r))
            # A copy, or the one state would keep all those of the span alive.
            S = r.states[-1].clone()
        ctx.save_for_backward(*inputs, *entering, *inverses)
        ctx.settings, ctx.has_state = settings, state is not None
        return out[:, : v.shape[1]], S.view(v.shape[0], v.shape[2], *rows[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out: Tensor, d_state: Tensor) -> tuple[Tensor | None, ...]:
        inputs, kept = ctx.saved_tensors[:6], ctx.saved_tensors[6:]
        q, k, v, beta, g, _ = inputs
        _, predict_from, chunk = ctx.settings
        shape, dtype = d_state.shape, d_state.dtype
        gradients = [None if x is None else _padded_like(x, chunk) for x in (q, k, v, beta, g)]
        spans = _spans(v, (shape[0] * shape[1], *shape[2:]), chunk)
        d_state = d_state.flatten(0, 1)
        for i, tokens in reversed(tuple(enumerate(spans))):
            x = _read_span(*inputs, *ctx.settings, tokens)
            d_chunks = into_chunks(d_out[:, tokens], chunk, v.shape[2], dtype)
            d = span_backward(x, kept[len(spans) + i], kept[i], d_chunks, d_state, predict_from)
            for whole, part in zip(gradients, d, strict=False):
                if whole is not None:
                    chunks_into(whole[:, tokens], part)
            d_state = d.state
        gradients = [whole if whole is None else whole[:, : v.shape[1]] for whole in gradients]
        return *gradients, d_state.view(shape) if ctx.has_state else None, None, None, None, None


def _read_span(q, k, v, beta, g, starts, scale, predict_from, chunk, tokens: slice) -> Span:
    """The span of these tokens, copied into chunks of the state's dtype."""
    heads, dtype = v.shape[2], state_dtype(v)
    Q, K, V, b = (into_chunks(x[:, tokens], chunk, heads, dtype) for x in (q, k, v, beta))
    a = torch.zeros_like(b) if g is None else into_chunks(g[:, tokens], chunk, heads, dtype)
    resets = None if starts is None else into_chunks(starts[:, tokens, None], chunk, heads, torch.bool)[..., 0]
    return Span(Q, K, V, b, chunk_decays(a[..., 0], resets, predict_from), scale)


def _spans(v: Tensor, rows: tuple[int, ...], chunk: int) -> list[slice]:
    """Consecutive ranges of whole chunks; the last token may lie anywhere in the last."""
    T, numbers = v.shape[1], rows[0] * max(chunk, *rows[1:])
    fitting = chunk * max(1, min(SPAN_TOKENS, SPAN_NUMBERS // numbers) // chunk)
    length = T + -T % chunk if v.is_cuda else fitting
    return [slice(start, start + length) for start in range(0, T, length)]


def _padded_like(x: Tensor, chunk: int) -> Tensor:
    """An empty tensor in the shape and dtype of x [B, T, ...] with T rounded up to whole chunks."""
    B, T, *rest = x.shape
    return x.new_empty(B, T + -T % chunk, *rest)


def _nearest_power_of_two(value: int) -> int:
    return 1 << max(0, round(math.log2(max(value, 1))))

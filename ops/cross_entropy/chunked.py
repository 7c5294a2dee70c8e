"""The same nats a chunk of rows at a time, for CPUs: the logits of a chunk never leave the cache.

With t = tanh(z / cap), p = softmax(cap t) and a one-hot target o:  d nats / dz = (p - o) (1 - t²). It is computed going
forward, while the chunk is at hand, and is all that is kept: [N, V] once instead of four times.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits a chunk: half a megabyte in fp32.
LOGITS_A_CHUNK = 2**17


class _ChunkedNats(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, table: Tensor, targets: Tensor, cap: float | None) -> Tensor:
        matrix, wanted = table.to(x.dtype), ctx.needs_input_grad[0]
        nats = torch.empty(targets.shape, dtype=torch.float32, device=x.device)
        slopes = x.new_empty((len(x), len(table)) if wanted else 0)
        rows = max(1, LOGITS_A_CHUNK // len(table))
        for start in range(0, len(x), rows):
            here = slice(start, start + rows)
            z, target = F.linear(x[here], matrix).float(), targets[here, None]
            t = None if cap is None else z.div_(cap).tanh_()
            log_p = torch.log_softmax(z if cap is None else cap * t, dim=-1)
            nats[here] = -log_p.gather(1, target)[:, 0]
            if wanted:
                slope = log_p.exp_().scatter_add_(1, target, log_p.new_full(target.shape, -1.0))
                slopes[here] = slope if cap is None else slope.addcmul_(slope, t.square_(), value=-1)
        if wanted:
            ctx.save_for_backward(x, matrix, slopes)
        ctx.dtype = table.dtype
        return nats

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, matrix, slopes = ctx.saved_tensors
        g = g[:, None].to(x.dtype)
        return (slopes @ matrix) * g, (slopes.mT @ (x * g)).to(ctx.dtype), None, None


def chunked_nats(
    x: Tensor,  # [N, D]
    table: Tensor,  # [V, D] fp32
    targets: Tensor,  # [N] int64
    cap: float | None,
) -> Tensor:  # [N] fp32
    """-log p(target) in nats, unreduced. Its twin is `softcapped_nats`."""
    return _ChunkedNats.apply(x, table, targets, cap)

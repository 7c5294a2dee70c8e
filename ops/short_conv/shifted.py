"""The short convolution as a sum of shifted inputs, channels last: no copies, and a backward of the same kind.

Going back, dx is the sum of shifted gradients and d taps[:, j] that of x_{t + j} g_t. Sums are in fp32 whatever x is.
On a CPU torch's own backward of a convolution by channels takes several times as long.
"""

import torch
from torch import Tensor


class _ShiftedConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, taps: Tensor) -> Tensor:
        ctx.save_for_backward(x, taps)
        size, wide = taps.shape[1], torch.promote_types(x.dtype, torch.float32)
        T, rows, columns = x.shape[1] - size + 1, x.to(wide), _columns(taps, wide)
        y = rows[:, :T] * columns[0]
        for j in range(1, size):
            y.addcmul_(rows[:, j : j + T], columns[j])
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor]:
        x, taps = ctx.saved_tensors
        T, wide = g.shape[1], torch.promote_types(x.dtype, torch.float32)
        rows, g, d_x = x.to(wide), g.to(wide), torch.zeros_like(x, dtype=wide)
        d_taps = []
        for j, column in enumerate(_columns(taps, wide)):
            d_x[:, j : j + T].addcmul_(g, column)
            d_taps.append((rows[:, j : j + T] * g).sum((0, 1)))
        return d_x.to(x.dtype), torch.stack(d_taps, dim=1).to(taps.dtype)


def _columns(taps: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    # Each in one piece: a strided vector is broadcast a number at a time, which takes five times as long.
    return taps.mT.to(dtype, memory_format=torch.contiguous_format, copy=True).unbind()


def short_conv(
    x: Tensor,  # [B, T + size - 1, channels], what came before the text first; T at least 1
    taps: Tensor,  # [channels, size]
) -> Tensor:  # [B, T, channels]
    """y_t[c] = sum_j taps[c, j] x_{t + j}[c]. Its twin is `short_conv_reference`."""
    return _ShiftedConv.apply(x, taps)

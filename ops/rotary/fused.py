"""Norm, rotation and gain as one function: a rotation is linear and keeps lengths, so one factor a head does the rest.

y = s R(x) with s = gain / rms(x). Backward: g' = Rᵀ(g), d gain = sum(g'·x) / rms(x); dx is the norm's with factor s.
"""

import torch
from torch import Tensor

from ops.rms_norm.fused import inverse_rms, norm_backward


class _NormedRotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor, gain: Tensor) -> Tensor:
        r = inverse_rms(x)
        scale = r * gain.to(x.dtype)[:, None]
        ctx.save_for_backward(x, cos, sin, gain, r)
        return turned(x, cos, sin).mul_(scale)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None, None, Tensor]:
        x, cos, sin, gain, r = ctx.saved_tensors
        back = turned(g, cos, -sin)
        d_gain = ((back * x).sum(-1) * r[..., 0]).sum((0, 1)).to(gain.dtype) if ctx.needs_input_grad[3] else None
        return norm_backward(back, x, r, r * gain.to(x.dtype)[:, None]), None, None, d_gain


def turned(
    x: Tensor,  # [B, T, H, D]
    cos: Tensor,  # [T, D // 2]
    sin: Tensor,  # [T, D // 2]
) -> Tensor:  # [B, T, H, D], contiguous
    """Every pair (x_i, x_{i + D/2}) turned by its position's angle."""
    half = x.shape[-1] // 2
    cos, sin = (table.to(x.dtype)[:, None, :] for table in (cos, sin))
    y = x * torch.cat((cos, cos), dim=-1)
    y[..., :half].addcmul_(x[..., half:], sin)
    y[..., half:].addcmul_(x[..., :half], sin, value=-1)
    return y


def normed_rotary(
    x: Tensor,  # [B, T, H, D]
    cos: Tensor,  # [T, D // 2], fp32
    sin: Tensor,  # [T, D // 2], fp32
    gain: Tensor,  # [H], fp32
) -> Tensor:  # [B, T, H, D]
    """gain * rotate(rms_norm(x)), a head at a time."""
    return _NormedRotary.apply(x, cos, sin, gain)

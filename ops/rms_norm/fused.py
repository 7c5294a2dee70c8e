"""RMS norm with a backward of its own: two passes over x forward, four backward, only x and one number a row kept.

With r = 1 / sqrt(mean(x²) + eps), y = r x and upstream gradient g:  dx = r g - x r³ mean(g x). The L2 norm is the same
but for a factor.
"""

import torch
from torch import Tensor

from ops.rms_norm.reference import RMS_EPS


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, eps: float, length: float) -> Tensor:
        r = inverse_rms(x, eps)
        ctx.save_for_backward(x, r)
        ctx.length = length
        return x * (r * length)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None, None]:
        x, r = ctx.saved_tensors
        return norm_backward(g, x, r, r * ctx.length), None, None


def inverse_rms(x: Tensor, eps: float = RMS_EPS) -> Tensor:
    """1 / sqrt(mean(x²) + eps) of the rows of x [..., D]: [..., 1] in x's dtype, summed in fp32 or wider."""
    wide = x if x.dtype == torch.float64 else x.float()
    mean_square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square() / x.shape[-1]
    return torch.rsqrt(mean_square + eps).to(x.dtype)


def norm_backward(
    g: Tensor,  # [..., D], gradient of y = scale x with scale proportional to r
    x: Tensor,  # [..., D]
    r: Tensor,  # [..., 1]
    scale: Tensor,  # [..., 1]
) -> Tensor:  # [..., D]
    """The gradient of x through y = scale x, where scale = constant * r."""
    along = (g * x).sum(-1, keepdim=True)
    return torch.addcmul(g * scale, x, along * (scale * r * r / -x.shape[-1]))


def rms_norm(x: Tensor, eps: float = RMS_EPS) -> Tensor:
    """x / sqrt(mean(x²) + eps) over the last dimension [..., D], without a weight."""
    return _RMSNorm.apply(x, eps, 1.0)


def l2_norm(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(sum(x²) + eps) over the last dimension [..., D]: vectors of length one."""
    size = x.shape[-1]
    return _RMSNorm.apply(x, eps / size, size**-0.5)

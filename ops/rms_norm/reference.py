"""RMS norm without a weight, as written: y = x / sqrt(mean(x²) + eps) over the last dimension, statistics in fp32.

1. Zhang and Sennrich 2019, arXiv 1910.07467.
"""

import torch
from torch import Tensor

# The machine epsilon of fp32, what torch takes for an RMS norm in that dtype.
RMS_EPS = torch.finfo(torch.float32).eps


def rms_norm_reference(x: Tensor, eps: float = RMS_EPS) -> Tensor:
    """The norm of every row of x [..., D], by autograd's own backward."""
    wide = x if x.dtype == torch.float64 else x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)

"""Queries and keys as attention wants them: RMS norm a head, half-split rotary positions, a gain a head.

With halves (a, b) of a normalised head the output is gain * (a cos + b sin, -a sin + b cos).

1. Su et al. 2021, RoFormer, arXiv 2104.09864.  2. Henry et al. 2020, query-key normalisation, arXiv 2010.04245.
"""

import torch
from torch import Tensor

from ops.rms_norm.reference import rms_norm_reference


def normed_rotary_reference(
    x: Tensor,  # [B, T, H, D]
    cos: Tensor,  # [T, D // 2]
    sin: Tensor,  # [T, D // 2]
    gain: Tensor,  # [H]
) -> Tensor:  # [B, T, H, D]
    """The same by autograd's own backward."""
    a, b = rms_norm_reference(x).chunk(2, dim=-1)
    cos, sin = (table.to(x.dtype)[:, None, :] for table in (cos, sin))
    return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1) * gain.to(x.dtype)[:, None]


def rotary_table(
    start: int, length: int, head_dim: int, base: float, device: torch.device
) -> tuple[Tensor, Tensor]:  # [length, head_dim // 2] each, fp32
    """Cosines and sines of position * base^(-2i / head_dim) for positions start .. start + length - 1."""
    frequency = base ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angle = torch.arange(start, start + length, device=device, dtype=torch.float32)[:, None] * frequency
    return angle.cos(), angle.sin()

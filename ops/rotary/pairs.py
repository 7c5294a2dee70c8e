"""Rotary positions over neighbouring features: pair (2i, 2i + 1) turns by position * base^(-2i / D).

With a pair (a, b) the output is (a cos - b sin, a sin + b cos).

1. Su et al. 2021, RoFormer, arXiv 2104.09864.
"""

import torch
from torch import Tensor

# Cosine and sine of every feature's angle, [T, D] each; the sine of the first of a pair has its sign turned.
PairAngles = tuple[Tensor, Tensor]


def pair_angles(
    positions: Tensor,  # [T]
    dim: int,
    base: float = 10_000.0,
    dtype: torch.dtype = torch.float32,  # that positions, frequencies and angles are computed in
) -> PairAngles:
    """What `turned_pairs` needs for rows at `positions`."""
    exponents = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / dim
    angle = positions.to(dtype)[:, None] * (base**-exponents).to(dtype)
    cos, sin = angle.cos(), angle.sin()
    return cos.repeat_interleave(2, dim=1), torch.stack((-sin, sin), dim=2).flatten(1)


def turned_pairs(
    x: Tensor,  # [..., T, D]
    angles: PairAngles,
) -> Tensor:  # [..., T, D]
    """Every pair of features turned by its row's angle."""
    cos, sin = (table.to(x.dtype) for table in angles)
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x * cos, swapped, sin)

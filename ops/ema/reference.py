"""The first-order recurrence of a moving average: y_t = z_t + c y_{t-1}, a decay c a channel.

1. Ma et al. 2022, MEGA, arXiv 2209.10655 (exponential moving averages before attention).
"""

import torch
from torch import Tensor


def decayed_sum_reference(
    z: Tensor,  # [B, T, D]
    decay: Tensor,  # [D], 0 to 1
    seed: Tensor,  # [B, D]: y before the first position
) -> Tensor:  # [B, T, D]
    """One position after the other."""
    rows, y = [], seed
    for z_t in z.unbind(1):
        y = z_t + decay * y
        rows.append(y)
    return torch.stack(rows, dim=1)

"""The same recurrence in log2 T passes over the whole text, with a backward of its own.

After pass k every y_t is the sum of the last 2^k terms: y_t <- y_t + c^(2^k) y_{t - 2^k}. The gradient is the same scan
from the other end: l_t = g_t + c l_{t+1}, dz = l, dc = sum(l_t y_{t-1}), dseed = c l_0.

1. Hillis and Steele 1986 (data parallel prefix sums).
"""

import torch
from torch import Tensor


class _DecayedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: Tensor, decay: Tensor, seed: Tensor) -> Tensor:
        first = torch.addcmul(z[:, :1], decay, seed[:, None])
        y = _scan(torch.cat((first, z[:, 1:]), dim=1), decay)
        ctx.save_for_backward(y, decay, seed)
        return y

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, decay, seed = ctx.saved_tensors
        d_z = _scan(g.flip(1), decay).flip(1)
        d_decay = (d_z[:, 1:] * y[:, :-1]).sum((0, 1)) + (d_z[:, 0] * seed).sum(0)
        return d_z, d_decay, decay * d_z[:, 0]


def _scan(y: Tensor, decay: Tensor) -> Tensor:
    """The recurrence from zero, by doubling."""
    reach, power = 1, decay
    while reach < y.shape[1]:
        y = torch.cat((y[:, :reach], torch.addcmul(y[:, reach:], power, y[:, :-reach])), dim=1)
        # Numbers below the smallest normal one are slow on CPUs, and what they would add is nothing.
        power = (power * power).masked_fill(power < 1e-15, 0.0)
        reach *= 2
    return y


def decayed_sum(
    z: Tensor,  # [B, T, D], T at least 1
    decay: Tensor,  # [D], 0 to 1
    seed: Tensor,  # [B, D]: y before the first position
) -> Tensor:  # [B, T, D]
    """y_t = z_t + decay y_{t-1} with y_{-1} = seed."""
    return _DecayedSum.apply(z, decay, seed)

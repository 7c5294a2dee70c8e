"""The same recurrence in scans over the whole text, with a backward of its own.

On a GPU in log2 T passes: after pass k every y_t is the sum of the last 2^k terms, y_t <- y_t + c^(2^k) y_{t - 2^k}. On
a CPU in blocks: all take their 16 steps side by side, as if each began with zero; then, block after block, what went
into each is added, y_t += c^(t + 1) y_before. The gradient is the same scan from the other end: l_t = g_t + c l_{t+1},
dz = l, dc = sum(l_t y_{t-1}), dseed = c l_0.

1. Hillis and Steele 1986 (data parallel prefix sums).  2. Blelloch 1990, Prefix Sums and Their Applications (blocks).
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

POSITIONS_A_BLOCK = 16


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


def _scan(
    z: Tensor,  # [B, T, D]
    decay: Tensor,  # [D]
) -> Tensor:  # [B, T, D]
    """The recurrence from zero."""
    return scan_by_doubling(z, decay) if z.is_cuda else scan_in_blocks(z, decay)


def scan_by_doubling(y: Tensor, decay: Tensor) -> Tensor:
    """Few passes over everything, each as wide as it can be."""
    reach, power = 1, decay
    while reach < y.shape[1]:
        y = torch.cat((y[:, :reach], torch.addcmul(y[:, reach:], power, y[:, :-reach])), dim=1)
        power = _normal(power * power)
        reach *= 2
    return y


def scan_in_blocks(z: Tensor, decay: Tensor) -> Tensor:
    """Two passes over everything, in many small steps."""
    T = z.shape[1]
    block = min(POSITIONS_A_BLOCK, T)
    y = (F.pad(z, (0, 0, 0, -T % block)) if T % block else z.clone()).unflatten(1, (-1, block))
    for before, now in pairwise(y.unbind(2)):
        now.addcmul_(decay, before)
    powers = _normal(decay ** torch.arange(1, block + 1, device=decay.device)[:, None])
    for before, now in pairwise(y.unbind(1)):
        now.addcmul_(powers, before[:, -1:])
    return y.flatten(1, 2)[:, :T]


def _normal(power: Tensor) -> Tensor:
    # Numbers below the smallest normal one are slow on CPUs, and what they would add is nothing.
    return power.masked_fill(power < 1e-15, 0.0)


def decayed_sum(
    z: Tensor,  # [B, T, D], T at least 1
    decay: Tensor,  # [D], 0 to 1
    seed: Tensor,  # [B, D]: y before the first position
) -> Tensor:  # [B, T, D]
    """y_t = z_t + decay y_{t-1} with y_{-1} = seed."""
    return _DecayedSum.apply(z, decay, seed)

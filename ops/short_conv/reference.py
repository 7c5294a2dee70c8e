"""A causal convolution along time, a channel by itself, as torch has it: y_t[c] = sum_j taps[c, j] x_{t + j}[c].

1. So et al. 2021, Primer, arXiv 2109.08668.
"""

import torch.nn.functional as F
from torch import Tensor


def short_conv_reference(
    x: Tensor,  # [B, T + size - 1, channels], what came before the text first
    taps: Tensor,  # [channels, size]
) -> Tensor:  # [B, T, channels]
    """The same by torch's conv1d, which wants time last and copies."""
    return F.conv1d(x.mT, taps.to(x.dtype)[:, None], groups=len(taps)).mT

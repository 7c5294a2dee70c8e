"""The causal depthwise convolution along time that recurrent mixers put before their state.

    y_t[c] = sum_j taps[c, j] x_{t - (size - 1) + j}[c]

1. So et al. 2021, Primer, arXiv 2109.08668.  2. Yang et al. 2024, DeltaNet, arXiv 2406.06484.
"""

import torch
from torch import Tensor, nn

from ops.short_conv.shifted import short_conv
from runtime.errors import UserError


def check_taps(size: int) -> None:
    """Raises UserError for a convolution without taps."""
    if size < 1:
        raise UserError(f"a short convolution has at least 1 tap, got {size}; nearest 1")


class ShortConv(nn.Module):
    """y, tail = conv(x, tail): [B, T, channels] and the last size - 1 inputs, [B, size - 1, channels]."""

    def __init__(self, channels: int, size: int, init_std: float) -> None:
        super().__init__()
        check_taps(size)
        self.taps = nn.Parameter(torch.empty(channels, size))
        self.init_std = init_std

    def reset_parameters(self) -> None:
        nn.init.normal_(self.taps, std=self.init_std)

    def forward(
        self,
        x: Tensor,  # [B, T, channels]
        tail: Tensor | None = None,  # what came before x; None: zeros
    ) -> tuple[Tensor, Tensor]:
        channels, size = self.taps.shape
        if tail is None:
            tail = x.new_zeros(x.shape[0], size - 1, channels)
        whole = torch.cat((tail, x), dim=1)
        return short_conv(whole, self.taps), whole[:, whole.shape[1] - (size - 1) :]

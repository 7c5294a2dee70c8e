"""A mixer without attention: a gated depthwise convolution, the parent of Imli's.

[gate, value] = W_in x;  y = W_out (conv(value) * sigmoid(gate))
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from model.bit_linear import BitLinearConfig, LinearConfig
from model.short_conv import ShortConv, check_taps


@dataclass(frozen=True)
class GatedConvConfig:
    """`size` is the number of taps: how many tokens, its own included, a position sees."""

    size: int = 8
    linear: LinearConfig | BitLinearConfig = LinearConfig()
    has_bounded_state: ClassVar[bool] = True

    def build(self, dim: int) -> "GatedConv":
        check_taps(self.size)
        return GatedConv(self, dim)

    def mixing_flops(self, dim: int, window: int) -> float:
        """Forward operations a token beyond the matrices."""
        return 2 * dim * self.size


class GatedConv(nn.Module):
    """A mixer: y, tail = mixer(x, tail) with x and y [B, T, dim]."""

    def __init__(self, config: GatedConvConfig, dim: int) -> None:
        super().__init__()
        self.project_in = config.linear.build(dim, 2 * dim)
        # He et al. 2015, fan-out: a depthwise convolution counts all channels times its taps.
        self.conv = ShortConv(dim, config.size, init_std=math.sqrt(2 / (dim * config.size)))
        self.project = config.linear.build(dim, dim)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        gate, value = self.project_in(x).chunk(2, dim=-1)
        mixed, state = self.conv(value, state)
        return self.project(mixed * torch.sigmoid(gate)), state

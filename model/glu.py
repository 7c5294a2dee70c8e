"""The gated feed-forward layer: W_down (f(W_gate x) * W_up x), f SiLU or ReLU.

1. Shazeer 2020, GLU variants, arXiv 2002.05202.
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from model.bit_linear import BitLinearConfig, LinearConfig


@dataclass(frozen=True)
class GLUConfig:
    """`hidden` is the width between the matrices."""

    hidden: int
    linear: LinearConfig | BitLinearConfig = LinearConfig()
    activation: Literal["silu", "relu"] = "silu"

    def build(self, dim: int) -> "GLU":
        return GLU(self, dim)


class GLU(nn.Module):
    """[..., dim] -> [..., dim]."""

    def __init__(self, config: GLUConfig, dim: int) -> None:
        super().__init__()
        self.activation = {"silu": F.silu, "relu": F.relu}[config.activation]
        self.gate = config.linear.build(dim, config.hidden)
        self.up = config.linear.build(dim, config.hidden)
        self.down = config.linear.build(config.hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.gate(x)) * self.up(x))

"""What becomes of the values that a memory gives back: a gate for each of them, behind a norm or not.

1. Yang et al. 2025, Gated DeltaNet, arXiv 2412.06464 (norm and SiLU).  2. Imli (sigmoid alone).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.bit_linear import BitLinearConfig, LinearConfig
from model.norm import NormConfig


@dataclass(frozen=True)
class NormedReadoutConfig:
    """norm(o) * SiLU(W x); the norm is a head's, its gain shared by the heads."""

    norm: NormConfig = NormConfig(eps=1e-5)

    def build(self, dim: int, num_heads: int, head_dim: int, linear: LinearConfig | BitLinearConfig) -> "NormedReadout":
        return NormedReadout(self.norm.build(head_dim), linear.build(dim, num_heads * head_dim))


class NormedReadout(nn.Module):
    """[B, T, num_heads, head_dim] and [B, T, dim] -> [B, T, num_heads * head_dim]."""

    def __init__(self, norm: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.gate = gate

    def forward(self, o: Tensor, x: Tensor) -> Tensor:
        return self.norm(o).flatten(2) * F.silu(self.gate(x))


@dataclass(frozen=True)
class SigmoidReadoutConfig:
    """o * sigmoid(W x)."""

    def build(
        self, dim: int, num_heads: int, head_dim: int, linear: LinearConfig | BitLinearConfig
    ) -> "SigmoidReadout":
        return SigmoidReadout(linear.build(dim, num_heads * head_dim))


class SigmoidReadout(nn.Module):
    """[B, T, num_heads, head_dim] and [B, T, dim] -> [B, T, num_heads * head_dim]."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, o: Tensor, x: Tensor) -> Tensor:
        return o.flatten(2) * torch.sigmoid(self.gate(x))

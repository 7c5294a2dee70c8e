"""What a recurrent memory forgets at each token: the log decay g <= 0 of every head, [B, T, num_heads].

1. Dao and Gu 2024, Mamba-2, arXiv 2405.21060, as Gated DeltaNet takes it (arXiv 2412.06464).
2. Yang et al. 2024, GLA, arXiv 2312.06635: the sigmoid whose sixteenth root decays; Imli's too.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.bit_linear import BitLinearConfig, LinearConfig
from runtime.errors import UserError


@dataclass(frozen=True)
class StepDecayConfig:
    """g = -A softplus(W x + step_bias): a continuous decay A over a time step that each token chooses.

    A starts in (0, largest]. With the published 16, half of all heads start by forgetting within some tens of tokens:
    where a model has few heads, a smaller one lets it remember from the first step on.
    """

    largest: float = 16.0

    def build(self, dim: int, num_heads: int, linear: LinearConfig | BitLinearConfig) -> "StepDecay":
        if self.largest <= 0:
            raise UserError(f"largest must be above 0, got {self.largest}; published is 16")
        return StepDecay(linear.build(dim, num_heads), num_heads, self.largest)


class StepDecay(nn.Module):
    """A starts in (0, largest], the step of x = 0 in 0.001 to 0.1, log-uniformly."""

    def __init__(self, step: nn.Module, num_heads: int, largest: float) -> None:
        super().__init__()
        self.largest = largest
        self.step = step
        self.decay_log = nn.Parameter(torch.empty(num_heads))
        self.step_bias = nn.Parameter(torch.empty(num_heads))

    def reset_parameters(self) -> None:
        # rand() may be 0, of which there is no logarithm, but never 1.
        self.decay_log.copy_(torch.log(self.largest * (1 - torch.rand(self.decay_log.shape))))
        step = torch.empty(self.step_bias.shape).uniform_(math.log(1e-3), math.log(0.1)).exp()
        self.step_bias.copy_(step + torch.log(-torch.expm1(-step)))

    def forward(self, x: Tensor) -> Tensor:
        step = F.softplus(_wide(self.step(x)) + self.step_bias)
        return -self.decay_log.exp() * step


@dataclass(frozen=True)
class SigmoidDecayConfig:
    """g = log(sigmoid(W x)) / 16."""

    def build(self, dim: int, num_heads: int, linear: LinearConfig | BitLinearConfig) -> "SigmoidDecay":
        return SigmoidDecay(linear.build(dim, num_heads))


class SigmoidDecay(nn.Module):
    """[B, T, dim] -> [B, T, num_heads]."""

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return F.logsigmoid(_wide(self.step(x))) / 16


@dataclass(frozen=True)
class NoDecayConfig:
    """Nothing is forgotten but what is overwritten."""

    def build(self, dim: int, num_heads: int, linear: LinearConfig | BitLinearConfig) -> "NoDecay":
        return NoDecay()


class NoDecay(nn.Module):
    """None, which is g = 0."""

    def forward(self, x: Tensor) -> None:
        return None


def _wide(x: Tensor) -> Tensor:
    """In fp32 or wider: a sum of many small decays must not be of rounded ones."""
    return x.to(torch.promote_types(x.dtype, torch.float32))

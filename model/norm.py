"""Norms that a block or a matrix may have: RMS norm with a learned gain, or none.

1. Zhang and Sennrich 2019, arXiv 1910.07467.
"""

from dataclasses import dataclass

from torch import Tensor, nn, ones

from ops.rms_norm.fused import rms_norm


@dataclass(frozen=True)
class NormConfig:
    """y = x / sqrt(mean(x²) + eps) * gain over the last dimension; the gain starts at 1."""

    eps: float = 1e-6

    def build(self, dim: int) -> "RMSNorm":
        return RMSNorm(dim, self.eps)


@dataclass(frozen=True)
class NoNormConfig:
    """y = x."""

    def build(self, dim: int) -> nn.Identity:
        return nn.Identity()


class RMSNorm(nn.Module):
    """[..., dim] -> [..., dim] in x's dtype."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.eps) * self.gain.to(x.dtype)

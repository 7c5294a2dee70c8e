"""A matrix behind a norm, with few levels in its weights and, if wanted, in what it multiplies.

    y = A(norm x) Q(W)ᵀ

1. Ma et al. 2024, BitNet b1.58, arXiv 2402.17764: ternary weights and 8-bit activations.
2. Imli: ternary weights alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from model.linear import Linear, WeightMap
from model.norm import NoNormConfig, NormConfig


@dataclass(frozen=True)
class LinearConfig:
    """y = x Q(W)ᵀ; None: Q(W) = W."""

    weight_map: WeightMap | None = None

    def build(self, in_features: int, out_features: int, zero_init: bool = False) -> Linear:
        return Linear(in_features, out_features, self.weight_map, zero_init)


@dataclass(frozen=True)
class BitLinearConfig:
    """`weight_map` and `activation_map` round and pass gradients straight through; None rounds nothing."""

    weight_map: WeightMap | None = None
    norm: NormConfig | NoNormConfig = NoNormConfig()
    activation_map: Callable[[Tensor], Tensor] | None = None

    def build(self, in_features: int, out_features: int, zero_init: bool = False) -> "BitLinear":
        return BitLinear(self, in_features, out_features, zero_init)


class BitLinear(Linear):
    """[..., in_features] -> [..., out_features]."""

    def __init__(self, config: BitLinearConfig, in_features: int, out_features: int, zero_init: bool) -> None:
        super().__init__(in_features, out_features, config.weight_map, zero_init)
        self.norm = config.norm.build(in_features)
        self.activation_map = config.activation_map

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return super().forward(self.activation_map(x) if self.activation_map else x)

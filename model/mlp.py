"""The ReLU² feed-forward layer: W_down relu(W_up x)².

1. So et al. 2021, Primer, arXiv 2109.08668.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from model.linear import Linear, WeightMap
from ops.relu_squared.fused import relu_squared


@dataclass(frozen=True)
class MLPConfig:
    """`hidden` is the width between the two matrices; `weight_map` is handed to both."""

    hidden: int
    weight_map: WeightMap | None = None

    def build(self, dim: int) -> "MLP":
        return MLP(self, dim)


class MLP(nn.Module):
    """[..., dim] -> [..., dim]; the down projection starts at zero."""

    def __init__(self, config: MLPConfig, dim: int) -> None:
        super().__init__()
        self.up = Linear(dim, config.hidden, config.weight_map)
        self.down = Linear(config.hidden, dim, config.weight_map, zero_init=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(relu_squared(self.up(x)))

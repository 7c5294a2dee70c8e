"""The matrix of the model: fp32 master weight, cast to the dtype of what it multiplies."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, empty, nn

# A weight map makes the weight that the forward uses from the stored one: straight-through quantisation, for example.
WeightMap = Callable[[Tensor], Tensor]


def stored_weight(weight: Tensor) -> Tensor:
    """The weight map that changes nothing."""
    return weight


class Linear(nn.Module):
    """y = x Wᵀ without bias. W [out_features, in_features] is fp32; the product runs in x's dtype, sums in fp32."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        weight_map: WeightMap | None = None,  # None: the stored weight as it is
        zero_init: bool = False,  # output projections start at zero, so that a new block is the identity
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(empty(out_features, in_features))
        self.weight_map = weight_map or stored_weight
        self.zero_init = zero_init

    def forward(
        self,
        x: Tensor,  # [..., in_features]
    ) -> Tensor:  # [..., out_features]
        return F.linear(x, self.weight_map(self.weight).to(x.dtype))

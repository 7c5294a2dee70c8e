"""Layer norm with gain and bias, both named so that no optimiser takes them for matrices.

1. Ba et al. 2016, arXiv 1607.06450.
"""

import torch.nn.functional as F
from torch import Tensor, nn, ones, zeros


class LayerNorm(nn.Module):
    """y = (x - mean) / sqrt(var + eps) * gain + bias over the last dimension, in x's dtype."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.gain = nn.Parameter(ones(dim))
        self.bias = nn.Parameter(zeros(dim))
        self.eps = eps

    def forward(
        self,
        x: Tensor,  # [..., dim]
    ) -> Tensor:  # [..., dim]
        return F.layer_norm(x, self.gain.shape, self.gain.to(x.dtype), self.bias.to(x.dtype), self.eps)

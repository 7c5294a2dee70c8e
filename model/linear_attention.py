"""Linear attention: what DeltaNet is without the delta rule. It adds to its memory and corrects nothing.

    S <- S + kᵀ v,   o = Dk ** -0.5 q S,   the rest as in model/deltanet.py without a decay

1. Katharopoulos et al. 2020, arXiv 2006.16236.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from model.bit_linear import LinearConfig
from model.convolved import ConvolvedMixer, MemoryState
from model.linear import Linear
from model.readout import NormedReadoutConfig
from ops.rms_norm.fused import l2_norm
from runtime.errors import UserError, check_positive, nearest_multiple


@dataclass(frozen=True)
class LinearAttentionConfig:
    """Queries, keys and values are as wide as the layer, `num_heads` together."""

    num_heads: int = 4
    conv_size: int = 4
    l2_eps: float = 1e-6
    has_bounded_state: ClassVar[bool] = True

    def build(self, dim: int) -> "LinearAttention":
        check_positive("num_heads", self.num_heads)
        if dim % self.num_heads:
            raise UserError(
                f"the width must be a multiple of the {self.num_heads} heads, got {dim}; "
                f"nearest {nearest_multiple(dim, self.num_heads)}"
            )
        return LinearAttention(self, dim)

    def mixing_flops(self, dim: int, window: int) -> float:
        """Forward operations a token beyond the matrices: taps, and write and read of the recurrence."""
        return 2 * 3 * dim * self.conv_size + 2 * 2 * dim * dim / self.num_heads


class LinearAttention(ConvolvedMixer):
    """A mixer: y, state = mixer(x, state) with x and y [B, T, dim]; a call costs T² scores a head."""

    def __init__(self, config: LinearAttentionConfig, dim: int) -> None:
        super().__init__(dim, dim, dim, config.conv_size, LinearConfig())
        self.config = config
        self.readout = NormedReadoutConfig().build(dim, config.num_heads, dim // config.num_heads, LinearConfig())
        self.project = Linear(dim, dim, zero_init=True)

    def forward(
        self,
        x: Tensor,  # [B, T, dim]
        state: MemoryState | None = None,  # of what came before x; None at the start of a text
    ) -> tuple[Tensor, MemoryState]:
        *qkv, tails, S = self.convolved(x, state)
        q, k, v = (part.unflatten(-1, (self.config.num_heads, -1)).transpose(1, 2) for part in qkv)
        q, k = (l2_norm(part, self.config.l2_eps) for part in (q, k))
        o, S = linear_attention(q, k, v, S)
        return self.project(self.readout(o.transpose(1, 2), x)), (*tails, S)


def linear_attention(
    q: Tensor,  # [B, H, T, Dk]
    k: Tensor,  # [B, H, T, Dk]
    v: Tensor,  # [B, H, T, Dv]
    state: Tensor | None = None,  # [B, H, Dk, Dv]; None: zeros
) -> tuple[Tensor, Tensor]:  # [B, H, T, Dv], [B, H, Dk, Dv]
    """What each token reads, and the memory after the last one."""
    o, S = torch.matmul(torch.matmul(q, k.mT).tril(), v), torch.matmul(k.mT, v)
    if state is not None:
        o, S = o + torch.matmul(q, state), S + state
    return q.shape[-1] ** -0.5 * o, S

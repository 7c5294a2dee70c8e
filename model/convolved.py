"""What recurrent mixers make queries, keys and values of: SiLU(conv(W x)), a matrix and a short convolution each.

1. So et al. 2021, Primer, arXiv 2109.08668.  2. Yang et al. 2024, DeltaNet, arXiv 2406.06484.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from model.bit_linear import BitLinearConfig, LinearConfig
from model.short_conv import ShortConv

# The last conv_size - 1 inputs of the convolutions of q, k and v, and the memory S [B, value heads, Dk, Dv].
MemoryState = tuple[Tensor, Tensor, Tensor, Tensor]


class ConvolvedMixer(nn.Module):
    """A mixer with `query`, `key` and `value`, each with its convolution, and with a `MemoryState`."""

    def __init__(
        self,
        dim: int,
        keys: int,  # the width of queries and of keys, all heads together
        values: int,
        conv_size: int,
        linear: LinearConfig | BitLinearConfig,
    ) -> None:
        super().__init__()
        self.query = linear.build(dim, keys)
        self.key = linear.build(dim, keys)
        self.value = linear.build(dim, values)
        # One convolution of the three side by side takes twice as long on a CPU.
        self.query_conv = ShortConv(keys, conv_size, init_std=0.02)
        self.key_conv = ShortConv(keys, conv_size, init_std=0.02)
        self.value_conv = ShortConv(values, conv_size, init_std=0.02)

    def convolved(
        self,
        x: Tensor,  # [B, T, dim]
        state: MemoryState | None,  # of what came before x; None at the start of a text
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor], Tensor | None]:
        """q, k and v [B, T, channels], the tails of their convolutions after x, and the memory before it."""
        q_tail, k_tail, v_tail, S = state or (None,) * 4
        q, q_tail = self.query_conv(self.query(x), q_tail)
        k, k_tail = self.key_conv(self.key(x), k_tail)
        v, v_tail = self.value_conv(self.value(x), v_tail)
        return F.silu(q), F.silu(k), F.silu(v), (q_tail, k_tail, v_tail), S

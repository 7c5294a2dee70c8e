"""The parallel block: attention and feed-forward beside each other, on one norm.

    h = LN x,  y = x + Attention(h) + MLP(h)

1. Wang and Komatsuzaki 2021, GPT-J.  2. BakaLLM, branch 001_pristine.
"""

from dataclasses import dataclass

from torch import Tensor, cat, nn

from model.attention import AttentionConfig, KeyValues, causal_attention
from model.glu import GLUConfig
from model.layer_norm import LayerNorm
from model.linear import Linear
from model.pristine.positions import PositionsConfig, RotaryConfig


@dataclass(frozen=True)
class WindowAttentionConfig:
    """As many key and value heads as query heads; the heads must divide the width, into even ones."""

    num_heads: int = 12
    positions: PositionsConfig = RotaryConfig()

    def build(self, dim: int, window: int) -> "WindowAttention":
        AttentionConfig(self.num_heads, self.num_heads).check(dim)
        return WindowAttention(self, dim, window)


@dataclass(frozen=True)
class ParallelBlockConfig:
    """Both parts of a layer."""

    mixer: WindowAttentionConfig
    mlp: GLUConfig

    def build(self, dim: int, window: int) -> "ParallelBlock":
        return ParallelBlock(self, dim, window)


class WindowAttention(nn.Module):
    """y, (k, v) = attention(x, (k, v), rows, offset): x [B, T, dim], keys and values of the window so far."""

    def __init__(self, config: WindowAttentionConfig, dim: int, window: int) -> None:
        super().__init__()
        self.head_dim = dim // config.num_heads
        self.positions, self.attend = config.positions.build(self.head_dim, window), causal_attention
        self.query, self.key, self.value, self.project = (Linear(dim, dim) for _ in range(4))

    def fresh(self, x: Tensor) -> KeyValues:
        """Keys and values of no tokens, for rows and dtype of x [B, T, dim]."""
        empty = x.new_empty(x.shape[0], x.shape[2] // self.head_dim, 0, self.head_dim)
        return empty, empty

    def forward(self, x: Tensor, state: KeyValues, rows: Tensor, offset: Tensor) -> tuple[Tensor, KeyValues]:
        q, k, v = (m(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for m in (self.query, self.key, self.value))
        q, k = self.positions(q, k, rows, offset)
        k, v = cat((state[0], k), dim=2), cat((state[1], v), dim=2)
        return self.project(self.attend(q, k, v).transpose(1, 2).flatten(2)), (k, v)


class ParallelBlock(nn.Module):
    """x, state = block(x, state, rows, offset)."""

    def __init__(self, config: ParallelBlockConfig, dim: int, window: int) -> None:
        super().__init__()
        self.norm = LayerNorm(dim)
        self.attention = config.mixer.build(dim, window)
        self.mlp = config.mlp.build(dim)

    def forward(self, x: Tensor, state: KeyValues, rows: Tensor, offset: Tensor) -> tuple[Tensor, KeyValues]:
        h = self.norm(x)
        y, state = self.attention(h, state, rows, offset)
        return x + y + self.mlp(h), state

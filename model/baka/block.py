"""The block: a residual and three parts beside each other, average, attention and feed-forward, all gated.

    e = LN EMA(x),  h = LN x,  s = Attention(q, k of h; v of e)
    y = x + s + MLP(h) sigmoid(W_g LN s) + e sigmoid(W_m e + b)

The average feeds the values as released; the author meant the queries and keys ("qk").

1. BakaLLM, branch zero.  2. Ma et al. 2022, MEGA, arXiv 2209.10655.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from model.baka.attention import SmallValueAttention
from model.baka.average import DampedAverage, Damping
from model.glu import GLUConfig
from model.layer_norm import LayerNorm
from model.linear import Linear
from ops.rotary.pairs import PairAngles

# Gated keys and values of the chunk before, those of the present one so far, the average so far, and the present chunk
# folded from zero: [B, P, width], [B, P, dim], [B, N, width], [B, N, dim], [B, dim], [B, dim].
BlockState = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class BakaBlockConfig:
    """The quirks of the released block; every default is what was documented.

    `ema_feeds`: values, or queries and keys. `ema_history`: what of a block the next chunk's average goes on from, its
    input or its output (released). `mlp_gate`: attention's output gates the feed-forward part, or that gates itself.
    """

    mlp: GLUConfig
    ema_feeds: Literal["v", "qk"] = "v"
    ema_history: Literal["input", "output"] = "input"
    damping: Damping = "baka"
    negation: bool = True
    mlp_gate: Literal["attention", "self"] = "attention"
    dropout: float = 0.1

    def build(self, dim: int) -> "BakaBlock":
        return BakaBlock(self, dim)

    def chunk_flops(self, dim: int, rows: int, past: float, queries: int | None = None) -> float:
        """Forward operations of one chunk: `rows` rows over `past` rows of the chunk before; a tail of `queries`."""
        width = 2 * dim if self.negation else dim
        tail = rows if queries is None else queries
        whole = 2 * dim * dim * rows + (width + dim) * dim * past
        own = (4 * dim * dim + 3 * dim * self.mlp.hidden) * tail
        keys = past + (rows / 2 if queries is None else rows)
        return 2 * (whole + own + (width + dim) * keys * tail)


class BakaBlock(nn.Module):
    """x, state = block(x, state, angles) on a piece of a chunk, x [B, T, dim]."""

    def __init__(self, config: BakaBlockConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.average = DampedAverage(dim, config.damping)
        self.average_norm, self.norm, self.mlp_gate_norm = (LayerNorm(dim) for _ in range(3))
        self.attention = SmallValueAttention(dim, config.negation, config.dropout)
        self.mlp = config.mlp.build(dim)
        self.mlp_gate, self.average_gate = Linear(dim, dim), Linear(dim, dim)
        self.average_bias = nn.Parameter(torch.empty(dim))

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(len(self.average_bias))
        nn.init.uniform_(self.average_bias, -bound, bound)

    def fresh(self, x: Tensor) -> BlockState:
        """The state before the first chunk, for rows and dtype of x [B, T, dim]."""
        batch, dim, width = x.shape[0], x.shape[2], self.attention.width
        sums = torch.zeros(2, batch, dim, dtype=self.average_bias.dtype, device=x.device).unbind()
        k, v = x.new_empty(batch, 0, width), x.new_empty(batch, 0, dim)
        return (k, v, k, v, *sums)

    def opened(self, state: BlockState) -> BlockState:
        """The state at the begin of a chunk: the present chunk of `state` has become the one before."""
        _, _, k, v, _, fold = state
        return (*self.attention.gated_past(k, v), k[:, :0], v[:, :0], fold, torch.zeros_like(fold))

    def forward(self, x: Tensor, state: BlockState, angles: PairAngles) -> tuple[Tensor, BlockState]:
        past_k, past_v, now_k, now_v, last, fold = state
        h, e, last = self._normed(x, last)
        of_qk, of_v = self._fed(h, e)
        now_k = torch.cat((now_k, self.attention.keys(of_qk, angles)), dim=1)
        now_v = torch.cat((now_v, self.attention.value(of_v)), dim=1)
        q = self.attention.queries(of_qk, angles)
        s = self.attention.mixed(q, torch.cat((past_k, now_k), dim=1), torch.cat((past_v, now_v), dim=1))
        y = self._sum(x, h, e, s)
        fold = self.average.folded(x if self.config.ema_history == "input" else y, fold)
        return y, (past_k, past_v, now_k, now_v, last, fold)

    def solidified(
        self,
        x: Tensor,  # [B, T, dim]
        count: int,
        key_angles: PairAngles,  # of all T rows
        query_angles: PairAngles,  # of the last `count`
    ) -> Tensor:  # [B, count, dim]
        """The last `count` rows through the block where every row sees every other, without anything before."""
        h, e, _ = self._normed(x, torch.zeros_like(x[:, 0], dtype=self.average_bias.dtype))
        of_qk, of_v = self._fed(h, e)
        q = self.attention.queries(of_qk[:, -count:], query_angles)
        s = self.attention.mixed(q, self.attention.keys(of_qk, key_angles), self.attention.value(of_v), causal=False)
        return self._sum(x[:, -count:], h[:, -count:], e[:, -count:], s)

    def _normed(self, x: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h, e and the average at the last row."""
        averaged, last = self.average(x, last)
        return self.norm(x), self.average_norm(averaged), last

    def _fed(self, h: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """What queries and keys, and what values are made of."""
        return (h, e) if self.config.ema_feeds == "v" else (e, h)

    def _sum(self, x: Tensor, h: Tensor, e: Tensor, s: Tensor) -> Tensor:
        m = self.mlp(h)
        gate = self.mlp_gate(self.mlp_gate_norm(s if self.config.mlp_gate == "attention" else m))
        averaged = e * torch.sigmoid(self.average_gate(e) + self.average_bias.to(e.dtype))
        return x + s + m * torch.sigmoid(gate) + averaged

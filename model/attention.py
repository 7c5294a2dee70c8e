"""Causal grouped-query attention with normalised queries and keys, rotary positions and a learned query gain.

Half-split rotary embedding: with halves (a, b) of a head, the output is (a cos + b sin, -a sin + b cos).

1. Su et al. 2021, RoFormer, arXiv 2104.09864.  2. Ainslie et al. 2023, GQA, arXiv 2305.13245.
3. Henry et al. 2020, query-key normalisation, arXiv 2010.04245.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.linear import Linear, WeightMap
from ops.rotary.fused import normed_rotary
from ops.rotary.reference import rotary_table
from runtime.errors import UserError, nearest_multiple

# Keys and values seen so far, [B, num_kv_heads, T, head_dim] each.
KeyValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class AttentionConfig:
    """`num_kv_heads` must divide `num_heads`, `num_heads` must divide the width into even heads."""

    num_heads: int = 8
    num_kv_heads: int = 4
    rope_base: float = 10_000.0
    q_gain: float = 1.5
    weight_map: WeightMap | None = None
    has_bounded_state: ClassVar[bool] = False

    def build(self, dim: int) -> "Attention":
        self.check(dim)
        return Attention(self, dim)

    def check(self, dim: int) -> None:
        """Raises UserError where heads do not divide."""
        heads = max(1, self.num_heads)
        if self.num_heads < 1 or dim % heads or (dim // heads) % 2:
            raise UserError(
                f"the width must be an even multiple of the heads: {self.num_heads} heads do not fit width {dim}; "
                f"nearest width {nearest_multiple(dim, 2 * heads)}"
            )
        if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            divisors = [n for n in range(1, self.num_heads + 1) if self.num_heads % n == 0]
            raise UserError(
                f"key/value heads must divide the heads: {self.num_kv_heads} do not divide {self.num_heads}; "
                f"nearest {min(divisors, key=lambda n: abs(n - self.num_kv_heads))}"
            )

    def mixing_flops(self, dim: int, window: int) -> float:
        """Forward operations a token beyond the matrices: scores and weighted values of half a window on average."""
        return 2 * 2 * dim * window / 2


class Attention(nn.Module):
    """A mixer: y, state = attention(x, state) with x and y [B, T, dim]."""

    def __init__(self, config: AttentionConfig, dim: int) -> None:
        super().__init__()
        self.config, self.attend = config, causal_attention
        self.head_dim = dim // config.num_heads
        kv_dim = self.head_dim * config.num_kv_heads
        self.query = Linear(dim, dim, config.weight_map)
        self.key = Linear(dim, kv_dim, config.weight_map)
        self.value = Linear(dim, kv_dim, config.weight_map)
        self.project = Linear(dim, dim, config.weight_map, zero_init=True)
        self.q_gain = nn.Parameter(torch.full((config.num_heads,), config.q_gain))

    def forward(
        self,
        x: Tensor,  # [B, T, dim]
        state: KeyValues | None = None,  # what came before x; None at the start of a text
    ) -> tuple[Tensor, KeyValues]:
        past = 0 if state is None else state[0].shape[2]
        angles = rotary_table(past, x.shape[1], self.head_dim, self.config.rope_base, x.device)
        q, k, v = (self._heads(matrix(x)) for matrix in (self.query, self.key, self.value))
        q = normed_rotary(q, *angles, self.q_gain).transpose(1, 2)
        k = normed_rotary(k, *angles, self.q_gain.new_ones(k.shape[2])).transpose(1, 2)
        v = v.transpose(1, 2)
        if state is not None:
            k, v = torch.cat((state[0], k), dim=2), torch.cat((state[1], v), dim=2)
        y = self.attend(q, k, v)
        return self.project(y.transpose(1, 2).reshape(x.shape)), (k, v)

    def _heads(self, x: Tensor) -> Tensor:
        """[B, T, heads * head_dim] -> [B, T, heads, head_dim], a view."""
        return x.unflatten(-1, (-1, self.head_dim))


def causal_attention(
    q: Tensor,  # [B, H, T, D]
    k: Tensor,  # [B, Hkv, S, D] with S >= T: the T newest positions are the queries' own
    v: Tensor,  # [B, Hkv, S, D]
) -> Tensor:  # [B, H, T, D]
    """Softmax attention in which query t sees keys up to its own position."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    num_queries, num_keys = q.shape[2], k.shape[2]
    if num_queries == num_keys:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    seen = torch.ones(num_queries, num_keys, dtype=torch.bool, device=q.device).tril(num_keys - num_queries)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)

"""Attention to small values: one head over [q ; n - q] and [k ; n - k], which tells a small value from a missing one.

    q = rotate(LN [W_q x ; n - W_q x]),  k alike,  v = W_v z,  y = g(softmax(q kT / sqrt(2 dim)) v)

n is one learned number; rotary positions turn the first dim features, the other half stands still. What is kept of the
chunk before passes gates g(z) = z sigmoid(W z), a vector of dim features at a time. There is no output matrix.

1. BakaLLM, branch zero.  2. Su et al. 2021, RoFormer, arXiv 2104.09864.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import causal_attention
from model.layer_norm import LayerNorm
from model.linear import Linear
from ops.rotary.pairs import PairAngles, turned_pairs


class SmallValueAttention(nn.Module):
    """In parts: `queries`, `keys`, `value`, `gated_past`, and `mixed` of them; q and k are [B, T, width]."""

    def __init__(
        self,
        dim: int,
        negation: bool,  # False: q and k without their negations, width = dim instead of 2 dim
        dropout: float,  # of the attention weights, in training
    ) -> None:
        super().__init__()
        self.dim, self.dropout, self.attend = dim, dropout, causal_attention
        self.query, self.key, self.value = (Linear(dim, dim) for _ in range(3))
        self.past_key_gate, self.past_value_gate, self.out_gate = (Linear(dim, dim) for _ in range(3))
        self.negator = nn.Parameter(torch.ones(())) if negation else None
        self.width = 2 * dim if negation else dim
        self.query_norm, self.key_norm = LayerNorm(self.width), LayerNorm(self.width)

    def queries(self, x: Tensor, angles: PairAngles) -> Tensor:
        """[B, T, dim] -> [B, T, width]."""
        return self._placed(self.query_norm(self.with_negation(self.query(x))), angles)

    def keys(self, x: Tensor, angles: PairAngles) -> Tensor:
        """[B, T, dim] -> [B, T, width]."""
        return self._placed(self.key_norm(self.with_negation(self.key(x))), angles)

    def gated_past(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of the chunk before, as the present one sees them."""
        vectors = k.unflatten(-1, (-1, self.dim))
        return sigmoid_gated(vectors, self.past_key_gate).flatten(-2), sigmoid_gated(v, self.past_value_gate)

    def mixed(
        self,
        q: Tensor,  # [B, T, width]
        k: Tensor,  # [B, S, width]
        v: Tensor,  # [B, S, dim]
        causal: bool = True,  # query t sees keys up to S - T + t; False: all of them
    ) -> Tensor:  # [B, T, dim]
        """The gated output."""
        # A validation in the midst of training runs without gradients, and drops nothing.
        dropout = self.dropout if self.training and torch.is_grad_enabled() else 0.0
        heads, (num_queries, num_keys) = (q[:, None], k[:, None], v[:, None]), (q.shape[1], k.shape[1])
        if causal and not dropout:
            y = self.attend(*heads)
        else:
            seen = torch.ones(num_queries, num_keys, dtype=torch.bool, device=q.device)
            seen = seen.tril(num_keys - num_queries) if causal else seen
            y = F.scaled_dot_product_attention(*heads, attn_mask=seen, dropout_p=dropout)
        return sigmoid_gated(y[:, 0], self.out_gate)

    def with_negation(self, x: Tensor) -> Tensor:
        return x if self.negator is None else torch.cat((x, self.negator.to(x.dtype) - x), dim=-1)

    def _placed(self, x: Tensor, angles: PairAngles) -> Tensor:
        turned = turned_pairs(x[..., : self.dim], angles)
        return turned if self.negator is None else torch.cat((turned, x[..., self.dim :]), dim=-1)


def sigmoid_gated(z: Tensor, gate: Linear) -> Tensor:
    """z sigmoid(W z), of z's shape [..., dim]."""
    return z * torch.sigmoid(gate(z))

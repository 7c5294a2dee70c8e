"""Attention over the last `window` tokens alone: work and state do not grow with the text.

Queries go in blocks as long as the window, each with the keys of its own block and of the window - 1 tokens before it,
so T tokens cost T x 2 window scores. The state is raw keys: rotary scores depend on the distance alone, so positions
start anew at every call, and a text of any length needs no angle beyond the call's own.

1. Beltagy et al. 2020, Longformer, arXiv 2004.05150.  2. Jiang et al. 2023, Mistral 7B, arXiv 2310.06825.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from model.attention import Attention, AttentionConfig, KeyValues
from ops.rotary.fused import normed_rotary
from ops.rotary.reference import rotary_table
from runtime.errors import UserError


@dataclass(frozen=True)
class SlidingAttentionConfig(AttentionConfig):
    """A token sees `window` tokens, its own included."""

    window: int = 512
    has_bounded_state: ClassVar[bool] = True

    def build(self, dim: int) -> "SlidingAttention":
        if self.window < 1:
            raise UserError(f"attention needs a window of at least 1 token, got {self.window}; nearest 1")
        self.check(dim)
        return SlidingAttention(self, dim)

    def mixing_flops(self, dim: int, window: int) -> float:
        """Forward operations a token beyond the matrices, in texts of `window` tokens: scores and weighted values."""
        seen = min(self.window, window)
        return 2 * 2 * dim * (seen - seen * seen / (2 * window))


class SlidingAttention(Attention):
    """A mixer: y, state = attention(x, state); the state is keys and values before norm and rotation.

    Each is [B, window - 1, num_kv_heads, head_dim], or shorter near the start of a text.
    """

    def forward(
        self,
        x: Tensor,  # [B, T, dim]
        state: KeyValues | None = None,  # what came before x; None at the start of a text
    ) -> tuple[Tensor, KeyValues]:
        q, k, v = (self._heads(matrix(x)) for matrix in (self.query, self.key, self.value))
        if state is not None:
            k, v = torch.cat((state[0], k), dim=1), torch.cat((state[1], v), dim=1)
        past, kept = k.shape[1] - x.shape[1], max(0, k.shape[1] - (self.config.window - 1))
        cos, sin = rotary_table(0, k.shape[1], self.head_dim, self.config.rope_base, x.device)
        q = normed_rotary(q, cos[past:], sin[past:], self.q_gain).transpose(1, 2)
        turned_k = normed_rotary(k, cos, sin, self.q_gain.new_ones(k.shape[2])).transpose(1, 2)
        y = sliding_attention(q, turned_k, v.transpose(1, 2), self.config.window)
        return self.project(y.transpose(1, 2).reshape(x.shape)), (k[:, kept:], v[:, kept:])


def sliding_attention(
    q: Tensor,  # [B, H, T, D]
    k: Tensor,  # [B, Hkv, S, D] with S >= T: the T newest positions are the queries' own
    v: Tensor,  # [B, Hkv, S, D]
    window: int,
) -> Tensor:  # [B, H, T, D]
    """Softmax attention in which query t sees its own position and the window - 1 before it."""
    B, H, T, _ = q.shape
    block, past = min(window, T), k.shape[2] - T
    num_blocks = -(-T // block)
    padding = num_blocks * block - T
    q = F.pad(q, (0, 0, 0, padding)).unflatten(2, (num_blocks, block)).permute(2, 0, 1, 3, 4).flatten(1, 2)
    missing = window - 1 - past
    k, v = (_key_blocks(F.pad(x, (0, 0, missing, padding)), block, window, H) for x in (k, v))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=_seen(num_blocks, block, window, missing, q.device))
    return y.unflatten(1, (B, H)).permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :T]


def _key_blocks(
    x: Tensor,  # [B, Hkv, window - 1 + num_blocks * block, D]
    block: int,
    window: int,
    num_heads: int,
) -> Tensor:  # [num_blocks, B * H, window - 1 + block, D]
    """What each block of queries may see, the same for the heads that share it."""
    x = x.repeat_interleave(num_heads // x.shape[1], dim=1)
    return x.unfold(2, window - 1 + block, block).permute(2, 0, 1, 4, 3).flatten(1, 2)


def _seen(
    num_blocks: int,
    block: int,
    window: int,
    missing: int,  # keys before the text
    device: torch.device,
) -> Tensor:  # [num_blocks, 1, block, window - 1 + block] bool
    """Key j of a block lies window - 1 - (j - i) tokens before its query i."""
    query = torch.arange(block, device=device)[:, None]
    key = torch.arange(window - 1 + block, device=device)
    first = missing - block * torch.arange(num_blocks, device=device)[:, None, None, None]
    return (key >= query) & (key < query + window) & (key >= first)

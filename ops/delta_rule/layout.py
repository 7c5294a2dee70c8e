"""From tokens by head to chunks of one head each, and back: what lies side by side is multiplied as one batch.

Chunks are in the order [chunk, batch, head]; a head of q or k stands once for each of the value heads that share it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def into_chunks(
    x: Tensor,  # [B, T, h, ...]
    chunk: int,
    num_heads: int,  # a multiple of h
    dtype: torch.dtype,
) -> Tensor:  # [ceil(T / chunk) * B * num_heads, chunk, D], D = 1 without a last dimension
    """A copy in chunks and in `dtype`, with zeros behind the last token."""
    x = x[..., None] if x.dim() == 3 else x
    B, T, h, D = x.shape
    x = F.pad(x, (0, 0, 0, 0, 0, -T % chunk)) if T % chunk else x
    x = x.unflatten(1, (-1, chunk)).permute(1, 0, 3, 2, 4)[:, :, :, None]
    chunks = x.new_empty(x.shape[0], B, h, num_heads // h, chunk, D, dtype=dtype)
    return chunks.copy_(x).view(-1, chunk, D)


def chunks_into(
    out: Tensor,  # [B, n * chunk, h, ...]
    chunks: Tensor,  # [n * B * num_heads, chunk, D], num_heads a multiple of h
) -> None:
    """Writes chunks back where `into_chunks` took them from, summed over the heads that share one."""
    out = out[..., None] if out.dim() == 3 else out
    B, T, h, D = out.shape
    n, chunk = T // chunks.shape[1], chunks.shape[1]
    chunks = chunks.view(n, B, h, -1, chunk, D)
    chunks = chunks.sum(3) if chunks.shape[3] > 1 else chunks[:, :, :, 0]
    out.unflatten(1, (n, chunk)).copy_(chunks.permute(1, 0, 3, 2, 4))

"""Nats of a soft-capped, tied head: z = x Eᵀ, logits = cap tanh(z / cap), nats = logsumexp(logits) - logits[target].

Without a cap the logits are z. The projection runs in x's dtype; cap, softmax and nats are fp32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def softcapped_logits(
    x: Tensor,  # [N, D]
    table: Tensor,  # [V, D] fp32
    cap: float | None,
) -> Tensor:  # [N, V] fp32
    """The capped logits themselves, for sampling and for tests."""
    z = F.linear(x, table.to(x.dtype)).float()
    return z if cap is None else cap * torch.tanh(z / cap)


def softcapped_nats(
    x: Tensor,  # [N, D]
    table: Tensor,  # [V, D] fp32
    targets: Tensor,  # [N] int64
    cap: float | None,
) -> Tensor:  # [N] fp32
    """-log p(target) in nats, unreduced."""
    return F.cross_entropy(softcapped_logits(x, table, cap), targets, reduction="none")

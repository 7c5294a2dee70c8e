"""The damped moving average of a block, a channel at a time, and what one chunk hands to the next of it.

    y_t = a x_t + c y_{t-1},  a = sigmoid(A),  d = sigmoid(D),  c = (1 - a) d

The average of a chunk begins with that of the chunk before and reaches no further back: its seed is that chunk folded
from zero. The published MEGA damps otherwise, c = 1 - a d.

1. Ma et al. 2022, MEGA, arXiv 2209.10655.  2. BakaLLM, branch zero: one head, no expansion.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from ops.ema.scan import decayed_sum

Damping = Literal["baka", "mega"]


class DampedAverage(nn.Module):
    """y, last = average(x, last): [B, T, dim], and y of the last position before and after, [B, dim] fp32."""

    def __init__(self, dim: int, damping: Damping) -> None:
        super().__init__()
        self.damping = damping
        self.share_logit = nn.Parameter(torch.full((dim,), 0.9999))
        self.damping_logit = nn.Parameter(torch.full((dim,), 0.9899))

    def rates(self) -> tuple[Tensor, Tensor]:
        """a and c of the formula, [dim] each."""
        share, damping = self.share_logit.sigmoid(), self.damping_logit.sigmoid()
        return share, (1 - share) * damping if self.damping == "baka" else 1 - share * damping

    def forward(
        self,
        x: Tensor,  # [B, T, dim]
        last: Tensor,  # [B, dim]
    ) -> tuple[Tensor, Tensor]:
        share, decay = self.rates()
        y = decayed_sum(share * x, decay, last)
        return y.to(x.dtype), y[:, -1]

    def folded(
        self,
        x: Tensor,  # [B, T, dim]
        before: Tensor,  # [B, dim]
    ) -> Tensor:  # [B, dim]
        """The average at the last position of x where `before` is the one before its first."""
        share, decay = self.rates()
        age = torch.arange(x.shape[1] - 1, -1, -1, device=x.device)[:, None]
        return decay ** x.shape[1] * before + (share * decay**age * x).sum(1)

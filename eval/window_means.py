"""The metric of the BakaLLM posts: the mean over windows of each window's mean loss, whatever a window holds.

A document is read in windows of `context` tokens, half of it apart; every window after the first counts its new tokens
alone. A short last window weighs as much as a full one, so this is no mean over tokens; that one is given beside it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eval.sliding import plan_windows


@dataclass(frozen=True)
class MeanLosses:
    """Both means in nats a token."""

    of_windows: float
    of_tokens: float
    num_windows: int

    def line(self) -> str:
        """Both, with their perplexities."""
        return (
            f"mean over {self.num_windows} windows {self.of_windows:.5f} (perplexity {math.exp(self.of_windows):.2f}), "
            f"over tokens {self.of_tokens:.5f} (perplexity {math.exp(self.of_tokens):.2f})"
        )


@torch.inference_mode()
def mean_losses(
    model: nn.Module,  # the model contract
    tokens: Tensor,  # [N + 1] int64 on the CPU: the text
    documents: Sequence[range],  # the positions that each reads; it scores the tokens after them
    context: int,  # tokens a window
) -> MeanLosses:
    """Every window from a state of its own. Raises UserError for a context below 2."""
    device = next(model.parameters()).device
    means, total, count = [], 0.0, 0
    for document in documents:
        for window in plan_windows(len(document), context, context // 2):
            start = document.start + window.start
            x, y = (tokens[first : first + window.length].to(device)[None] for first in (start, start + 1))
            nats = model(x, y[:, -window.scored :])[0].double()
            means.append(nats.mean().item())
            total, count = total + nats.sum().item(), count + nats.numel()
    return MeanLosses(math.fsum(means) / len(means), total / count, len(means))

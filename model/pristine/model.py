"""BakaLLM, "pristine": a parallel stack over windows that know nothing of each other.

A text is cut into windows; attention stays within each. The state is where the present window begins and its keys and
values so far, so its size is bounded.

1. BakaLLM, branch 001_pristine, and the author's post, part 4.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from model.embed import PlainEmbeddingConfig, UntiedHead
from model.layer_norm import LayerNorm
from model.pristine.block import ParallelBlockConfig
from model.windowed import WindowedModel


@dataclass(frozen=True)
class PristineConfig:
    """`global_positions`: token 1 of a window stands at its offset + 1 in the text; released: every window from 0."""

    vocab_size: int
    dim: int
    layers: tuple[ParallelBlockConfig, ...]
    window: int = 512
    global_positions: bool = False
    embed: PlainEmbeddingConfig = PlainEmbeddingConfig(init_std=1.0)
    tied: bool = False  # the head is the embedding's table
    softcap: float | None = None
    has_bounded_state: ClassVar[bool] = True

    def build(self, compute_dtype: torch.dtype = torch.float32) -> "Pristine":
        return Pristine(self, compute_dtype)

    def mixing_flops(self, window: int) -> float:
        """Forward operations a token beyond the matrices: scores and weighted values of half a window on average."""
        return len(self.layers) * 2 * 2 * self.dim * min(window, self.window) / 2


class Pristine(WindowedModel):
    """The state is (start [B] int64,) and keys and values a layer."""

    def __init__(self, config: PristineConfig, compute_dtype: torch.dtype) -> None:
        super().__init__(config, compute_dtype)
        self.layers = nn.ModuleList(layer.build(config.dim, config.window) for layer in config.layers)
        self.norm = LayerNorm(config.dim)
        self.head = None if config.tied else UntiedHead(config.vocab_size, config.dim)

    def filled(self, state: tuple) -> int:
        """How many tokens of the present window are read."""
        return state[1][0].shape[2]

    def read(self, x: Tensor, state: tuple, closes: bool) -> tuple[Tensor, tuple]:
        """The last layer's output for tokens x [B, T, dim] of one window, and the state after them."""
        (start,), *states = state
        filled = self.filled(state)
        rows = torch.arange(filled, filled + x.shape[1], device=x.device)
        offset = start[0] if self.config.global_positions else torch.zeros_like(start[0])
        after = []
        for layer, own in zip(self.layers, states, strict=True):
            x, own = layer(x, own, rows, offset)
            after.append(tuple(part[:, :, :0] for part in own) if closes else own)
        return x, ((start + self.config.window if closes else start,), *after)

    def fresh(self, x: Tensor) -> tuple:
        """The state before a text, for rows and dtype of x [B, T, dim]."""
        start = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
        return ((start,), *(layer.attention.fresh(x) for layer in self.layers))

"""BakaLLM, "pristine": a parallel stack over windows that know nothing of each other.

A text is cut into windows; attention stays within each. The state is where the present window begins and its keys and
values so far, so its size is bounded, and reading token by token gives what reading at once gives.

1. BakaLLM, branch 001_pristine, and the author's post, part 4.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from model.embed import PlainEmbeddingConfig, UntiedHead
from model.language_model import LanguageModel
from model.layer_norm import LayerNorm
from model.linear import Linear
from model.pristine.block import ParallelBlockConfig
from runtime.errors import UserError


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


class Pristine(LanguageModel):
    """The state is (start [B] int64,) and keys and values a layer."""

    def __init__(self, config: PristineConfig, compute_dtype: torch.dtype) -> None:
        super().__init__(config, compute_dtype)
        if config.window < 1:
            raise UserError(f"a window holds at least 1 token, got {config.window}; nearest 1")
        self.layers = nn.ModuleList(layer.build(config.dim, config.window) for layer in config.layers)
        self.norm = LayerNorm(config.dim)
        self.head = None if config.tied else UntiedHead(config.vocab_size, config.dim)

    @property
    def head_table(self) -> Tensor:
        return self.embed.tokens.weight if self.head is None else self.head.weight

    def hidden(self, tokens: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        """The normalised output of the last layer [B, T, dim], and the state after `tokens`.

        Raises UserError for a state of another batch size or of another model.
        """
        x, _ = self.embed(tokens, self.compute_dtype)
        state, parts = self._fresh(x) if state is None else self._checked(state, x), []
        while x.shape[1]:
            room = self.config.window - state[1][0].shape[2]
            part, state = self._read(x[:, :room], state, closes=x.shape[1] >= room)
            parts.append(part)
            x = x[:, room:]
        return self.norm(torch.cat(parts, dim=1)), state

    def _read(self, x: Tensor, state: tuple, closes: bool) -> tuple[Tensor, tuple]:
        """The last layer's output for tokens x [B, T, dim] of one window, and the state after them."""
        (start,), *states = state
        filled = states[0][0].shape[2]
        rows = torch.arange(filled, filled + x.shape[1], device=x.device)
        offset = start[0] if self.config.global_positions else torch.zeros_like(start[0])
        after = []
        for layer, own in zip(self.layers, states, strict=True):
            x, own = layer(x, own, rows, offset)
            after.append(tuple(part[:, :, :0] for part in own) if closes else own)
        return x, ((start + self.config.window if closes else start,), *after)

    def _fresh(self, x: Tensor) -> tuple:
        start = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
        return ((start,), *(layer.attention.fresh(x) for layer in self.layers))

    def _checked(self, state: tuple, x: Tensor) -> tuple:
        """`state`, if it can be one of this model after some text of as many rows."""
        is_ours = isinstance(state[0], tuple) and len(state[0]) == 1 and len(state) == 1 + len(self.layers)
        got = len(state[0][0]) if is_ours else f"{len(state)} entries of another kind"
        if got != x.shape[0]:
            raise UserError(
                f"the state must be of this model and of as many rows as the tokens, {1 + len(self.layers)} entries "
                f"of {x.shape[0]} rows, got {got}; nearest None"
            )
        return state

    def initialise(self, linear: Linear, name: str) -> None:
        """Uniform within 1 / sqrt(in_features), whatever the matrix is for."""
        nn.init.kaiming_uniform_(linear.weight, a=math.sqrt(5))

"""Models that read a text in windows, whatever pieces it comes in: reading it token by token gives what at once gives.

A window is closed with its last token. The rows of a state have all read the same number of tokens.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from model.embed import UntiedHead
from model.language_model import LanguageModel
from model.layer_norm import LayerNorm
from model.linear import Linear
from runtime.errors import UserError


class WindowedModel(LanguageModel):
    """Windows of `config.window` tokens, a head of its own unless `config.tied`.

    A model adds `layers`, then `norm` and `head`, and how it reads: `fresh(x)` is the state before a text with the rows
    and dtype of x [B, T, dim], empty in the dimensions that grow; `filled(state)` how many tokens of the present window
    it has read, 0 before a window; `read(x, state, closes)` the last layer's output for tokens x of one window, and
    the state after them.
    """

    norm: LayerNorm
    head: UntiedHead | None

    def __init__(
        self,
        config: Any,  # has window and tied, and what any model's has
        compute_dtype: torch.dtype,
    ) -> None:
        super().__init__(config, compute_dtype)
        if config.window < 1:
            raise UserError(f"a window holds at least 1 token, got {config.window}; nearest 1")

    @property
    def head_table(self) -> Tensor:
        return self.embed.tokens.weight if self.head is None else self.head.weight

    def hidden(self, tokens: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        """The normalised output of the last layer [B, T, dim], and the state after `tokens`.

        Raises UserError for a state of another batch size or of another model.
        """
        x, _ = self.embed(tokens, self.compute_dtype)
        state = self.fresh(x) if state is None else self._checked(state, x)
        parts, num_opened = [], 0
        while x.shape[1]:
            filled = self.filled(state)
            if not filled:
                state = self.opened(state, num_opened)
                num_opened += 1
            room = self.config.window - filled
            part, state = self.read(x[:, :room], state, closes=x.shape[1] >= room)
            parts.append(part)
            x = x[:, room:]
        return self.norm(torch.cat(parts, dim=1)), state

    def opened(self, state: tuple, number: int) -> tuple:
        """The state at the begin of a window, the `number`th that opens in this call, from 0."""
        return state

    def initialise(self, linear: Linear, name: str) -> None:
        """Uniform within 1 / sqrt(in_features), whatever the matrix is for."""
        nn.init.kaiming_uniform_(linear.weight, a=math.sqrt(5))

    def _checked(self, state: tuple, x: Tensor) -> tuple:
        """`state`, if it can be one of this model after some text of as many rows."""
        wrong = _difference(state, self.fresh(x))
        if not wrong and self.filled(state) > self.config.window:
            wrong = f"windows of {self.config.window} tokens, got one of {self.filled(state)}"
        if wrong:
            raise UserError(f"the state must be of this model and of as many rows as the tokens: {wrong}; nearest None")
        return state


def _difference(state: Any, fresh: Any) -> str | None:
    """The first thing in which a state is not as a fresh one; its tensors may be of any size where those are empty."""
    if isinstance(fresh, tuple):
        if not isinstance(state, tuple) or len(state) != len(fresh):
            return f"{len(fresh)} entries, got {len(state) if isinstance(state, tuple) else state}"
        return next(filter(None, map(_difference, state, fresh)), None)
    wanted, got = tuple(fresh.shape), tuple(getattr(state, "shape", ()))
    fits = len(got) == len(wanted) and all(size in (0, given) for size, given in zip(wanted, got, strict=True))
    return None if fits else f"shape {wanted}, got {got}"

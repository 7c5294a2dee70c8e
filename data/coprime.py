"""Training batches that mix the whole corpus: every row is a window from somewhere else.

The stream is cut into M = length // window windows. Row n is window (n P) mod M with P coprime to M and near the golden
section of M, so that neighbouring rows lie far apart, each window comes once an epoch, and there is nothing to store.
Every epoch shifts the cuts. Small batches need this: contiguous tokens of a step are all of one document [1].

[1] Parameter Golf pull request 1060 (coprime strides).
"""

from collections.abc import Sequence
from math import gcd
from pathlib import Path

import torch
from torch import Tensor

from data.loader import check_slices
from data.stream import TokenStream
from runtime.errors import UserError

GOLDEN = (5**0.5 - 1) / 2


class CoprimeLoader:
    """The same contract as `SequentialLoader`: 1 rank calling 8 times sees the slices of 8 ranks calling once."""

    def __init__(
        self,
        paths: Sequence[str | Path],  # the shards in stream order
        *,
        window: int,  # tokens a row
        tokens_per_slice: int,  # tokens a call and rank, a multiple of `window`
        rank: int,
        world_size: int,
        vocab_size: int,
    ) -> None:
        """Maps the shards. Raises UserError as `SequentialLoader` does, and for a stream shorter than one window."""
        check_slices(window, tokens_per_slice, rank, world_size)
        self.window, self.rank, self.world_size = window, rank, world_size
        self.tokens_per_slice = tokens_per_slice
        self._stream = TokenStream(paths, vocab_size)
        self._num_windows = self._stream.length // window
        if not self._num_windows:
            raise UserError(
                f"the training split must hold one window of {window} tokens, got {self._stream.length}; "
                f"nearest window {self._stream.length}"
            )
        self._stride = coprime_stride(self._num_windows)
        # Rows taken by all ranks since the start of training.
        self.rows = 0

    def next(self) -> tuple[Tensor, Tensor]:
        """The next x and y of this rank, int64 on the CPU, each [tokens_per_slice // window, window]."""
        count = self.tokens_per_slice // self.window
        first = self.rows + self.rank * count
        rows = torch.stack([self._stream.read(self._start(n), self.window + 1) for n in range(first, first + count)])
        self.rows += self.world_size * count
        return rows[:, :-1], rows[:, 1:]

    @property
    def epochs(self) -> float:
        """How often the whole stream has been taken."""
        return self.rows / self._num_windows

    def state_dict(self) -> dict[str, int]:
        """Where training stands, for all ranks alike."""
        return {"rows": self.rows, "stream_tokens": self._stream.length}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from a `state_dict`, of any world size. Raises UserError when it is of another stream."""
        self._stream.check_same(state["stream_tokens"])
        self.rows = state["rows"]

    def _start(self, row: int) -> int:
        epoch, place = divmod(row, self._num_windows)
        shift = int(epoch * GOLDEN * self.window) % self.window
        return place * self._stride % self._num_windows * self.window + shift


def coprime_stride(count: int) -> int:
    """The number coprime to `count` that is nearest to its golden section.

    >>> coprime_stride(100), coprime_stride(2), coprime_stride(1)
    (61, 1, 1)
    """
    near = max(1, round(count * GOLDEN))
    return next(
        stride
        for distance in range(count)
        for stride in (near - distance, near + distance)
        if stride > 0 and gcd(stride, count) == 1
    )

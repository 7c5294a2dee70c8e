"""Training batches in the competition's order: one endless stream over the sorted shards, cut into the ranks' slices.

One call takes world_size x (tokens_per_slice + 1) contiguous tokens; rank r takes the r-th slice of them,
x = slice[:-1], y = slice[1:]. No shuffling, and windows cross documents [1]. So 8 ranks calling once and 1 rank calling
8 times see the same slices in the same order.

[1] openai/parameter-golf, the organisers' train_gpt.py.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from data.stream import TokenStream
from runtime.errors import UserError, nearest_multiple


class SequentialLoader:
    """Endless batches of one rank; reads only the bytes it returns, and its whole state is a position in the stream."""

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
        """Maps the shards. Raises UserError for sizes that do not divide, a rank outside the world, or a bad shard."""
        check_slices(window, tokens_per_slice, rank, world_size)
        self.window = window
        self.tokens_per_slice = tokens_per_slice
        self.rank = rank
        self.world_size = world_size
        self._stream = TokenStream(paths, vocab_size)
        # Both count over all ranks and never wrap; where a batch begins is the position modulo the stream's length.
        self.position = 0
        self.tokens = 0

    def next(self) -> tuple[Tensor, Tensor]:
        """The next x and y of this rank, int64 on the CPU, each [tokens_per_slice // window, window].

        The two share memory. Raises UserError for a token id beyond the vocabulary.
        """
        span = self.tokens_per_slice + 1
        ids = self._stream.read(self.position + self.rank * span, span)
        self.position += self.world_size * span
        self.tokens += self.world_size * self.tokens_per_slice
        return ids[:-1].view(-1, self.window), ids[1:].view(-1, self.window)

    @property
    def epochs(self) -> float:
        """How often the whole stream has been taken."""
        return self.position / self._stream.length

    def state_dict(self) -> dict[str, int]:
        """Where the stream stands, for all ranks alike: position, target tokens seen, epoch, length of the stream."""
        return {
            "position": self.position,
            "tokens": self.tokens,
            "epoch": self.position // self._stream.length,
            "stream_tokens": self._stream.length,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from a `state_dict`, of any world size. Raises UserError when it is of another stream."""
        self._stream.check_same(state["stream_tokens"])
        self.position = state["position"]
        self.tokens = state["tokens"]


def check_slices(window: int, tokens_per_slice: int, rank: int, world_size: int) -> None:
    """Raises UserError for sizes that do not divide or a rank outside the world."""
    if window < 1:
        raise UserError(f"a window holds at least 1 token, got {window}; nearest 1")
    if tokens_per_slice < 1 or tokens_per_slice % window:
        raise UserError(
            f"tokens a slice must be a multiple of the window = {window}, got {tokens_per_slice}; "
            f"nearest {nearest_multiple(tokens_per_slice, window)}"
        )
    if not 0 <= rank < world_size:
        closest = min(max(rank, 0), world_size - 1)
        raise UserError(f"a rank lies in 0..{world_size - 1} for {world_size} ranks, got {rank}; nearest {closest}")

"""Training batches that follow documents: a row is one document, and the next batch goes on where the last one stopped.

Documents of about one length go together: sorted by their number of windows, they are cut into groups of as many as a
slice has rows. A group begins together, its longest first; documents that end leave the batch, so those that go on are
always the first rows, and the model's state is cut in the same way (`going_on` says to how many).

Slice n is of lane n mod `lanes`; lanes take the groups in turn, in an order that mixes lengths. With as many lanes as a
step has slices, every slice of a step continues the one in its place in the step before, on the same rank.

Whole windows only: what a document has beyond them is left out at its end, and in every second epoch at its beginning.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.coprime import coprime_stride
from data.loader import check_slices
from data.shards import open_shard
from data.stream import TokenStream
from data.tokenizer import BOS_ID
from runtime.errors import UserError


@dataclass(frozen=True)
class DocumentsConfig:
    """A loader of `lanes` lanes, called as the loader classes are; the number of ranks must divide the lanes."""

    lanes: int = 1

    def __call__(
        self,
        paths: Sequence[str | Path],  # the shards in stream order
        *,
        window: int,  # tokens a row
        tokens_per_slice: int,  # tokens a call and rank while no document has ended, a multiple of `window`
        rank: int,
        world_size: int,
        vocab_size: int,
    ) -> "DocumentLoader":
        """Reads where documents begin. Raises UserError as `SequentialLoader` does, and when none has a window."""
        check_slices(window, tokens_per_slice, rank, world_size)
        if self.lanes < 1 or self.lanes % world_size:
            raise UserError(
                f"the ranks must divide the lanes of documents: {world_size} ranks, {self.lanes} lanes; "
                f"nearest {-(-max(1, self.lanes) // world_size) * world_size} lanes"
            )
        stream = TokenStream(paths, vocab_size)
        groups = document_groups(document_starts(paths), stream.length, window, tokens_per_slice // window)
        return DocumentLoader(stream, groups, window, self.lanes, rank, world_size)


def document_starts(paths: Sequence[str | Path]) -> list[int]:
    """Where the documents of the shards begin in their stream: at every BOS, and at 0."""
    starts, before = [0], 0
    for path in paths:
        shard = open_shard(path)
        starts += (np.flatnonzero(shard == BOS_ID) + before).tolist()
        before += len(shard)
    return sorted(set(starts))


def document_groups(starts: list[int], stream_tokens: int, window: int, num_rows: int) -> list[list[range]]:
    """The documents with at least one window, as ranges of the stream: groups of up to `num_rows`, the longest first.

    Raises UserError when no document is that long.
    """
    ends = [*starts[1:], stream_tokens]
    documents = [range(start, end) for start, end in zip(starts, ends, strict=True)]
    longest = max(len(document) for document in documents)
    if longest < window:
        raise UserError(
            f"a document must hold one window of {window} tokens, the longest of {len(documents)} has {longest}; "
            f"nearest window {longest}"
        )
    kept = sorted((d for d in documents if len(d) >= window), key=lambda d: (-(len(d) // window), d.start))
    return [kept[first : first + num_rows] for first in range(0, len(kept), num_rows)]


class DocumentLoader:
    """The contract of `SequentialLoader`, and what a carried state needs: `lane` of the last slice, and `going_on`."""

    def __init__(
        self,
        stream: TokenStream,
        groups: list[list[range]],
        window: int,
        lanes: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.window, self.rank, self.world_size = window, rank, world_size
        self._stream, self._groups = stream, groups
        self._stride = coprime_stride(len(groups))
        self._epoch_windows = sum(len(document) // window for group in groups for document in group)
        self.slices = 0  # of all ranks
        self.windows = 0  # rows of all ranks
        self.lane = rank  # of this rank's last slice
        # The group of each lane, counted on without end, and the window of it that comes next.
        self._places = [[lane, 0] for lane in range(lanes)]

    def next(self) -> tuple[Tensor, Tensor]:
        """The next x and y of this rank, int64 on the CPU, [rows, window] each with one row a document going on."""
        lanes = [(self.slices + rank) % len(self._places) for rank in range(self.world_size)]
        self.lane = lanes[self.rank]
        rows = torch.stack([self._stream.read(start, self.window + 1) for start in self._starts(self.lane)])
        for lane in lanes:
            self.windows += self._rows(lane)
            self._advance(lane)
        self.slices += self.world_size
        return rows[:, :-1], rows[:, 1:]

    def going_on(self, lane: int) -> int:
        """How many rows of the lane's last slice its next one continues; 0: it begins with other documents."""
        return self._rows(lane) if self._places[lane][1] else 0

    @property
    def tokens(self) -> int:
        """Targets that all ranks have been given."""
        return self.windows * self.window

    @property
    def epochs(self) -> float:
        """How often all windows have been taken."""
        return self.windows / self._epoch_windows

    def state_dict(self) -> dict:
        """Where training stands, for all ranks alike."""
        return {
            "slices": self.slices,
            "windows": self.windows,
            "places": [list(place) for place in self._places],
            "stream_tokens": self._stream.length,
        }

    def load_state_dict(self, state: dict) -> None:
        """Goes on from a `state_dict`, of any world size. Raises UserError when it is of another stream."""
        self._stream.check_same(state["stream_tokens"])
        self.slices, self.windows = state["slices"], state["windows"]
        self._places = [list(place) for place in state["places"]]

    def _group(self, lane: int) -> tuple[int, list[range]]:
        """The epoch of the lane, and its present group."""
        epoch, turn = divmod(self._places[lane][0], len(self._groups))
        return epoch, self._groups[turn * self._stride % len(self._groups)]

    def _rows(self, lane: int) -> int:
        """Documents of the lane's group that have its next window."""
        _, group = self._group(lane)
        return sum(len(document) // self.window > self._places[lane][1] for document in group)

    def _starts(self, lane: int) -> list[int]:
        """Where the rows of the lane's next slice begin in the stream."""
        epoch, group = self._group(lane)
        passed = self._places[lane][1] * self.window
        return [d.start + epoch % 2 * (len(d) % self.window) + passed for d in group[: self._rows(lane)]]

    def _advance(self, lane: int) -> None:
        self._places[lane][1] += 1
        if not self._rows(lane):
            self._places[lane] = [self._places[lane][0] + len(self._places), 0]

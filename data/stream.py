"""The tokens of a split as one endless stream over its sorted shards, memory-mapped and read where asked."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.shards import check_ids, open_shard
from runtime.errors import UserError


class TokenStream:
    """`read(start, count)` costs what it returns; after the last token comes the first again."""

    def __init__(self, paths: Sequence[str | Path], vocab_size: int) -> None:
        """Maps the shards in stream order. Raises UserError for none, or a bad one."""
        if not paths:
            raise UserError("the loader needs at least one shard, got none")
        self._paths = list(paths)
        self._vocab_size = vocab_size
        self._shards = [open_shard(path) for path in paths]
        # starts[i] is where shard i begins in the stream; the last entry is the stream's length.
        self._starts = np.concatenate([[0], np.cumsum([len(shard) for shard in self._shards])])
        self.length = int(self._starts[-1])

    def read(self, start: int, count: int) -> Tensor:
        """[count] int64 ids from `start` modulo the length. Raises UserError for an id beyond the vocabulary."""
        ids = np.empty(count, dtype=np.int64)
        filled = 0
        while filled < count:
            place = (start + filled) % self.length
            index = int(np.searchsorted(self._starts, place, side="right")) - 1
            offset = place - int(self._starts[index])
            part = self._shards[index][offset : offset + count - filled]
            check_ids(part, self._vocab_size, self._paths[index], offset)
            ids[filled : filled + len(part)] = part
            filled += len(part)
        return torch.from_numpy(ids)

    def check_same(self, stream_tokens: int) -> None:
        """Raises UserError when a checkpoint's stream had another length than this one."""
        if stream_tokens != self.length:
            raise UserError(
                f"the checkpoint's data must be the loader's: its stream has {stream_tokens} tokens, "
                f"the shards have {self.length}"
            )

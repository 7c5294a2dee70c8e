"""Memory tokens around a chunk, as a recurrent memory transformer has them, and what makes the next chunk's memory.

    [memory | separator | the chunk | separator | suffix]

The memory of the first chunk is learned; that of a later one is what the solidifier, a block in which every row sees
every other, makes of the last rows of the chunk before. The suffix is learned too, or this chunk's memory again, as
the author found to be better later ("previous").

1. Bulatov et al. 2022, recurrent memory transformer, arXiv 2207.06881.  2. BakaLLM, branch zero and part 11.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from model.baka.block import BakaBlockConfig
from ops.rotary.pairs import PairAngles


@dataclass(frozen=True)
class MemoryConfig:
    """`num_tokens` on each side, separators not counted; 0: no memory, no separators, no solidifier.

    `query_positions`: the solidifier's queries stand at their true rows, or at rows 0, 1 ... as released.
    """

    num_tokens: int = 32
    suffix: Literal["learned", "previous"] = "learned"
    query_positions: Literal["true", "released"] = "true"

    def build(self, dim: int, init_std: float, solidifier: BakaBlockConfig) -> "Memory":
        return Memory(self, dim, init_std, solidifier)


class Memory(nn.Module):
    """Rows to put before and after a chunk [B, n, dim], and the memory that comes out of one."""

    def __init__(self, config: MemoryConfig, dim: int, init_std: float, solidifier: BakaBlockConfig) -> None:
        super().__init__()
        self.config, self.init_std = config, init_std
        self.first = nn.Parameter(torch.empty(config.num_tokens, dim))
        self.separators = nn.Parameter(torch.empty(2, dim)) if config.num_tokens else None
        self.last = nn.Parameter(torch.empty(config.num_tokens, dim)) if config.suffix == "learned" else None
        self.solidifier = solidifier.build(dim) if config.num_tokens else None

    def reset_parameters(self) -> None:
        for rows in (self.first, self.separators, self.last):
            if rows is not None:
                nn.init.normal_(rows, std=self.init_std)

    @property
    def num_rows(self) -> int:
        """Rows on each side of a chunk."""
        return self.config.num_tokens + 1 if self.config.num_tokens else 0

    def before(self, memory: Tensor) -> Tensor:
        """memory [B, num_tokens, dim] and the separator."""
        return torch.cat((memory, self._separator(0, memory)), dim=1) if self.num_rows else memory

    def after(self, memory: Tensor) -> Tensor:
        """The separator and the suffix of the chunk that began with `memory`."""
        suffix = memory if self.last is None else self.last.to(memory.dtype).expand_as(memory)
        return torch.cat((self._separator(1, memory), suffix), dim=1) if self.num_rows else memory

    def solidified(self, rows: Tensor, angles: PairAngles) -> Tensor:
        """The memory that the next chunk begins with, of all rows of this one after the last layer [B, T, dim]."""
        count = self.config.num_tokens
        if not count:
            return rows[:, :0]
        tail = slice(-count, None) if self.config.query_positions == "true" else slice(count)
        return self.solidifier.solidified(rows, count, angles, tuple(table[tail] for table in angles))

    def _separator(self, side: int, memory: Tensor) -> Tensor:
        return self.separators[side].to(memory.dtype).expand(memory.shape[0], 1, -1)

"""Integers of a trellis grid through the range coder: even and odd ones have distributions of their own.

The machine of `quantize.trellis` says which parity is due. It is known for a whole row once the rows above are, so a
row costs two calls: its even codes from the left, then its odd ones. In the table all even integers stand before the
odd.
"""

from dataclasses import dataclass

import numpy as np
from constriction import stream

from compress.range_coder import RangeKind, distribution
from quantize.trellis import TRELLIS8, TrellisGrid, next_states
from runtime.errors import UserError


@dataclass(frozen=True)
class TrellisKind(RangeKind):
    """Matrices on a trellis grid."""

    grid: TrellisGrid = TRELLIS8

    def symbols_of(self, integers: np.ndarray) -> np.ndarray:
        """A matrix as indices into its table."""
        shifted = integers - self.grid.lowest
        return shifted // 2 + shifted % 2 * (self.num_symbols // 2)

    def integers_of(self, symbols: np.ndarray) -> np.ndarray:
        """What `symbols_of` was given."""
        odd, half = np.divmod(symbols, self.num_symbols // 2)
        return 2 * half + odd + self.grid.lowest

    def write(self, encoder: stream.queue.RangeEncoder, table: np.ndarray, symbols: np.ndarray) -> None:
        """Appends the symbols of a matrix, row by row."""
        half = self.num_symbols // 2
        even, odd = (distribution(part) for part in np.split(table, 2))
        for row in symbols:
            encoder.encode(row[row < half], even)
            encoder.encode(row[row >= half] - half, odd)

    def read(self, decoder: stream.queue.RangeDecoder, table: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The symbols of the next matrix. Raises UserError for a shape that is none."""
        if len(shape) != 2:
            raise UserError(f"a trellis runs down the rows of a matrix, got codes of shape {list(shape)}")
        half = self.num_symbols // 2
        even, odd = (distribution(part) for part in np.split(table, 2))
        symbols = np.empty(shape, np.int32)
        following = np.array(next_states(self.grid.states))
        states = np.zeros(symbols.shape[1], np.int64)
        for row in symbols:
            due = states % 2 == 1
            row[~due] = decoder.decode(even, int((~due).sum()))
            row[due] = decoder.decode(odd, int(due.sum()))
            states = following[states, row % 2]
            row[due] += half
        return symbols

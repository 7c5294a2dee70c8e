"""Integers of a trellis grid through the range coder: even and odd ones have distributions of their own.

The machine of `quantize.trellis` says which parity is due. It is known for a whole row once the rows above are, so a
row costs two calls: its even codes from the left, then its odd ones. Both distributions come out of one table.
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

    def write(self, encoder: stream.queue.RangeEncoder, frequencies: np.ndarray, symbols: np.ndarray) -> None:
        """Appends the symbols of a matrix, row by row."""
        even, odd = _by_parity(frequencies)
        for row in symbols:
            encoder.encode(row[row % 2 == 0] // 2, even)
            encoder.encode(row[row % 2 == 1] // 2, odd)

    def read(self, decoder: stream.queue.RangeDecoder, frequencies: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The symbols of the next matrix. Raises UserError for a shape that is none."""
        if len(shape) != 2:
            raise UserError(f"a trellis runs down the rows of a matrix, got codes of shape {list(shape)}")
        even, odd = _by_parity(frequencies)
        symbols = np.empty(shape, np.int32)
        following = np.array(next_states(self.grid.states))
        states = np.zeros(symbols.shape[1], np.int64)
        for row in symbols:
            due = states % 2 == 1
            row[~due] = 2 * decoder.decode(even, int((~due).sum()))
            row[due] = 2 * decoder.decode(odd, int(due.sum())) + 1
            states = following[states, row // 2 % 2]
        return symbols


def _by_parity(frequencies: np.ndarray) -> tuple[stream.model.Categorical, stream.model.Categorical]:
    """The distributions of even and of odd integers; 0 stands for the lowest, which is even."""
    return distribution(frequencies[::2].copy()), distribution(frequencies[1::2].copy())

"""Integers through a range coder [1]: one static distribution a tensor, and tables that cost next to nothing.

A table holds the root of each integer's count, rounded. Counts vary by their root, so a rounded root is off by as much
whatever the count, and the rounding costs about a quarter of a bit for each integer that occurs. The squares are the
distribution, in fp64 on both sides. Tables are stored as differences of neighbours, the sign in the lowest bit.

All tensors of a group are one string of words. The streams are canonical: reading encodes again and compares, so the
tables are a checksum of the words, and what was cut, extended or changed is seen.

[1] Martin 1979, "Range encoding"; the implementation is constriction (Bamler 2022, arXiv 2201.01741): words of 32 bits,
first in first out.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from constriction import stream

from compress.kinds import GridKind, Shapes
from quantize.grid import Coded
from runtime.errors import UserError

# What an integer that does not occur counts, so that no distribution is empty; a 2^24th is its least share anyway.
UNSEEN = 2.0**-10


@dataclass(frozen=True)
class RangeKind(GridKind):
    """Integers of a grid through the range coder. A grid with a memory replaces the methods about symbols."""

    labels = "data", "data", "scales", "scales"
    method = "-range"

    @property
    def num_symbols(self) -> int:
        """Entries of a table."""
        return self.grid.highest - self.grid.lowest + 1

    def sizes(self, shapes: Shapes) -> list[int | None]:
        """Bytes of words, tables and scales before coding."""
        return [None, 2 * self.num_symbols * len(shapes), *super().sizes(shapes)[1:]]

    def pack(self, tensors: list[Coded]) -> list[bytes]:
        """The words, the tables, and the planes of the scales."""
        encoder, tables = stream.queue.RangeEncoder(), []
        for coded in tensors:
            symbols = self.symbols_of(coded.integers.numpy().astype(np.int32))
            tables.append(root_table(symbols, self.num_symbols))
            self.write(encoder, tables[-1], symbols)
        words = encoder.get_compressed().astype("<u4").tobytes()
        return [words, pack_tables(np.stack(tables)), *super().pack(tensors)[1:]]

    def unpack(self, streams: list[bytes], shapes: Shapes) -> list[Coded]:
        """The tensors. Raises UserError for streams that `pack` does not write."""
        words, tables, *scales = streams
        foreign = UserError(f"{self.name} data must be what its integers encode to, got {len(words):,} other bytes")
        if len(words) % 4:
            raise foreign
        decoder = stream.queue.RangeDecoder(np.frombuffer(words, "<u4").astype(np.uint32))
        try:
            pairs = zip(unpack_tables(tables, self.num_symbols), shapes, strict=True)
            integers = [self.integers_of(self.read(decoder, *pair)).astype(np.int8).tobytes() for pair in pairs]
        # How constriction says that no symbols have these words.
        except AssertionError as error:
            raise foreign from error
        tensors = super().unpack([b"".join(integers), *scales], shapes)
        # Not self.pack: what inherits may store the scales in another way.
        if RangeKind.pack(self, tensors) != streams:
            raise foreign
        return tensors

    def symbols_of(self, integers: np.ndarray) -> np.ndarray:
        """Integers of any shape as indices into their table."""
        return integers - self.grid.lowest

    def integers_of(self, symbols: np.ndarray) -> np.ndarray:
        """What `symbols_of` was given."""
        return symbols + self.grid.lowest

    def write(self, encoder: stream.queue.RangeEncoder, table: np.ndarray, symbols: np.ndarray) -> None:
        """Appends the symbols of a tensor."""
        encoder.encode(symbols.reshape(-1), distribution(table))

    def read(self, decoder: stream.queue.RangeDecoder, table: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The symbols of the next tensor, flat."""
        return decoder.decode(distribution(table), prod(shape))


def distribution(table: np.ndarray) -> stream.model.Categorical:
    """The distribution that a table of roots stands for."""
    # perfect=True would search for a better rounding, and once did not end.
    return stream.model.Categorical(np.square(table.astype(np.float64)) + UNSEEN, perfect=False)


def root_table(symbols: np.ndarray, size: int) -> np.ndarray:
    """The rounded roots of the symbols' counts, [size] int16.

    >>> root_table(np.array([0, 2, 2, 2, 2, 2, 2]), 4).tolist()
    [1, 0, 2, 0]
    """
    return np.sqrt(np.bincount(symbols.reshape(-1), minlength=size)).round().astype(np.int16)


def pack_tables(tables: np.ndarray) -> bytes:
    """Tables [tables, size] as two planes of bytes, the high ones first.

    >>> pack_tables(np.array([[1, 300, 299]], np.int16)).hex()
    '000200025601'
    """
    steps = np.diff(tables, axis=1, prepend=np.int16(0))
    folded = ((steps << 1) ^ (steps >> 15)).astype(">u2")
    return folded.view(np.uint8).reshape(-1, 2).T.tobytes()


def unpack_tables(data: bytes, size: int) -> np.ndarray:
    """What `pack_tables` was given; any bytes are some tables."""
    planes = np.frombuffer(data, np.uint8).reshape(2, -1).T
    folded = np.ascontiguousarray(planes).view(">u2").astype(np.uint16)
    steps = (folded >> 1).astype(np.int16) ^ -(folded & 1).astype(np.int16)
    return np.cumsum(steps.reshape(-1, size), axis=1, dtype=np.int16)

"""Integers through a range coder [1]: one static distribution a tensor, and tables that cost next to nothing.

A table holds roots of counts, since counts vary by their root: for each pair of integers m and -m the mean of both
roots, rounded, and a quarter of their difference, rounded, which is 0 where they differ by chance. The squares of what
the roots thus become are the distribution, in fp64 on both sides. Tables are stored as differences of neighbours, the
sign in the lowest bit. To store each root by itself took 1.5 to 2.2 times the bytes (trained matrices).

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
    def reach(self) -> int:
        """The largest magnitude of an integer; what is coded is the integer plus this."""
        return -self.grid.lowest

    def sizes(self, shapes: Shapes) -> list[int | None]:
        """Bytes of words, tables and scales before coding."""
        return [None, 2 * (2 * self.reach + 1) * len(shapes), *super().sizes(shapes)[1:]]

    def pack(self, tensors: list[Coded]) -> list[bytes]:
        """The words, the tables, and the planes of the scales."""
        encoder, tables = stream.queue.RangeEncoder(), []
        for coded in tensors:
            symbols = coded.integers.numpy().astype(np.int32) + self.reach
            tables.append(root_table(symbols, self.reach))
            self.write(encoder, table_frequencies(tables[-1]), symbols)
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
            pairs = zip(map(table_frequencies, unpack_tables(tables, 2 * self.reach + 1)), shapes, strict=True)
            integers = [(self.read(decoder, *pair) - self.reach).astype(np.int8).tobytes() for pair in pairs]
        # How constriction says that no symbols have these words.
        except AssertionError as error:
            raise foreign from error
        tensors = super().unpack([b"".join(integers), *scales], shapes)
        # Not self.pack: what inherits may store the scales in another way.
        if RangeKind.pack(self, tensors) != streams:
            raise foreign
        return tensors

    def write(self, encoder: stream.queue.RangeEncoder, frequencies: np.ndarray, symbols: np.ndarray) -> None:
        """Appends the symbols of a tensor; a grid with a memory does it in its own way."""
        encoder.encode(symbols.reshape(-1), distribution(frequencies))

    def read(self, decoder: stream.queue.RangeDecoder, frequencies: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The symbols of the next tensor, flat."""
        return decoder.decode(distribution(frequencies), prod(shape))


def distribution(frequencies: np.ndarray) -> stream.model.Categorical:
    """Symbols from 0 by how often they occur."""
    # perfect=True would search for a better rounding, and once did not end.
    return stream.model.Categorical(frequencies, perfect=False)


def root_table(symbols: np.ndarray, reach: int) -> np.ndarray:
    """Quarters of differences for the magnitudes `reach` to 1, then means for `reach` to 0: [2 * reach + 1] int16.

    >>> root_table(np.repeat([0, 1, 2, 3, 4], [1, 16, 36, 16, 81]), 2).tolist()
    [2, 0, 5, 4, 6]
    """
    roots = np.sqrt(np.bincount(symbols.reshape(-1), minlength=2 * reach + 1))
    below, above = roots[: reach + 1], roots[reach:][::-1]
    return np.concatenate([(above - below)[:-1] / 4, (above + below) / 2]).round().astype(np.int16)


def table_frequencies(table: np.ndarray) -> np.ndarray:
    """How often the symbols 0 to 2 * reach occur, in fp64, as far as the table knows.

    >>> table_frequencies(np.array([2, 0, 5, 4, 6])).round().tolist()
    [1.0, 16.0, 36.0, 16.0, 81.0]
    """
    differences, means = np.split(2.0 * table, [len(table) // 2])
    means, zero = np.split(means / 2, [-1])
    roots = np.concatenate([means - differences, zero, (means + differences)[::-1]])
    return np.square(roots.clip(min=0)) + UNSEEN


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

"""Ternary integers in base 3: 256 of them in 52 bytes, 1.625 bits each; with an fp16 scale a block 1.6875.

A byte takes five trits, 3^5 = 243 <= 256. A block of 256 is laid out as in ggml's TQ1_0: bytes 0 to 31 hold weights m,
m + 32, ..., m + 128, bytes 32 to 47 the next 80 with stride 16, bytes 48 to 51 the last 16 with stride 4, four a byte.
The trits of a byte, w + 1, are the digits of q < 243, the first weight most significant and a missing fifth one 0. What
is stored is ceil(256 q / 243), whose digits can be read by multiplications alone. Each tensor begins a block, and its
last block is filled up with zeros.

Nearly all of log2 3 = 1.585 bits is used, so only zeros that are more or less than a third of the weights leave
something to an entropy coder.
"""

from dataclasses import dataclass
from itertools import accumulate
from math import prod

import numpy as np

from compress.kinds import GridKind, Shapes
from quantize.grid import BLOCK, TERNARY, Coded, Grid
from runtime.errors import UserError

BLOCK_BYTES = 52
# Weights of a block, trits a byte.
SECTIONS = ((slice(0, 160), 5), (slice(160, 240), 5), (slice(240, 256), 4))
# The bytes that hold them.
SECTION_BYTES = (slice(0, 32), slice(32, 48), slice(48, 52))
POWERS = np.array([81, 27, 9, 3, 1], np.uint16)[:, None]


@dataclass(frozen=True)
class TritKind(GridKind):
    """Integers of the ternary grid, five to a byte."""

    grid: Grid = TERNARY

    method = "-trits"

    def sizes(self, shapes: Shapes) -> list[int | None]:
        """Bytes of each stream before coding: 52 for every 256 of a tensor, or fewer at its end, and its scales."""
        return [BLOCK_BYTES * sum(map(_num_blocks, shapes)), *super().sizes(shapes)[1:]]

    def pack(self, tensors: list[Coded]) -> list[bytes]:
        """The blocks of every tensor, and the planes of the scales."""
        padded = [np.pad(coded.integers.flatten().numpy(), (0, -coded.shape.numel() % BLOCK)) for coded in tensors]
        return [pack_trits(np.concatenate(padded).reshape(-1, BLOCK)).tobytes(), *super().pack(tensors)[1:]]

    def unpack(self, streams: list[bytes], shapes: Shapes) -> list[Coded]:
        """The tensors. Raises UserError for bytes that no trits make, and for a filling that is not 0."""
        trits = unpack_trits(np.frombuffer(streams[0], np.uint8).reshape(-1, BLOCK_BYTES)).reshape(-1)
        ends = accumulate(BLOCK * _num_blocks(shape) for shape in shapes[:-1])
        integers = [part[: prod(shape)] for part, shape in zip(np.split(trits, [*ends]), shapes, strict=True)]
        tensors = super().unpack([np.concatenate(integers).tobytes(), *streams[1:]], shapes)
        if self.pack(tensors) != streams:
            raise UserError(f"{self.name} data must be trits and zeros after them, got bytes that no such block has")
        return tensors


def pack_trits(
    trits: np.ndarray,  # [blocks, 256] int8, -1 to 1
) -> np.ndarray:  # [blocks, 52] uint8
    """Blocks of ternary integers as bytes.

    >>> pack_trits(np.ones((1, 256), np.int8))[0, 47:].tolist()
    [255, 253, 253, 253, 253]
    """
    digits = (trits + 1).astype(np.uint16)
    columns = [digits[:, part].reshape(len(trits), count, -1) * POWERS[:count] for part, count in SECTIONS]
    values = np.concatenate([column.sum(axis=1, dtype=np.uint16) for column in columns], axis=1)
    return ((values * 256 + 242) // 243).astype(np.uint8)


def unpack_trits(
    packed: np.ndarray,  # [blocks, 52] uint8
) -> np.ndarray:  # [blocks, 256] int8
    """What `pack_trits` was given; from a byte that it never writes, the trits of the next lower one that it does."""
    values = packed.astype(np.uint16) * 243 // 256
    parts = zip(SECTION_BYTES, (count for _, count in SECTIONS), strict=True)
    digits = [(values[:, None, part] // POWERS[:count] % 3).reshape(len(packed), -1) for part, count in parts]
    return np.concatenate(digits, axis=1).astype(np.int8) - 1


def _num_blocks(shape: tuple[int, ...]) -> int:
    return -(-prod(shape) // BLOCK)

"""Storage kinds: how tensors of one sort become streams of bytes, and back.

A kind is a string in the artifact's header and a pair `pack`/`unpack` here, over the tensors of one group at once. It
says nothing about entropy coding: a stream is what a coder is given, so numbers with different statistics go into
different streams. Floats are split into byte planes, one stream each, the most significant first: sign and exponent
shrink, the low mantissa does not, and side by side they spoil each other (a 512 x 128 fp16 matrix of Gaussian numbers
under zstd-22: 120,558 bytes interleaved, 120,460 as planes in one stream, 110,799 in two).
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod

import numpy as np
import torch
from torch import Tensor

from quantize.grid import GRIDS, Coded, Grid
from runtime.errors import UserError, nearest

Shapes = list[tuple[int, ...]]


@dataclass(frozen=True)
class FloatKind:
    """fp16 or fp32 as they are, bit for bit: -0.0, infinities and NaNs included."""

    dtype: torch.dtype

    @property
    def labels(self) -> tuple[str, ...]:
        """What each stream is booked under in the ledger."""
        return ("data",) * self.dtype.itemsize

    def sizes(self, shapes: Shapes) -> list[int]:
        """Bytes of each stream before coding."""
        return [sum(map(prod, shapes))] * self.dtype.itemsize

    def pack(self, tensors: list[Tensor]) -> list[bytes]:
        """One stream for each byte of the numbers, the most significant first."""
        return split_planes(torch.cat([tensor.flatten() for tensor in tensors]))

    def unpack(self, streams: list[bytes], shapes: Shapes) -> list[Tensor]:
        """The tensors, in the order they were packed in."""
        return _cut(join_planes(streams, self.dtype), shapes)


@dataclass(frozen=True)
class GridKind:
    """Integers of a grid as signed bytes, and their fp16 scales as two planes."""

    grid: Grid
    scale_per_row: bool  # else one scale a tensor

    @property
    def labels(self) -> tuple[str, ...]:
        """What each stream is booked under in the ledger."""
        return "data", "scales", "scales"

    def sizes(self, shapes: Shapes) -> list[int]:
        """Bytes of each stream before coding."""
        scales = sum(map(prod, self._scale_shapes(shapes)))
        return [sum(map(prod, shapes)), scales, scales]

    def pack(self, tensors: list[Coded]) -> list[bytes]:
        """The integers, row by row, and the planes of the scales."""
        integers = torch.cat([coded.integers.flatten() for coded in tensors])
        return [integers.numpy().tobytes(), *split_planes(torch.cat([coded.scale.flatten() for coded in tensors]))]

    def unpack(self, streams: list[bytes], shapes: Shapes) -> list[Coded]:
        """The tensors, in the order they were packed in. Raises UserError for integers beyond the grid."""
        integers = _cut(join_planes(streams[:1], torch.int8), shapes)
        scales = _cut(join_planes(streams[1:], torch.float16), self._scale_shapes(shapes))
        return [Coded(*pair, self.grid) for pair in zip(integers, scales, strict=True)]

    def _scale_shapes(self, shapes: Shapes) -> Shapes:
        return [shape[:1] if self.scale_per_row else () for shape in shapes]


KINDS = {
    "fp16": FloatKind(torch.float16),
    "fp32": FloatKind(torch.float32),
    **{grid.name: GridKind(grid, scale_per_row=True) for grid in GRIDS.values()},
    **{f"{grid.name}-tensor": GridKind(grid, scale_per_row=False) for grid in GRIDS.values()},
}


def kind_named(name: str) -> FloatKind | GridKind:
    """The kind of that name. Raises UserError, with the nearest ones, for a name that no kind has."""
    if name not in KINDS:
        raise UserError(f"unknown storage kind {name[:40]!r}; {nearest(name[:40], KINDS)}")
    return KINDS[name]


def kind_of(name: str, tensor: Coded | Tensor) -> str:
    """The name of the kind that stores this tensor. Raises UserError, with the tensor's `name`, if there is none.

    >>> kind_of("gain", torch.ones(3))
    'fp32'
    """
    if isinstance(tensor, Coded):
        wanted: FloatKind | GridKind = GridKind(tensor.grid, scale_per_row=tensor.scale.ndim > 0)
    else:
        wanted = FloatKind(tensor.dtype)
    for kind_name, kind in KINDS.items():
        if kind == wanted:
            return kind_name
    raise UserError(f"a stored tensor must be coded on a known grid, or fp16, or fp32; {name} is {wanted}")


def split_planes(numbers: Tensor) -> list[bytes]:
    """The bytes of the numbers ([n]) by significance, the highest first: one string of n bytes for each.

    >>> [plane.hex() for plane in split_planes(torch.tensor([1.0, -2.0]).half())]
    ['3cc0', '0000']
    """
    little_endian = numbers.numpy().astype(numbers.numpy().dtype.newbyteorder("<"), copy=False)
    planes = little_endian.view(np.uint8).reshape(len(numbers), numbers.itemsize).T
    return [plane.tobytes() for plane in planes[::-1]]


def join_planes(planes: list[bytes], dtype: torch.dtype) -> Tensor:
    """The numbers, [n], out of their planes, the highest first.

    >>> join_planes([bytes.fromhex("3cc0"), bytes(2)], torch.float16).tolist()
    [1.0, -2.0]
    """
    columns = [np.frombuffer(plane, np.uint8) for plane in reversed(planes)]
    numpy_dtype = torch.empty(0, dtype=dtype).numpy().dtype
    little_endian = np.stack(columns, axis=1).reshape(-1).view(numpy_dtype.newbyteorder("<"))
    return torch.from_numpy(little_endian.astype(numpy_dtype, copy=False))


def _cut(numbers: Tensor, shapes: Shapes) -> list[Tensor]:
    """Consecutive pieces of `numbers` in the given shapes, each with memory of its own."""
    bounds = accumulate(map(prod, shapes), initial=0)
    pieces = [numbers[begin:end].clone() for begin, end in pairwise(bounds)]
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]

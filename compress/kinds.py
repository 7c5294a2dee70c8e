"""Storage kinds: how tensors of one sort become streams of bytes, and back.

A kind is a value with a name, which stands in the artifact's header, and a pair `pack`/`unpack` over the tensors of one
group at once. A stream is what a coder is given, so numbers with different statistics go into different streams; one
that the kind has entropy-coded itself has the size None and is stored as it is. The basic kinds of this file are known
to every reader; others are objects of the recipe that uses them.

Floats are split into byte planes, one stream each, the most significant first: sign and exponent shrink, the low
mantissa does not, and side by side they spoil each other (a 512 x 128 fp16 matrix of Gaussian numbers under zstd-22:
120,558 bytes interleaved, 120,460 as planes in one stream, 110,799 in two).
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod

import numpy as np
import torch
from torch import Tensor

from quantize.grid import GRIDS, Coded, Grid, scale_shapes
from runtime.errors import UserError, nearest

Shapes = list[tuple[int, ...]]
LAYOUTS = "row", "tensor", "column", "block"


@dataclass(frozen=True)
class FloatKind:
    """fp16 or fp32 as they are, bit for bit: -0.0, infinities and NaNs included."""

    name: str
    dtype: torch.dtype

    @property
    def labels(self) -> tuple[str, ...]:
        """What each stream is booked under in the ledger."""
        return ("data",) * self.dtype.itemsize

    def takes(self, tensor: Coded | Tensor) -> bool:
        """Whether a tensor is of this kind."""
        return isinstance(tensor, Tensor) and tensor.dtype == self.dtype

    def sizes(self, shapes: Shapes) -> list[int | None]:
        """Bytes of each stream before coding."""
        return [sum(map(prod, shapes))] * self.dtype.itemsize

    def pack(self, tensors: list[Tensor]) -> list[bytes]:
        """One stream for each byte of the numbers, the most significant first."""
        return split_planes(torch.cat([tensor.flatten() for tensor in tensors]))

    def unpack(self, streams: list[bytes], shapes: Shapes) -> list[Tensor]:
        """The tensors, in the order they were packed in."""
        return cut_numbers(join_planes(streams, self.dtype), shapes)


@dataclass(frozen=True)
class GridKind:
    """Integers of a grid as signed bytes, and their fp16 scales as two planes.

    `layout` says what shares a scale, in the words of `scale_shapes`. Other ways to store integers, or scales, make
    their streams out of these and these out of theirs.
    """

    grid: Grid
    layout: str = "row"

    # What each stream is booked under in the ledger.
    labels = "data", "scales", "scales"
    method = ""

    @property
    def name(self) -> str:
        """The kind's name in the header.

        >>> GridKind(GRIDS["int6"]).name, GridKind(GRIDS["int6"], "column").name
        ('int6', 'int6-column')
        """
        return f"{self.grid.name}{self.method}-{self.layout}".removesuffix("-row")

    def takes(self, tensor: Coded | Tensor) -> bool:
        """Whether a tensor is of this kind."""
        return (
            isinstance(tensor, Coded)
            and tensor.grid == self.grid
            and tensor.scale.shape == scale_shapes(tensor.shape).get(self.layout)
        )

    def sizes(self, shapes: Shapes) -> list[int | None]:
        """Bytes of each stream before coding; None for one that is not coded again."""
        scales = sum(map(prod, self._scale_shapes(shapes)))
        return [sum(map(prod, shapes)), scales, scales]

    def pack(self, tensors: list[Coded]) -> list[bytes]:
        """The integers, row by row, and the planes of the scales."""
        integers = torch.cat([coded.integers.flatten() for coded in tensors])
        return [integers.numpy().tobytes(), *split_planes(torch.cat([coded.scale.flatten() for coded in tensors]))]

    def unpack(self, streams: list[bytes], shapes: Shapes) -> list[Coded]:
        """The tensors, in the order they were packed in. Raises UserError for streams that `pack` does not write."""
        integers = cut_numbers(join_planes(streams[:1], torch.int8), shapes)
        scales = cut_numbers(join_planes(streams[1:], torch.float16), self._scale_shapes(shapes))
        return [Coded(*pair, self.grid) for pair in zip(integers, scales, strict=True)]

    def _scale_shapes(self, shapes: Shapes) -> Shapes:
        # A tensor without rows or columns, which only a forged header puts here, is read as if it had one scale.
        return [scale_shapes(shape).get(self.layout, ()) for shape in shapes]


Kind = FloatKind | GridKind
BASIC_KINDS = (
    FloatKind("fp16", torch.float16),
    FloatKind("fp32", torch.float32),
    *(GridKind(grid, layout) for layout in LAYOUTS for grid in GRIDS.values()),
)


def kind_named(name: str, kinds: tuple[Kind, ...]) -> Kind:
    """The kind of that name, among `kinds` and the basic ones. Raises UserError, with the nearest, if there is none."""
    known = {kind.name: kind for kind in (*BASIC_KINDS, *kinds)}
    if name not in known:
        raise UserError(f"unknown storage kind {name[:40]!r}; {nearest(name[:40], known)}")
    return known[name]


def kinds_for(name: str, tensor: Coded | Tensor, kinds: tuple[Kind, ...]) -> tuple[str, ...]:
    """The names of those of `kinds` that can store this tensor, else of the basic one that does.

    Raises UserError, with the tensor's `name`, if there is none.

    >>> kinds_for("gain", torch.ones(3), ())
    ('fp32',)
    """
    fitting, basic = (tuple(kind.name for kind in some if kind.takes(tensor)) for some in (kinds, BASIC_KINDS))
    if not fitting + basic:
        what = tensor.grid if isinstance(tensor, Coded) else tensor.dtype
        raise UserError(f"a stored tensor must be coded on a known grid, or fp16, or fp32; {name} is {what}")
    return fitting or basic[:1]


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


def cut_numbers(numbers: Tensor, shapes: Shapes) -> list[Tensor]:
    """Consecutive pieces of `numbers` in the given shapes, each with memory of its own."""
    bounds = accumulate(map(prod, shapes), initial=0)
    pieces = [numbers[begin:end].clone() for begin, end in pairwise(bounds)]
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]

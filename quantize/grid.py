"""Grids of small integers, and the codes that a weight becomes on one of them.

A weight is stored as an integer q of its grid and a scale s: w is close to s * q. The shape of the scale says which
weights share one: [] the whole tensor, [rows] each row, [1, cols] each column, [blocks, 1] every 256 weights in row
order, the last block as many as are left. The codes of a model, `Codes`, are all that later stages know of
quantisation: a `Coded` tensor holds integers, scale and grid; a plain tensor (fp16 or fp32) is passed through as it is.

The ranges are those of parameter-golf's pull requests #162, #180 and #465: `clip` is the integer on which the largest
weight of a row falls, so the one code beyond it, `lowest` of int4 to int7, is never reached by a row-maximum scale.
The ternary grid is that of BitNet b1.58, arXiv 2402.17764.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from runtime.errors import UserError, nearest


@dataclass(frozen=True)
class Grid:
    """The integers from `lowest` to `highest`, of which ±`clip` is what the scale rules aim at.

    >>> INT5.lowest, INT5.highest, INT5.clip, INT5.bits
    (-16, 15, 15, 5)
    """

    name: str
    lowest: int
    highest: int
    clip: int

    def __post_init__(self) -> None:
        if not -128 <= self.lowest <= -self.clip < 0 < self.clip <= self.highest <= 127:
            raise UserError(
                f"a grid must hold -clip and clip and fit eight bits (-128 to 127), got {self}; the widest is {INT8}"
            )

    @staticmethod
    def from_name(name: str) -> "Grid":
        """What `--pack.plan.1.store int6` means on the command line; `grid_named` under the name that overrides use."""
        return grid_named(name)

    @property
    def bits(self) -> int:
        """Bits of the narrowest integer that holds every code."""
        return (self.highest - self.lowest).bit_length()

    def rounder(self, values: Tensor) -> Callable[[Tensor], Tensor]:
        """What rounds numbers in units of the scale to codes, still as floats; `values` are all there will be, about.

        Here each goes to the nearest code by itself, ties to the even one; a grid with a memory overrides this.
        """
        return self.nearest

    def nearest(self, values: Tensor) -> Tensor:
        return values.round().clamp(self.lowest, self.highest)

    def check(self, integers: Tensor) -> None:
        """Raises UserError for integers that are no codes of this grid."""
        low, high = map(int, integers.aminmax()) if integers.numel() else (0, 0)
        if low < self.lowest or high > self.highest:
            raise UserError(f"codes on {self.name} must lie in {self.lowest} to {self.highest}, got {low} to {high}")


TERNARY = Grid("ternary", lowest=-1, highest=1, clip=1)
INT4 = Grid("int4", lowest=-8, highest=7, clip=7)
INT5 = Grid("int5", lowest=-16, highest=15, clip=15)
INT6 = Grid("int6", lowest=-32, highest=31, clip=31)
INT7 = Grid("int7", lowest=-64, highest=63, clip=63)
INT8 = Grid("int8", lowest=-127, highest=127, clip=127)
BLOCK = 256  # weights that share a scale of shape [blocks, 1]
GRIDS = {grid.name: grid for grid in (TERNARY, INT4, INT5, INT6, INT7, INT8)}


@dataclass(frozen=True, eq=False)
class Coded:
    """A tensor on a grid. Raises UserError when dtypes, shapes or integers do not fit each other."""

    integers: Tensor  # int8, the shape of the weight
    scale: Tensor  # fp16: [], [rows] (the first dimension), [1, cols] of a matrix, or [blocks, 1]
    grid: Grid

    def __post_init__(self) -> None:
        dtypes, shape = (self.integers.dtype, self.scale.dtype), self.integers.shape
        if dtypes != (torch.int8, torch.float16):
            raise UserError(f"codes must be int8 with an fp16 scale, got {dtypes[0]} and {dtypes[1]}")
        if self.scale.shape not in scale_shapes(shape).values():
            allowed = ", ".join(f"{list(one)} a {name}" for name, one in scale_shapes(shape).items())
            raise UserError(
                f"the scale of codes {list(shape)} must have one of the shapes {allowed}; got {list(self.scale.shape)}"
            )
        self.grid.check(self.integers)

    @property
    def shape(self) -> torch.Size:
        """The shape of the weight."""
        return self.integers.shape


Codes = dict[str, Coded | Tensor]


def grid_named(name: str) -> Grid:
    """The grid of that name.

    >>> grid_named("int6").clip
    31
    >>> grid_named("int9")
    Traceback (most recent call last):
    runtime.errors.UserError: unknown grid 'int9'; nearest: int8, int7, int6
    """
    if name not in GRIDS:
        raise UserError(f"unknown grid {name!r}; {nearest(name, GRIDS)}")
    return GRIDS[name]


def scale_shapes(shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The shapes that the scale of a tensor of this shape may have, by what shares one number.

    >>> scale_shapes((4, 192))
    {'tensor': (), 'row': (4,), 'column': (1, 192), 'block': (3, 1)}
    """
    rows = {"row": tuple(shape[:1])} if len(shape) else {}
    columns = {"column": (1, shape[1])} if len(shape) == 2 else {}
    return {"tensor": (), **rows, **columns, "block": (-(-prod(shape) // BLOCK), 1)}


def nearest_codes(weight: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """The integers that weight / scale becomes on the grid, still as fp32."""
    values = weight.float() / spread_scale(scale, weight)
    return grid.rounder(values)(values)


def spread_scale(scale: Tensor, weight: Tensor) -> Tensor:
    """A scale in fp32, shaped so that it multiplies a weight [rows, ...] number by number."""
    if scale.ndim < 2:
        return scale.float().reshape(scale.shape + (1,) * (weight.ndim - scale.ndim))
    if scale.shape[0] == 1:
        return scale.float()
    return scale.float().expand(-1, BLOCK).reshape(-1)[: weight.numel()].view(weight.shape)


def round_to_grid(weight: Tensor, scale: Tensor, grid: Grid) -> Coded:
    """A weight (any shape, finite) on the grid: q = clamp(round(weight / scale)), scale in fp16 as it will be stored.

    >>> round_to_grid(torch.tensor([[0.26, -0.75, 9.0]]), torch.tensor([0.5]).half(), INT4).integers.tolist()
    [[1, -2, 7]]
    """
    return Coded(nearest_codes(weight, scale, grid).to(torch.int8), scale, grid)


def dequantize_coded(coded: Coded) -> Tensor:
    """scale * integers in fp32, the shape of the integers."""
    return coded.integers.float() * spread_scale(coded.scale, coded.integers)


def dequantize(codes: Codes) -> dict[str, Tensor]:
    """Every tensor of the codes as a new fp32 tensor, under its name: what the model computes with."""
    return {
        name: dequantize_coded(tensor) if isinstance(tensor, Coded) else tensor.to(torch.float32, copy=True)
        for name, tensor in codes.items()
    }

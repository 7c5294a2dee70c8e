"""Grids of small integers, and the codes that a weight becomes on one of them.

A weight is stored as an integer q of its grid and a scale s, one a row or one a tensor: w is close to s * q. The codes
of a model, `Codes`, are all that later stages know of quantisation: a `Coded` tensor holds integers, scale and grid; a
plain tensor (fp16 or fp32) is passed through as it is.

The ranges are those of parameter-golf's pull requests #162, #180 and #465: `clip` is the integer on which the largest
weight of a row falls, so the one code beyond it, `lowest` of int4 to int7, is never reached by a row-maximum scale.
"""

from dataclasses import dataclass

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


INT4 = Grid("int4", lowest=-8, highest=7, clip=7)
INT5 = Grid("int5", lowest=-16, highest=15, clip=15)
INT6 = Grid("int6", lowest=-32, highest=31, clip=31)
INT7 = Grid("int7", lowest=-64, highest=63, clip=63)
INT8 = Grid("int8", lowest=-127, highest=127, clip=127)
GRIDS = {grid.name: grid for grid in (INT4, INT5, INT6, INT7, INT8)}


@dataclass(frozen=True, eq=False)
class Coded:
    """A tensor on a grid. Raises UserError when dtypes, shapes or integers do not fit each other."""

    integers: Tensor  # int8, the shape of the weight
    scale: Tensor  # fp16, [rows] (the first dimension) or 0-d: one for the whole tensor
    grid: Grid

    def __post_init__(self) -> None:
        dtypes, shape, rows = (self.integers.dtype, self.scale.dtype), self.integers.shape, self.scale.shape
        if dtypes != (torch.int8, torch.float16):
            raise UserError(f"codes must be int8 with an fp16 scale, got {dtypes[0]} and {dtypes[1]}")
        if rows not in ((), shape[:1]):
            raise UserError(f"a scale must be one number or one a row of {tuple(shape)}, got shape {tuple(rows)}")
        low, high = map(int, self.integers.aminmax()) if shape.numel() else (0, 0)
        if low < self.grid.lowest or high > self.grid.highest:
            allowed = f"{self.grid.lowest} to {self.grid.highest}"
            raise UserError(f"codes on {self.grid.name} must lie in {allowed}, got {low} to {high}")

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


def nearest_codes(weight: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """The integers nearest to weight / scale within the grid, still as fp32; ties go to the even one."""
    return (weight.float() / along_rows(scale, weight)).round().clamp(grid.lowest, grid.highest)


def along_rows(scale: Tensor, weight: Tensor) -> Tensor:
    """A scale ([rows] or 0-d) in fp32, shaped so that it multiplies a weight row by row."""
    return scale.float().reshape(scale.shape + (1,) * (weight.ndim - scale.ndim))


def round_to_grid(weight: Tensor, scale: Tensor, grid: Grid) -> Coded:
    """A weight (any shape, finite) on the grid: q = clamp(round(weight / scale)), scale in fp16 as it will be stored.

    >>> round_to_grid(torch.tensor([[0.26, -0.75, 9.0]]), torch.tensor([0.5]).half(), INT4).integers.tolist()
    [[1, -2, 7]]
    """
    return Coded(nearest_codes(weight, scale, grid).to(torch.int8), scale, grid)


def dequantize_coded(coded: Coded) -> Tensor:
    """scale * integers in fp32, the shape of the integers."""
    return coded.integers.float() * along_rows(coded.scale, coded.integers)


def dequantize(codes: Codes) -> dict[str, Tensor]:
    """Every tensor of the codes as a new fp32 tensor, under its name: what the model computes with."""
    return {
        name: dequantize_coded(tensor) if isinstance(tensor, Coded) else tensor.to(torch.float32, copy=True)
        for name, tensor in codes.items()
    }

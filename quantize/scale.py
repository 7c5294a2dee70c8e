"""Scale rules: how far apart the codes of a row lie.

A rule maps a weight and a grid to fp16 scales: one a row for matrices, one a tensor for everything else. The scale is
rounded to fp16 before any weight is divided by it, so the codes are the nearest ones to what will be decoded. No rule
looks at values in Python: each of them runs under autograd and torch.compile.

[1] parameter-golf #162, #180, #465: row maximum / clip.   [2] the baseline's int8 export: .9999984-quantile / 127.
[3] BitNet b1.58, arXiv 2402.17764; by blocks: Imli.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quantize.grid import BLOCK, Grid
from runtime.errors import UserError

ScaleRule = Callable[[Tensor, Grid], Tensor]

# Below this, fp16 numbers lose digits and at last become 0, by which nothing can be divided.
SMALLEST_SCALE = torch.finfo(torch.float16).tiny


@dataclass(frozen=True)
class RowMax:
    """scale = max|w| / clip: nothing is clipped, and no weight is off by more than half a scale [1].

    [1] floors the scale at 1e-12 before and at the smallest normal fp16 number, 6.1e-5, after the rounding to fp16; the
    second floor contains the first. It keeps rows of zeros apart from division by zero.

    >>> from quantize.grid import INT5
    >>> RowMax()(torch.tensor([[3.0, -7.5], [0.0, 0.0]]), INT5).tolist()
    [0.5, 6.103515625e-05]
    """

    def __call__(self, weight: Tensor, grid: Grid) -> Tensor:
        return _fp16_scale(rows_of(weight).abs().amax(dim=1) / grid.clip, weight)


@dataclass(frozen=True)
class RowPercentile:
    """scale = max(1, quantile of |w|) / clip [2].

    The floor of 1 is the baseline's: rows whose weights stay below 1 share the step 1/127 on int8. Its clamp of the
    weights to the quantile is here the clamp to the grid. [2] divides by the scale before that is rounded to fp16;
    dividing by the rounded one moves one code in 200 by one (Gaussian rows of 512) and adds no error.

    >>> from quantize.grid import INT8
    >>> (127 * RowPercentile()(torch.tensor([[0.1, -0.2], [3.0, 254.0]]), INT8)).tolist()
    [1.0, 254.0]
    """

    quantile: float = 0.9999984

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1:
            raise UserError(f"a quantile must lie in (0, 1], got {self.quantile}; the baseline's is 0.9999984")

    def __call__(self, weight: Tensor, grid: Grid) -> Tensor:
        clip = row_quantile(rows_of(weight).abs(), self.quantile)
        return _fp16_scale(clip.clamp_min(1.0) / grid.clip, weight)


@dataclass(frozen=True)
class MeanMagnitude:
    """scale = mean|w|, of the whole tensor or of every 256 weights in row order [3]; for ternary grids.

    A weight becomes 0 up to half of the mean. The mean of a last block that is not full divides by 256 all the same, as
    if zeros followed. A tensor of up to 256 weights has one scale.

    >>> from quantize.grid import TERNARY, round_to_grid
    >>> weight = torch.tensor([[-1.0, -0.25, 0.25, 1.0]])
    >>> scale = MeanMagnitude()(weight, TERNARY)
    >>> scale.item(), round_to_grid(weight, scale, TERNARY).integers.tolist()
    (0.625, [[-1, 0, 0, 1]])
    """

    per_block: bool = False

    def __call__(self, weight: Tensor, grid: Grid) -> Tensor:
        flat = weight.float().abs().reshape(-1)
        if not self.per_block or flat.numel() <= BLOCK:
            return stored_scale(flat.mean()) if flat.numel() else flat.new_full((), SMALLEST_SCALE).half()
        padded = torch.nn.functional.pad(flat, (0, -flat.numel() % BLOCK))
        return stored_scale(padded.view(-1, BLOCK).mean(dim=1, keepdim=True))


def row_quantile(
    values: Tensor,  # [rows, cols], cols at least 1
    quantile: float,  # in [0, 1]
) -> Tensor:
    """The quantile of each row, [rows], interpolated linearly as torch.quantile does, which stops at 16 M elements.

    >>> row_quantile(torch.tensor([[4.0, 1.0, 3.0, 2.0]]), 0.75).item()
    3.25
    """
    position = quantile * (values.shape[1] - 1)
    below = int(position)
    # High quantiles need the few largest values of a row, not a sorted row.
    largest = values.topk(values.shape[1] - below, dim=1).values
    lower, upper = largest[:, -1], largest[:, max(largest.shape[1] - 2, 0)]
    return torch.lerp(lower, upper, position - below)


def rows_of(weight: Tensor) -> Tensor:
    """A weight as [rows, cols] in fp32: one row for what is no matrix, a zero in rows that are empty."""
    rows = weight.shape[0] if weight.ndim == 2 else 1
    if weight.numel() == 0:
        return weight.new_zeros(rows, 1, dtype=torch.float32)
    return weight.float().reshape(rows, -1)


def _fp16_scale(scale: Tensor, weight: Tensor) -> Tensor:
    """[rows] in fp32 -> fp16, [rows] for a matrix and 0-d for the rest."""
    return stored_scale(scale).reshape(weight.shape[:1] if weight.ndim == 2 else ())


def stored_scale(scale: Tensor) -> Tensor:
    """fp32 of any shape -> fp16, never so small that nothing can be divided by it."""
    return nearest_fp16(scale.clamp_min(SMALLEST_SCALE)).half()


def nearest_fp16(values: Tensor) -> Tensor:
    """Positive fp32 numbers, from 2^-14 up, at the nearest fp16 number, ties to even, still in fp32.

    torch.compile drops a cast to fp16 that is cast back later, and with it the rounding; it does not drop this.
    """
    bits = values.view(torch.int32)
    # fp16 keeps ten of the 23 bits of the fraction.
    return ((bits + 0x0FFF + (bits >> 13 & 1)) & ~0x1FFF).view(torch.float32)

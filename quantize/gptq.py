"""GPTQ: rounding column after column, each making up for what the columns before it did to the outputs [1].

With E = W - Q and the second moment of the inputs H = X^T X / N = L L^T, the outputs are off by tr(E H E^T) = |E L|^2.
L is lower triangular, so column j of E L holds the errors of columns j and later only. From the last to the first,

    target_j = w_j + sum_{i > j} e_i L_ij / L_jj,    q_j = round(target_j),    e_j = w_j - q_j,

and sum_j L_jj^2 |target_j - q_j|^2 is what remains: GPTQ without an inverse. Columns with the largest H_jj go first, as
many others can still make up for them. The sum also says what step a column should have: under an entropy coder, one
proportional to 1 / L_jj, which makes all terms equal, is the best at a given rate (WaterSIC [2]; `ColumnStep`).

[1] Frantar et al. 2022, arXiv 2210.17323.  [2] arXiv 2603.04956.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from quantize.grid import Coded, Grid, spread_scale
from quantize.scale import ScaleRule
from quantize.steps import ColumnStep
from runtime.errors import UserError

# Inside a block each column looks back at the block alone; what came before has been added for all of them at once.
COLUMN_BLOCK = 128


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes in one thread on the CPU: beside many small products the others would only wait, and spin."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class GPTQ:
    """The method of a `Rule`: matrices of one shape are rounded at once, each by the moment of its inputs.

    `damping` is the share of the mean of H's diagonal that is added to the diagonal.
    """

    damping: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.damping < float("inf"):
            raise UserError(f"the damping of GPTQ must be positive, got {self.damping}; usual is 0.01")

    @one_thread()
    def __call__(
        self,
        weights: Mapping[str, Tensor],  # of one shape, [rows, cols]
        grid: Grid,
        scale: ScaleRule,
        hessians: Mapping[str, Tensor],  # by name, [cols, cols], on the device to compute on
    ) -> dict[str, Coded]:
        """The codes, on the CPU. Raises UserError for a weight that is no matrix or has no finite moment."""
        factors = [factorise(_hessian_of(name, weight, hessians), self.damping) for name, weight in weights.items()]
        factor = Factor(*map(torch.stack, zip(*factors, strict=True)))
        stacked = torch.stack([*weights.values()]).to(factor.unit.device)
        extra = [(columns,) if isinstance(scale, ColumnStep) else () for columns in factor.columns]
        scales = [scale(weight, grid, *more) for weight, more in zip(stacked, extra, strict=True)]
        steps = torch.stack([spread_scale(*pair) for pair in zip(scales, stacked, strict=True)])
        integers = round_by_columns(stacked, steps, factor, grid).to("cpu", torch.int8)
        pairs = zip(integers, (one.cpu() for one in scales), strict=True)
        return {name: Coded(*pair, grid) for name, pair in zip(weights, pairs, strict=True)}


class Factor(NamedTuple):
    """H = L L^T with its columns in the order of rounding, the last one first; or several of them, stacked."""

    order: Tensor  # [cols] int64: where in the weight each of these columns stands
    unit: Tensor  # [cols, cols]: L_ij / L_jj, ones on the diagonal
    columns: Tensor  # [cols]: L_jj, in the weight's own order
    alive: Tensor  # [cols] bool, in the weight's own order: whether H_jj > 0


def factorise(
    hessian: Tensor,  # [cols, cols], symmetric, not negative
    damping: float,
) -> Factor:
    """The factor of the damped moment, computed in fp64; inputs that never were anything else than 0 stand alone."""
    diagonal = hessian.diagonal().double()
    alive = diagonal > 0
    mean = diagonal.mean() if alive.any() else 1.0
    order = diagonal.argsort(stable=True)
    damped = hessian.double() + torch.diag(damping * mean + torch.where(alive, 0.0, mean))
    lower = torch.linalg.cholesky(damped[order][:, order])
    columns = torch.empty_like(diagonal).scatter_(0, order, lower.diagonal())
    return Factor(order, (lower / lower.diagonal()).to(hessian.dtype), columns.to(hessian.dtype), alive)


def round_by_columns(
    weights: Tensor,  # [layers, rows, cols]
    steps: Tensor,  # [layers, 1 or rows, 1 or cols]
    factor: Factor,  # stacked: [layers, ...]
    grid: Grid,
) -> Tensor:  # [layers, rows, cols], integers as floats
    """The codes; a column that never had any input becomes 0, which changes no output and costs nothing."""
    weights = weights * factor.alive[:, None]
    rounded = grid.rounder(weights / steps)
    places = factor.order[:, :, None].expand(weights.mT.shape)
    columns, steps = weights.mT.gather(1, places), steps.expand_as(weights).mT.gather(1, places)
    errors, codes = torch.zeros_like(columns), torch.empty_like(columns)
    for end in range(columns.shape[1], 0, -COLUMN_BLOCK):
        begin = max(0, end - COLUMN_BLOCK)
        targets = columns[:, begin:end] + factor.unit[:, end:, begin:end].mT @ errors[:, end:]
        for column in range(end - 1, begin - 1, -1):
            carried = factor.unit[:, column + 1 : end, column, None].mT @ errors[:, column + 1 : end]
            values = (targets[:, column - begin] + carried[:, 0]) / steps[:, column]
            codes[:, column] = rounded(values[..., None])[..., 0]
            errors[:, column] = columns[:, column] - codes[:, column] * steps[:, column]
    return torch.empty_like(codes).scatter_(1, places, codes).mT


def output_error(
    weight: Tensor,  # [rows, cols]
    rounded: Tensor,  # [rows, cols]
    hessian: Tensor,  # [cols, cols]
) -> Tensor:
    """tr((W - Q) H (W - Q)^T): the mean squared error of the layer's outputs, summed over the outputs; 0-d."""
    error = weight - rounded
    return ((error @ hessian) * error).sum()


def _hessian_of(name: str, weight: Tensor, hessians: Mapping[str, Tensor]) -> Tensor:
    if weight.ndim != 2:
        raise UserError(f"GPTQ rounds matrices, {name} is {tuple(weight.shape)}; give it a rule without a method")
    if name not in hessians:
        raise UserError(
            f"GPTQ needs the second moment of what {name} is multiplied with, there is none; collect it with "
            "InputMoments, or give the tensor a rule without a method"
        )
    hessian = hessians[name]
    if hessian.shape != (weight.shape[1],) * 2 or not hessian.isfinite().all():
        raise UserError(
            f"the second moment for {name} {tuple(weight.shape)} must be finite numbers {(weight.shape[1],) * 2}, "
            f"got {tuple(hessian.shape)}, {int((~hessian.isfinite()).sum())} of them not finite"
        )
    return hessian

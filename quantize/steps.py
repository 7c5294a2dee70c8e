"""Steps by rate: how far apart the codes lie, chosen in standard deviations and not by the largest weight.

An entropy coder makes the range of the integers free, so what counts is the step D: a Gaussian weight costs
log2(sqrt(2 pi e) sigma / D) bits and gains an error of D^2 / 12. Where a tensor has many steps, they are taken from a
table of eighths of an octave before any weight is rounded, so that each is stored as one byte: its code.

[1] parameter-golf #1394: step = k std(row) / clip, k = 12.85 on int6.  [2] WaterSIC, arXiv 2603.04956.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantize.grid import Grid
from quantize.scale import rows_of, stored_scale
from runtime.errors import UserError

# Integers as wide as a byte, of which steps mean what they mean on int6: only the coder knows how many are in use.
UNIFORM = Grid("uniform", lowest=-128, highest=127, clip=31)

# round(1024 * 2^(i/8)): the fraction of an fp16 number has ten bits, so each entry of the table is one exactly.
EIGHTHS = (1024, 1117, 1218, 1328, 1448, 1579, 1722, 1878)
# From the smallest normal fp16 number, 2^-14, to just below the largest.
STEP_TABLE = tuple(eighth * 2.0**octave for octave in range(-24, 6) for eighth in EIGHTHS)
_BETWEEN = tuple((low * high) ** 0.5 for low, high in zip(STEP_TABLE, STEP_TABLE[1:], strict=False))


def log2_step(
    codes: Tensor,  # any shape, integers from 0 to 239
) -> Tensor:  # fp16, the same shape
    """The step of each code, 2^(code / 8 - 14) up to the rounding to fp16; the same number on every machine.

    >>> log2_step(torch.tensor([0, 112, 113])).tolist()
    [6.103515625e-05, 1.0, 1.0908203125]
    """
    low, high = map(int, codes.aminmax()) if codes.numel() else (0, 0)
    if low < 0 or high >= len(STEP_TABLE):
        raise UserError(f"step codes must lie in 0 to {len(STEP_TABLE) - 1}, got {low} to {high}")
    return torch.tensor(STEP_TABLE, dtype=torch.float16, device=codes.device)[codes.long()]


def nearest_step_code(
    steps: Tensor,  # any shape, positive
) -> Tensor:  # uint8, the same shape
    """The code whose step is nearest by ratio; what lies beyond the table gets its first or last.

    >>> nearest_step_code(torch.tensor([1e-9, 1.0, 1.05, 1e9])).tolist()
    [0, 112, 113, 239]
    """
    return torch.bucketize(steps.float(), torch.tensor(_BETWEEN, device=steps.device)).to(torch.uint8)


@dataclass(frozen=True)
class Deviation:
    """One step a row, k std(row) / clip [1], from the table; a tensor that is no matrix is one row.

    >>> from quantize.grid import INT6
    >>> Deviation(k=15.5)(torch.tensor([[-2.0, 2.0], [-4.0, 4.0]]), INT6).tolist()
    [1.0, 2.0]
    """

    k: float

    def __post_init__(self) -> None:
        _refuse_step(self.k)

    def __call__(self, weight: Tensor, grid: Grid) -> Tensor:
        steps = log2_step(nearest_step_code(self.k / grid.clip * rows_of(weight).std(dim=1, correction=0)))
        return steps.reshape(weight.shape[:1] if weight.ndim == 2 else ())


@dataclass(frozen=True)
class TensorStep:
    """One step a tensor, k std / clip, in fp16: a fitted size needs it finer than the table, and it is two bytes.

    Where every output counts alike, equal steps on all rows are the optimum under an entropy coder. Nothing is clipped:
    the step is never so fine that the largest weight leaves the grid.

    >>> from quantize.grid import INT6
    >>> TensorStep(k=15.5)(torch.tensor([[-2.0, 2.0], [-2.0, 2.0]]), INT6).item()
    1.0
    """

    k: float

    def __post_init__(self) -> None:
        _refuse_step(self.k)

    def __call__(self, weight: Tensor, grid: Grid) -> Tensor:
        rows = rows_of(weight)
        return stored_scale(torch.maximum(self.k / grid.clip * rows.std(correction=0), rows.abs().max() / grid.highest))


@dataclass(frozen=True)
class ColumnStep:
    """One step a column of a matrix, proportional to 1 / L_jj of GPTQ's factor, its geometric mean k std / clip [2].

    From the table, and never so fine that the largest weight of the column leaves the grid. Without a factor, as when
    no `GPTQ` asks for the steps, all columns count alike.

    >>> from quantize.grid import INT6
    >>> ColumnStep(k=15.5)(torch.tensor([[-2.0, 2.0]]), INT6, torch.tensor([1.0, 4.0])).tolist()
    [[2.0, 0.5]]
    """

    k: float

    def __post_init__(self) -> None:
        _refuse_step(self.k)

    def __call__(
        self,
        weight: Tensor,  # [rows, cols]
        grid: Grid,
        columns: Tensor | None = None,  # [cols]: L_jj
    ) -> Tensor:  # [1, cols] fp16
        relative = 1.0 if columns is None else (columns.log().mean() - columns.log()).exp()
        rows = rows_of(weight)
        steps = self.k / grid.clip * rows.std(correction=0) * relative
        return log2_step(nearest_step_code(torch.maximum(steps, rows.abs().amax(dim=0) / grid.highest)))[None]


def _refuse_step(k: float) -> None:
    if not 0 < k < float("inf"):
        raise UserError(f"a step must be a positive number of standard deviations, got {k}; #1394 takes 12.85 on int6")

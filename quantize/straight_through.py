"""Training through the rounding: forward with Q(w), backward as if it were w (the straight-through estimator)."""

from dataclasses import dataclass

from torch import Tensor

from quantize.grid import Grid, nearest_codes, spread_scale
from quantize.scale import RowMax, ScaleRule


@dataclass(frozen=True)
class StraightThrough:
    """A weight map w -> Q(w) with gradient 1, rounding as the export does: training sees the weights of the artifact.

    Q(w) + (w - w) stands for w + (Q(w) - w): the same gradient, but no rounding error, so the equality holds bit for
    bit, eager and compiled for the CPU. A compiled GPU kernel may divide less exactly, which was not measured; a weight
    half-way between two codes could then differ.

    >>> import torch
    >>> from quantize.grid import INT4
    >>> weight = torch.tensor([[0.7, -0.24]], requires_grad=True)
    >>> mapped = StraightThrough(INT4)(weight)
    >>> mapped.sum().backward()
    >>> [round(value, 3) for value in mapped.flatten().tolist()], weight.grad.tolist()
    ([0.7, -0.2], [[1.0, 1.0]])
    """

    grid: Grid
    scale: ScaleRule = RowMax()

    def __call__(self, weight: Tensor) -> Tensor:
        fixed = weight.detach()
        scale = self.scale(fixed, self.grid)
        rounded = nearest_codes(fixed, scale, self.grid) * spread_scale(scale, fixed)
        return rounded + (weight - fixed)

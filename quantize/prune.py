"""Magnitude pruning before quantisation, as in parameter-golf #180 with 3 %: zeros are cheap for an entropy coder."""

import torch
from torch import Tensor

from runtime.errors import UserError

# Matrices up to this size are passed through in fp16, where a zero saves next to nothing.
LARGEST_UNPRUNED = 65_536


def prune_smallest(
    weight: Tensor,  # any shape; only matrices of more than 65,536 elements change
    fraction: float,  # in [0, 1)
) -> Tensor:
    """The weight with the `fraction` of its smallest |w| set to 0, one threshold a tensor; ties at it all stay.

    >>> weight = torch.arange(1.0, 70_001.0).reshape(700, 100)
    >>> pruned = prune_smallest(weight, 0.03)
    >>> int((pruned == 0).sum()), pruned.flatten()[2100].item()
    (2100, 2101.0)
    """
    if not 0 <= fraction < 1:
        raise UserError(f"the share to prune must lie in [0, 1), got {fraction}; #180 takes 0.03")
    if weight.ndim != 2 or weight.numel() <= LARGEST_UNPRUNED:
        return weight
    magnitudes = weight.abs()
    # An order statistic, because torch.quantile stops at 16 M elements.
    smallest_kept = magnitudes.flatten().kthvalue(int(fraction * weight.numel()) + 1).values
    return torch.where(magnitudes < smallest_kept, 0.0, weight)

"""Filling a byte budget: the size of codes before they are packed, and the steps at which a model just fits.

Steps twice as coarse save one bit of every weight on a grid, n / 8 bytes for n weights, and less where few integers are
in use. `fit_steps` begins with that and corrects itself by the sizes it is shown: predicted ones first, which are
cheap, and real ones from where those ended:

    rough = fit_steps(lambda m: predicted_bytes(quantize(weights, plan(m))), budget, num_weights)
    fit = fit_steps(lambda m: len(pack(quantize(weights, plan(m)), ...)), budget, num_weights, rough.multiplier)
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from quantize.grid import Coded, Codes
from quantize.trellis import TrellisGrid
from runtime.errors import UserError

# The largest share of the budget that may stay empty.
SLACK = 0.001
MOST_TRIES = 12
# Octaves on either side of the start that are searched.
FARTHEST = 8.0
# What a tensor takes in the header, and its distributions in a range coder's tables.
BYTES_A_TENSOR, BYTES_A_TABLE = 8, 25


@dataclass(frozen=True)
class Fit:
    """Where a search ended."""

    multiplier: float  # of every step
    size: int  # bytes, at most the budget
    tries: int


def fit_steps(
    size: Callable[[float], float],  # multiplier of every step -> bytes
    budget: int,  # bytes
    num_weights: int,  # on a grid
    start: float = 1.0,
) -> Fit:
    """The multiplier whose size is within 0.1 % under the budget, or the largest one under it that was met.

    Raises UserError when no steps fit, up to 256 times those of `start`.

    >>> fit_steps(lambda multiplier: 500_000 / multiplier**0.5, 400_000, 1_000_000).size
    399864
    """
    tried: dict[float, float] = {}
    octaves, slope = 0.0, -num_weights / 8
    while len(tried) < MOST_TRIES:
        found = tried[octaves] = size(start * 2**octaves)
        if (1 - SLACK) * budget <= found <= budget:
            break
        before = list(tried)[-2:][0]
        if tried[before] != found:
            slope = (found - tried[before]) / (octaves - before)
        octaves = _between(tried, budget, octaves + ((1 - SLACK / 2) * budget - found) / slope)
    fitting = {multiplier: bytes_ for multiplier, bytes_ in tried.items() if bytes_ <= budget}
    if not fitting:
        least = min(tried.values())
        raise UserError(
            f"the weights must fit {budget:,} bytes, the coarsest steps take {least:,.0f}; nearest {least:,.0f}"
        )
    best = max(fitting, key=fitting.__getitem__)
    return Fit(start * 2**best, int(fitting[best]), len(tried))


def _between(tried: dict[float, float], budget: int, octaves: float) -> float:
    """`octaves` if it lies between the steps known to be too fine and those known to fit, else their middle."""
    too_fine = max((known for known in tried if tried[known] > budget), default=-FARTHEST)
    fitting = min((known for known in tried if tried[known] <= budget), default=FARTHEST)
    return octaves if too_fine < octaves < fitting else (too_fine + fitting) / 2


def more_weights(size: float, budget: int, num_weights: int) -> int:
    """How many more weights would fit the budget at the same bytes a weight; negative if these are too many.

    >>> more_weights(12_000_000, 16_000_000, 30_000_000)
    10000000
    """
    return int((budget - size) * num_weights / size)


def predicted_bytes(codes: Codes) -> float:
    """The size of codes whose integers go through a range coder, by order-0 entropies; 1 % off at most where measured.

    A range coder stays within 0.1 % of them. Floats and scales are taken byte plane by byte plane.
    """
    return sum(_tensor_bytes(tensor) for tensor in codes.values())


def entropy_bits(
    integers: Tensor,  # any shape, from -128 to 255
) -> float:
    """Bits of all of them together under their own frequencies.

    >>> entropy_bits(torch.tensor([1, 1, -3, 7]))
    6.0
    """
    counts = torch.bincount(integers.flatten().long() + 128).double()
    counts = counts[counts > 0]
    return float((counts * (counts.sum() / counts).log2()).sum())


def code_bits(coded: Coded) -> float:
    """Entropy of the integers of a tensor, in bits; on a trellis the state tells the parity for nothing."""
    parities = coded.integers & 1 if isinstance(coded.grid, TrellisGrid) else torch.zeros(1)
    return entropy_bits(coded.integers) - entropy_bits(parities)


def _tensor_bytes(tensor: Coded | Tensor) -> float:
    if isinstance(tensor, Coded):
        bits = code_bits(tensor) + sum(map(entropy_bits, _planes(tensor.scale)))
        return BYTES_A_TENSOR + BYTES_A_TABLE + bits / 8
    return BYTES_A_TENSOR + sum(map(entropy_bits, _planes(tensor))) / 8


def _planes(numbers: Tensor) -> Iterator[Tensor]:
    """The bytes of floating-point numbers, by their significance."""
    yield from numbers.reshape(-1, 1).view(torch.uint8).T

"""Trellis-coded quantisation: a grid twice as fine, of which a state machine allows every other code at a time [1, 2].

A code is the integer m itself and stands for scale * m, as on every grid: only the integers are stored, `dequantize`
needs no state. The machine restricts which of them may follow which. Down each column of a matrix, from state 0 in the
first row, m must be even in an even state and odd in an odd one, and bit 1 of m leads to the next state. An entropy
coder that runs the machine along knows the parity that is due, and codes m with one distribution for even and one for
odd: the rate of a grid twice as coarse, for an error closer to that of the fine one.

With the bits h_i of the parity-check polynomials, z0 = m & 1 and z1 = m >> 1 & 1: in state s_v..s_1, s_1 the lowest
bit, z0 = s_1 is due, and s_i becomes s_{i+1} xor h0_i z0 xor h1_i z1 [1].

A column is one sequence: to begin anew in state 0 costs 1.15 bits each time (8 states, 2.1 M Gaussian numbers; with
sequences of 128 rows 0.009 bits a weight, of 512 0.002).

[1] Ungerboeck, "Channel coding with multilevel/phase signals", 1982.
[2] Marcellin, Fischer, "Trellis coded quantization of memoryless and Gauss-Markov sources", 1990; under an entropy
coder: Fischer, Wang, "Entropy-constrained trellis-coded quantization", 1992.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantize.grid import Grid
from quantize.viterbi import cheapest_path
from runtime.errors import UserError

# Ungerboeck's parity-check polynomials (h0, h1) by number of states.
GENERATORS = {4: (0o5, 0o2), 8: (0o13, 0o4), 16: (0o23, 0o4), 32: (0o45, 0o10)}
# Squared steps that one bit is worth. In units of the (halved) step the error is about 0.27, and its slope against the
# rate 2 ln 2 times that; 0.3 to 0.5 give the same rate at equal error within 0.001 bits.
RATE = 0.4
# Lanes are taken in pieces of so many numbers, which bounds the memory of the search to some 300 MB.
PIECE = 2**20


@dataclass(frozen=True)
class TrellisGrid(Grid):
    """A grid of -128 to 127 walked by a machine of 4, 8, 16 or 32 states.

    The scale is the distance of neighbouring integers, half of that of codes in one state: with clip = 62 a step rule
    gives it half of what it gives int6.
    """

    states: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.states not in GENERATORS:
            nearest = min(GENERATORS, key=lambda known: abs(known - self.states))
            raise UserError(f"a trellis has {list(GENERATORS)} states, got {self.states}; nearest {nearest}")

    def rounder(self, values: Tensor) -> "TrellisRounder":
        """The search for the path of the least squared error + 0.4 * bits down the rows of each column."""
        return TrellisRounder(self, _bits_by_parity(values.flatten(-2)))

    def check(self, integers: Tensor) -> None:
        """Raises UserError for what is no matrix of int8, or for a column that leaves the machine's paths."""
        super().check(integers)
        if integers.ndim != 2:
            raise UserError(f"a trellis runs down the rows of a matrix, got codes of shape {list(integers.shape)}")
        wrong = (trellis_states(integers, self.states) ^ integers) & 1
        if wrong.any():
            row, column = wrong.nonzero()[0].tolist()
            raise UserError(f"codes on {self.name} must follow its states, row {row} of column {column} does not")


TRELLIS4, TRELLIS8, TRELLIS32 = (TrellisGrid(f"trellis{n}", -128, 127, 62, states=n) for n in (4, 8, 32))


@dataclass(frozen=True, eq=False)
class TrellisRounder:
    """Numbers [..., rows, columns] in units of the scale -> codes of the grid, still as floats."""

    grid: TrellisGrid
    bits: Tensor  # [..., 256]: what -128 to 127 cost in each matrix, given their parity

    def __call__(self, values: Tensor) -> Tensor:
        lanes = values.movedim(-2, 0).contiguous()  # [rows, ..., columns]
        bits = self.bits[..., None, :].expand(*lanes.shape[1:], 256).flatten(0, -2)
        width = max(1, PIECE // len(lanes))
        pieces = zip(lanes.flatten(1).split(width, dim=1), bits.split(width), strict=True)
        return torch.cat([self._rounded(*piece) for piece in pieces], dim=1).view(lanes.shape).movedim(0, -2)

    def _rounded(self, lanes: Tensor, bits: Tensor) -> Tensor:
        """[rows, lanes] with costs [lanes, 256] -> [rows, lanes]."""
        candidates = _nearest_of_each_subset(lanes)
        rates = bits.T.gather(0, candidates.long().flatten(0, 1) + 128).view(candidates.shape)
        costs = (lanes[:, None] - candidates).square() + RATE * rates
        path = torch.from_numpy(cheapest_path(costs.numpy(force=True), _arrivals(self.grid.states)))
        return candidates.gather(1, path.to(lanes.device)[:, None])[:, 0]


def next_states(states: int) -> list[list[int]]:
    """The state that follows each state when bit 1 of its code is 0 and when it is 1: [states][2].

    >>> next_states(4)
    [[0, 1], [2, 3], [1, 0], [3, 2]]
    """
    h0, h1 = (generator >> 1 for generator in GENERATORS[states])
    return [[state >> 1 ^ (state & 1) * h0 ^ z1 * h1 for z1 in (0, 1)] for state in range(states)]


def trellis_states(
    integers: Tensor,  # [rows, columns] int8
    states: int,
) -> Tensor:  # [rows, columns] uint8
    """The state in which the machine meets each code, going by bit 1 of those above it; its bit 0 is the parity due.

    >>> trellis_states(torch.tensor([[2], [4], [-1]], dtype=torch.int8), 4).flatten().tolist()
    [0, 1, 2]
    """
    following = torch.tensor(next_states(states), device=integers.device).flatten()
    met = torch.zeros(integers.shape, dtype=torch.uint8, device=integers.device)
    state = met.new_zeros(integers.shape[1:], dtype=torch.int64)
    for row, bit in zip(met, (integers >> 1 & 1).long(), strict=True):
        row.copy_(state)
        state = following[2 * state + bit]
    return met


def _arrivals(states: int) -> list[list[tuple[int, int]]]:
    """The two ways into each state, with the code modulo 4 that takes them."""
    ways: list[list[tuple[int, int]]] = [[] for _ in range(states)]
    for state, following in enumerate(next_states(states)):
        for z1, after in enumerate(following):
            ways[after].append((state, 2 * z1 + (state & 1)))
    return [list(way) for way in zip(*ways, strict=True)]


def _nearest_of_each_subset(values: Tensor) -> Tensor:
    """[rows, lanes] -> [rows, 4, lanes]: the nearest of the integers -128 to 127 that are 0, 1, 2, 3 modulo 4."""
    offsets = torch.arange(4.0, dtype=values.dtype, device=values.device)[:, None]
    return 4 * ((values[:, None] - offsets) / 4).round().clamp(-32, 31) + offsets


def _bits_by_parity(values: Tensor) -> Tensor:
    """[..., n] -> [..., 256]: bits of -128 to 127 among those of its parity, were each number rounded by itself.

    Codes that do not occur are counted as half a time. To count again after a search changes the rate at equal error
    by less than 0.001 bits.
    """
    bits = values.new_empty(*values.shape[:-1], 256)
    for parity in (0, 1):
        nearest = (2 * ((values - parity) / 2).round() + parity).clamp(parity - 128, parity + 126)
        counts = torch.zeros_like(bits).scatter_add_(-1, nearest.long() + 128, torch.ones_like(values))
        counts = counts[..., parity::2] + 0.5
        bits[..., parity::2] = (counts.sum(-1, keepdim=True) / counts).log2()
    return bits

"""The trellis: its machine, its paths, and what it gains on Gaussian numbers against a grid without memory."""

import itertools
import math

import numpy as np
import pytest
import torch

from quantize.codes_file import load_codes, save_codes
from quantize.fit import code_bits
from quantize.grid import Coded, dequantize, dequantize_coded, round_to_grid
from quantize.plan import Rule, plan_grids, quantize
from quantize.steps import UNIFORM, TensorStep
from quantize.trellis import (
    GENERATORS,
    RATE,
    TRELLIS4,
    TRELLIS8,
    TRELLIS32,
    TrellisGrid,
    TrellisRounder,
    next_states,
    trellis_states,
)
from quantize.viterbi import cheapest_path
from runtime.errors import UserError


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("states", GENERATORS)
def test_every_state_has_two_ways_on_and_two_ways_in(states):
    ways = [after for following in next_states(states) for after in following]
    assert sorted(ways) == sorted([*range(states)] * 2)
    # Two paths that part must stay apart for as long as the memory lasts.
    first, second = next_states(states)[0]
    for _ in range(states.bit_length() - 2):
        assert {*next_states(states)[first]}.isdisjoint(next_states(states)[second])
        first, second = next_states(states)[first][0], next_states(states)[second][0]


def test_the_machine_obeys_its_parity_check():
    # Along any path the sum over i of h0_i z0 + h1_i z1 is even, at every time: [1] of quantize/trellis.py.
    for states, (h0, h1) in GENERATORS.items():
        memory = states.bit_length() - 1
        for bits in itertools.product((0, 1), repeat=memory + 4):
            state, parities = 0, []
            for bit in bits:
                parities.append(state & 1)
                state = next_states(states)[state][bit]
            for time in range(memory, len(bits)):
                taps = [(h0 >> i & 1) * parities[time - i] + (h1 >> i & 1) * bits[time - i] for i in range(memory + 1)]
                assert sum(taps) % 2 == 0


def test_viterbi_finds_the_cheapest_of_all_paths():
    costs = np.random.default_rng(0).random((6, 4, 5), np.float32)
    ways = [[] for _ in range(8)]
    for state, following in enumerate(next_states(8)):
        for bit, after in enumerate(following):
            ways[after].append((state, 2 * bit + (state & 1)))
    path = cheapest_path(costs, [*zip(*ways, strict=True)])
    for lane in range(5):
        best = math.inf
        for bits in itertools.product((0, 1), repeat=6):
            state, total = 0, 0.0
            for time, bit in enumerate(bits):
                total += costs[time, 2 * bit + (state & 1), lane]
                state = next_states(8)[state][bit]
            best = min(best, total)
        assert costs[np.arange(6), path[:, lane], lane].sum() == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("grid", [TRELLIS4, TRELLIS8, TRELLIS32], ids=lambda grid: grid.name)
def test_codes_are_a_path_of_the_machine(grid):
    weight = gaussian(70, 33)
    coded = round_to_grid(weight, TensorStep(14.5)(weight, grid), grid)
    assert torch.equal(trellis_states(coded.integers, grid.states) & 1, (coded.integers & 1).byte())
    # Two (halved) steps are as far as the next code of the right parity ever is, and little more pays.
    assert ((dequantize_coded(coded) - weight).abs() <= 2.5 * coded.scale.float()).all()


def test_a_column_that_leaves_the_paths_is_refused():
    weight = gaussian(20, 5)
    coded = round_to_grid(weight, TensorStep(14.5)(weight, TRELLIS8), TRELLIS8)
    integers = coded.integers.clone()
    integers[7, 2] += 1
    with pytest.raises(UserError, match="codes on trellis8 must follow its states, row 7 of column 2 does not"):
        Coded(integers, coded.scale, TRELLIS8)
    with pytest.raises(UserError, match=r"down the rows of a matrix, got codes of shape \[3\]"):
        Coded(torch.zeros(3, dtype=torch.int8), coded.scale, TRELLIS8)


@pytest.mark.parametrize("states", [0, 7, 64])
def test_other_numbers_of_states_are_refused(states):
    with pytest.raises(UserError, match=rf"has \[4, 8, 16, 32\] states, got {states}; nearest"):
        TrellisGrid("trellis", -128, 127, 62, states=states)


def bits_above_the_gaussian_bound(weight: torch.Tensor, grid, k: float) -> float:
    """Rate minus R(D) of unit Gaussian numbers, log2(1 / D) / 2, in bits a weight."""
    coded = round_to_grid(weight, TensorStep(k)(weight, grid), grid)
    error = (dequantize_coded(coded) - weight).square().mean().item()
    return code_bits(coded) / weight.numel() + math.log2(error) / 2


@pytest.mark.parametrize("k", [12.85, 20.0])
def test_gain_over_a_scalar_grid_at_equal_error(k):
    weight = gaussian(512, 400)
    scalar = bits_above_the_gaussian_bound(weight, UNIFORM, k)
    assert 0.25 < scalar < 0.29
    gains = [scalar - bits_above_the_gaussian_bound(weight, grid, 1.13 * k) for grid in (TRELLIS4, TRELLIS8, TRELLIS32)]
    assert gains[0] >= 0.15
    assert gains[1] >= 0.165
    assert gains[2] >= 0.185
    assert gains[2] < 0.255


def test_the_rate_term_saves_bytes_at_equal_error(monkeypatch):
    weight = gaussian(512, 200)
    with_rate = bits_above_the_gaussian_bound(weight, TRELLIS8, 28.0)
    monkeypatch.setattr("quantize.trellis.RATE", 0.0)
    assert bits_above_the_gaussian_bound(weight, TRELLIS8, 28.0) - with_rate > 0.03
    assert RATE > 0


def test_matrices_of_a_batch_and_pieces_of_a_matrix_are_rounded_alike(monkeypatch):
    values = 4 * gaussian(3, 40, 25) * torch.tensor([0.5, 1.0, 3.0])[:, None, None]
    batch = TRELLIS8.rounder(values)(values)
    for one, rounded in zip(values, batch, strict=True):
        assert torch.equal(TRELLIS8.rounder(one)(one), rounded)
    rounder = TRELLIS8.rounder(values)
    columns = [TrellisRounder(rounder.grid, rounder.bits)(values[..., column, None]) for column in range(25)]
    assert torch.equal(torch.cat(columns, dim=-1), batch)
    monkeypatch.setattr("quantize.trellis.PIECE", 40 * 7)
    assert torch.equal(TRELLIS8.rounder(values)(values), batch)


def test_large_numbers_stay_in_a_byte():
    values = torch.tensor([[-1e4, 1e4], [500.0, -500.0]]).repeat(20, 1)
    codes = TRELLIS8.rounder(values)(values)
    TRELLIS8.check(codes.to(torch.int8))
    assert codes.min() >= -128 and codes.max() <= 127
    assert (codes.abs() >= 125).all()


def test_a_plan_stores_on_a_trellis_and_its_file_is_read_back(tmp_path):
    plan = (Rule("matrices", TRELLIS8, ndim=2, scale=TensorStep(14.5)), Rule("rest", "fp16"))
    weights = {"up": gaussian(30, 20), "down": gaussian(20, 30), "gain": torch.ones(3)}
    codes = quantize(weights, plan)
    save_codes(tmp_path / "codes", codes)
    loaded = load_codes(tmp_path / "codes", plan_grids(plan))
    assert loaded["up"].grid == TRELLIS8
    assert torch.equal(loaded["up"].integers, codes["up"].integers)
    again, before = dequantize(loaded), dequantize(codes)
    assert all(torch.equal(again[name], before[name]) for name in weights)
    with pytest.raises(UserError, match="unknown grid 'trellis8'"):
        load_codes(tmp_path / "codes")

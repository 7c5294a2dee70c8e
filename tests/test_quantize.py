"""Grids, scales, straight-through maps and pruning, against numbers worked out by hand."""

import shutil

import pytest
import torch

from quantize.grid import GRIDS, INT4, INT5, INT6, INT8, Coded, Grid, dequantize, dequantize_coded, round_to_grid
from quantize.prune import prune_smallest
from quantize.scale import RowMax, RowPercentile, nearest_fp16, row_quantile
from quantize.straight_through import StraightThrough
from runtime.errors import UserError

ALL_GRIDS = list(GRIDS.values())
SMALLEST_FP16 = 2.0**-14


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_grids_have_the_published_ranges():
    ranges = {grid.name: (grid.lowest, grid.highest, grid.clip, grid.bits) for grid in ALL_GRIDS}
    assert ranges == {
        "ternary": (-1, 1, 1, 2),
        "int4": (-8, 7, 7, 4),
        "int5": (-16, 15, 15, 5),
        "int6": (-32, 31, 31, 6),
        "int7": (-64, 63, 63, 7),
        "int8": (-127, 127, 127, 8),
    }


def test_rounding_by_hand_with_ties_to_even_and_clamping():
    weight = torch.tensor([[0.25, 0.75, -0.75, 3.5, -9.0], [1.0, 2.4, 2.6, -100.0, 100.0]])
    coded = round_to_grid(weight, torch.tensor([0.5, 1.0]).half(), INT4)
    assert coded.integers.tolist() == [[0, 2, -2, 7, -8], [1, 2, 3, -8, 7]]
    assert dequantize_coded(coded).tolist() == [[0.0, 1.0, -1.0, 3.5, -4.0], [1.0, 2.0, 3.0, -8.0, 7.0]]


def test_row_max_by_hand():
    weight = torch.tensor([[0.0, 3.1, -1.0], [15.5, -31.0, 2.0]])
    assert RowMax()(weight, INT6).tolist() == [float(torch.tensor(0.1).half()), 1.0]


def test_row_max_uses_one_scale_for_what_is_no_matrix():
    for shape in ((6,), (1, 2, 3), ()):
        scale = RowMax()(torch.full(shape, 7.0), INT4)
        assert (scale.shape, scale.item()) == ((), 1.0)


def test_scales_never_fall_below_the_smallest_normal_fp16():
    weight = torch.tensor([[0.0, 0.0], [1e-9, 0.0]])
    assert RowMax()(weight, INT5).tolist() == [SMALLEST_FP16] * 2
    assert round_to_grid(weight, RowMax()(weight, INT5), INT5).integers.tolist() == [[0, 0], [0, 0]]


def test_scales_round_to_fp16_as_a_cast_does():
    bits = torch.arange(0x3880_0000, 0x4780_0000, 997, dtype=torch.int32)
    ties = torch.arange(0x3880_0000, 0x4780_0000, 0x1000, dtype=torch.int32)
    for values in (bits.view(torch.float32), ties.view(torch.float32), torch.tensor([65519.0, 65520.0, float("inf")])):
        assert torch.equal(nearest_fp16(values).half(), values.half())


def test_row_percentile_is_the_baselines_rule():
    weight = 3 * gaussian(64, 512)
    clip = torch.quantile(weight.abs(), 0.9999984, dim=1)
    scale = RowPercentile()(weight, INT8)
    assert scale.dtype == torch.float16
    torch.testing.assert_close(scale.float(), clip / 127, rtol=2**-11, atol=0)


def test_row_percentile_clips_outliers_and_has_the_floor_of_one():
    long_row = torch.ones(1, 2_000_001)
    long_row[0, :2] = 100.0
    assert RowPercentile()(long_row, INT8).tolist() == [float(torch.tensor(1 / 127).half())]
    assert RowPercentile(quantile=1.0)(long_row, INT8).item() == pytest.approx(100 / 127, rel=1e-3)
    assert RowPercentile()(torch.full((4, 8), 0.01), INT8).tolist() == [float(torch.tensor(1 / 127).half())] * 4


@pytest.mark.parametrize("quantile", [0.0, 0.03, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("cols", [1, 2, 7, 512])
def test_row_quantile_agrees_with_torch(quantile, cols):
    values = gaussian(5, cols)
    torch.testing.assert_close(row_quantile(values, quantile), torch.quantile(values, quantile, dim=1))


def test_row_quantile_takes_more_elements_than_torch_does():
    values = torch.zeros(1, 16_777_217)
    values[0, 5] = 1.0
    assert row_quantile(values, 1.0).tolist() == [1.0]


@pytest.mark.parametrize("grid", ALL_GRIDS, ids=lambda grid: grid.name)
def test_no_weight_is_off_by_more_than_half_a_scale(grid):
    for spread in (1e-6, 1e-4, 0.05, 30.0):
        weight = gaussian(40, 96) * spread
        coded = round_to_grid(weight, RowMax()(weight, grid), grid)
        error = (dequantize_coded(coded) - weight).abs()
        assert (error <= coded.scale.float()[:, None] / 2 * (1 + 1e-5)).all()


@pytest.mark.parametrize("grid", ALL_GRIDS, ids=lambda grid: grid.name)
def test_the_largest_weight_of_every_row_falls_on_the_clip(grid):
    weight = gaussian(40, 96)
    integers = round_to_grid(weight, RowMax()(weight, grid), grid).integers
    assert (integers.abs().amax(dim=1) == grid.clip).all()


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (3, 0, 2)])
@pytest.mark.parametrize("rule", [RowMax(), RowPercentile()])
def test_empty_tensors_pass(shape, rule):
    coded = round_to_grid(torch.zeros(shape), rule(torch.zeros(shape), INT6), INT6)
    assert dequantize_coded(coded).shape == shape


def test_dequantize_returns_fp32_copies():
    plain = torch.tensor([1.5], dtype=torch.float32)
    weights = dequantize({"coded": round_to_grid(torch.ones(2, 2), torch.ones(2).half(), INT4), "plain": plain})
    weights["plain"].zero_()
    assert plain.item() == 1.5
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("integers", "scale", "message"),
    [
        (torch.ones(2, 2), torch.ones(2).half(), "int8 with an fp16 scale"),
        (torch.ones(2, 2, dtype=torch.int8), torch.ones(2), "int8 with an fp16 scale"),
        (torch.ones(2, 3, dtype=torch.int8), torch.ones(3).half(), r"\[2\] a row, \[1, 3\] a column, .*; got \[3\]"),
        (torch.full((2, 2), 16, dtype=torch.int8), torch.ones(2).half(), "int5 must lie in -16 to 15, got 16 to 16"),
    ],
)
def test_codes_that_do_not_fit_are_refused(integers, scale, message):
    with pytest.raises(UserError, match=message):
        Coded(integers, scale, INT5)


def test_a_grid_beyond_eight_bits_is_refused():
    with pytest.raises(UserError, match="fit eight bits"):
        Grid("int9", -256, 255, 255)


def test_quantiles_outside_the_unit_interval_are_refused():
    with pytest.raises(UserError, match=r"must lie in \(0, 1\], got 99.9"):
        RowPercentile(quantile=99.9)


@pytest.mark.parametrize("grid", ALL_GRIDS, ids=lambda grid: grid.name)
@pytest.mark.parametrize("rule", [RowMax(), RowPercentile(), RowPercentile(0.9)])
def test_straight_through_computes_with_what_the_export_stores(grid, rule):
    weight = (gaussian(24, 80) * 2).requires_grad_()
    mapped = StraightThrough(grid, rule)(weight)
    exported = round_to_grid(weight.detach(), rule(weight.detach(), grid), grid)
    assert torch.equal(mapped, dequantize_coded(exported))
    upstream = gaussian(24, 80, seed=1)
    (mapped * upstream).sum().backward()
    assert torch.equal(weight.grad, upstream)


def test_straight_through_compiles_to_the_same_bits():
    # Without a C++ compiler the graph is traced but not fused, and only fusion ever lost the rounding of the scales.
    backend = "inductor" if shutil.which("g++") else "aot_eager"
    weight = gaussian(8, 16).requires_grad_()
    mapping = StraightThrough(INT6)
    compiled = torch.compile(mapping, backend=backend, fullgraph=True)
    assert torch.equal(compiled(weight), mapping(weight))
    compiled(weight).sum().backward()
    assert torch.equal(weight.grad, torch.ones(8, 16))


def test_pruning_takes_the_smallest_of_large_matrices_only():
    weight = gaussian(300, 300)
    pruned = prune_smallest(weight, 0.03)
    assert int((pruned == 0).sum()) == 2_700
    assert pruned[pruned != 0].abs().min() >= weight.abs()[pruned == 0].max()
    for small in (gaussian(256, 256), gaussian(70_000), gaussian(2, 200, 200)):
        assert torch.equal(prune_smallest(small, 0.5), small)
    assert torch.equal(prune_smallest(weight, 0.0), weight)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 3])
def test_pruning_everything_is_refused(fraction):
    with pytest.raises(UserError, match=r"must lie in \[0, 1\), got"):
        prune_smallest(gaussian(300, 300), fraction)

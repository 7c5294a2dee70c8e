"""Steps by rate: the table is the same everywhere, rules against numbers worked out by hand."""

import math
import struct

import pytest
import torch

from quantize.estimate import estimate_bytes
from quantize.fit import predicted_bytes
from quantize.grid import INT4, INT6, dequantize_coded, round_to_grid
from quantize.plan import Rule, quantize
from quantize.steps import STEP_TABLE, UNIFORM, ColumnStep, Deviation, TensorStep, log2_step, nearest_step_code
from quantize.trellis import TRELLIS8
from runtime.errors import UserError


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_table_is_eighths_of_an_octave_in_exact_fp16():
    assert len(STEP_TABLE) == 240
    for code, step in enumerate(STEP_TABLE):
        assert struct.unpack("<e", struct.pack("<e", step)) == (step,)
        # Half a unit in the last of ten bits.
        assert step == pytest.approx(2 ** (code / 8 - 14), rel=2**-11)
    assert log2_step(torch.arange(240)).tolist() == list(STEP_TABLE)


def test_every_step_has_its_code_and_every_number_the_nearest_by_ratio():
    codes = torch.arange(240)
    assert torch.equal(nearest_step_code(log2_step(codes)).long(), codes)
    numbers = torch.exp(gaussian(2000) * 4).clamp(2**-14, 2**15.8)
    found = log2_step(nearest_step_code(numbers)).double()
    distances = (torch.tensor(STEP_TABLE, dtype=torch.float64).log2() - numbers.double().log2()[:, None]).abs()
    torch.testing.assert_close((found.log2() - numbers.double().log2()).abs(), distances.amin(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("code", [-1, 240, 255])
def test_codes_beyond_the_table_are_refused(code):
    with pytest.raises(UserError, match=f"must lie in 0 to 239, got {min(code, 0)} to {max(code, 0)}"):
        log2_step(torch.tensor([0, code]))


def test_deviation_is_the_published_rule_to_the_nearest_step():
    weight = gaussian(64, 512) * torch.exp(gaussian(64, 1, seed=1))
    steps = Deviation(12.85)(weight, INT6)
    assert steps.shape == (64,)
    published = 12.85 * weight.std(dim=1, correction=0) / 31
    assert ((steps.float() / published).log2().abs() <= 1 / 16 + 1e-3).all()
    assert torch.equal(log2_step(nearest_step_code(steps)), steps)


def test_one_step_a_tensor_is_finer_than_the_table():
    weight = gaussian(32, 64)
    steps = [TensorStep(k)(weight, INT6).item() for k in (12.85, 12.9)]
    assert steps == pytest.approx([k * weight.std(correction=0).item() / 31 for k in (12.85, 12.9)], rel=2**-11)
    assert steps[0] < steps[1]


@pytest.mark.parametrize("rule", [TensorStep(2.0), ColumnStep(2.0)])
def test_an_outlier_is_not_clipped(rule):
    weight = gaussian(64, 32)
    weight[3, 4] = 60.0
    decoded = dequantize_coded(round_to_grid(weight, rule(weight, INT4), INT4))
    # Steps of the table may be 4.4 % finer than asked.
    assert decoded[3, 4].item() == pytest.approx(60.0, rel=0.05)
    assert dequantize_coded(round_to_grid(weight, Deviation(2.0)(weight, INT4), INT4))[3, 4] < 30


def test_column_steps_go_by_the_factor_and_keep_their_mean():
    weight, columns = gaussian(4000, 8), torch.tensor([0.5, 1.0, 2.0, 4.0, 4.0, 2.0, 1.0, 0.5])
    steps = ColumnStep(4.0)(weight, UNIFORM, columns).float()[0]
    assert steps.shape == (8,)
    products = (steps * columns).log2()
    assert products.max() - products.min() <= 1 / 8 + 1e-3
    assert steps.log2().mean() == pytest.approx(math.log2(4 / 31), abs=1 / 16)


def test_column_steps_without_a_factor_are_alike():
    steps = ColumnStep(4.0)(gaussian(4000, 8), UNIFORM)
    assert steps.shape == (1, 8)
    assert steps.unique().numel() == 1


@pytest.mark.parametrize("rule", [Deviation, TensorStep, ColumnStep])
@pytest.mark.parametrize("k", [0.0, -1.0, float("inf"), float("nan")])
def test_a_step_must_be_positive(rule, k):
    with pytest.raises(UserError, match=f"positive number of standard deviations, got {k}"):
        rule(k)


@pytest.mark.parametrize("shape", [(5, 0), (0,), (), (3,), (2, 3, 4)])
@pytest.mark.parametrize("rule", [Deviation(12.85), TensorStep(12.85)])
def test_every_shape_has_its_step(shape, rule):
    coded = round_to_grid(torch.zeros(shape), rule(torch.zeros(shape), INT6), INT6)
    assert not dequantize_coded(coded).any()


@pytest.mark.parametrize("grid", [INT6, UNIFORM, TRELLIS8], ids=lambda grid: grid.name)
@pytest.mark.parametrize("rule", [Deviation(12.85), TensorStep(9.0)])
def test_bytes_are_estimated_before_any_weight_exists(grid, rule):
    plan = (Rule("all", grid, scale=rule),)
    actual = predicted_bytes(quantize({"up": gaussian(256, 384)}, plan))
    # The estimate allows 1.2 % for zstd, which a range coder does not take, and knows nothing of a trellis' rate term.
    assert estimate_bytes({"up": (256, 384)}, plan)["up"] == pytest.approx(actual, rel=0.03)

"""GPTQ against a literal column-by-column one in fp64, and what it gains on correlated inputs."""

import math

import pytest
import torch

from quantize.fit import code_bits
from quantize.gptq import GPTQ, Factor, factorise, output_error, round_by_columns
from quantize.grid import INT6, dequantize_coded, round_to_grid
from quantize.plan import Rule, quantize
from quantize.scale import RowMax
from quantize.steps import UNIFORM, ColumnStep, Deviation, TensorStep
from quantize.trellis import TRELLIS8
from runtime.errors import UserError


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def correlated_moment(cols: int, seed: int = 1) -> torch.Tensor:
    """H of inputs whose directions have variances from 1 to 1/cols^2, and whose columns have scales of their own."""
    mixing = gaussian(cols, cols, seed=seed) / torch.arange(1, cols + 1)
    mixing = mixing * torch.exp(0.8 * gaussian(cols, 1, seed=seed + 1))
    return mixing @ mixing.T


def textbook_gptq(weight, hessian, steps, damping):
    """arXiv 2210.17323 with the inverse and its Cholesky factor, all fp64, one column at a time."""
    weight, hessian = weight.double().clone(), hessian.double().clone()
    dead = hessian.diagonal() == 0
    mean = hessian.diagonal().mean()
    hessian[dead, dead] = mean
    weight[:, dead] = 0
    order = hessian.diagonal().where(~dead, torch.zeros(())).argsort(stable=True).flip(0)
    hessian += damping * mean * torch.eye(len(hessian))
    weight, steps = weight[:, order], steps.double().expand(weight.shape)[:, order]
    upper = torch.linalg.cholesky(hessian[order][:, order].inverse(), upper=True)
    codes = torch.empty_like(weight)
    for j in range(weight.shape[1]):
        codes[:, j] = (weight[:, j] / steps[:, j]).round().clamp(UNIFORM.lowest, UNIFORM.highest)
        error = (weight[:, j] - codes[:, j] * steps[:, j]) / upper[j, j]
        weight[:, j:] -= error[:, None] * upper[j, j:]
    unsorted = torch.empty_like(codes)
    unsorted[:, order] = codes
    return unsorted


def batch(weights, hessians, damping=0.01, dtype=torch.float64):
    factors = [factorise(hessian.to(dtype), damping) for hessian in hessians]
    return torch.stack([*weights]).to(dtype), Factor(*map(torch.stack, zip(*factors, strict=True)))


@pytest.mark.parametrize("step_shape", [(1, 1), (24, 1), (1, 150)])
def test_equals_the_textbook_column_by_column(step_shape):
    weights, hessians = [gaussian(24, 150, seed=s) for s in (5, 6)], [correlated_moment(150, s) for s in (7, 8)]
    hessians[1][:, 40] = hessians[1][40] = 0
    steps = torch.stack([0.3 * torch.exp(0.3 * gaussian(*step_shape, seed=s)) for s in (9, 10)])
    stacked, factor = batch(weights, hessians)
    codes = round_by_columns(stacked, steps.double(), factor, UNIFORM)
    for found, weight, hessian, step in zip(codes, weights, hessians, steps, strict=True):
        literal = textbook_gptq(weight, hessian, step, 0.01)
        assert torch.equal(found, literal)
        errors = [output_error(weight.double(), codes * step, hessian.double()) for codes in (found, literal)]
        assert errors[0].item() == pytest.approx(errors[1].item(), rel=1e-9)


def test_the_factor_says_the_error_in_advance():
    weight, hessian = gaussian(16, 40), correlated_moment(40)
    order, unit, columns, _ = factorise(hessian.double(), 1e-12)
    torch.testing.assert_close(
        (unit * columns[order]) @ (unit * columns[order]).mT, hessian.double()[order][:, order], rtol=1e-9, atol=1e-9
    )
    assert (hessian.diagonal()[order].diff() >= 0).all()
    coded = GPTQ(1e-9)({"w": weight}, UNIFORM, TensorStep(12.85), {"w": hessian})["w"]
    error = ((weight.double() - dequantize_coded(coded).double())[:, order] @ unit) * columns[order]
    assert (error.abs() <= coded.scale.double() / 2 * columns[order] * (1 + 1e-4)).all()


def decibels(weight, coded, hessian):
    return 10 * math.log10(output_error(weight, dequantize_coded(coded), hessian) / (weight @ hessian * weight).sum())


def test_beats_the_nearest_code_by_3_db_at_the_same_steps():
    weight, hessian = gaussian(64, 192), correlated_moment(192)
    nearest = round_to_grid(weight, Deviation(12.85)(weight, INT6), INT6)
    better = GPTQ()({"w": weight}, INT6, Deviation(12.85), {"w": hessian})["w"]
    assert torch.equal(better.scale, nearest.scale)
    assert decibels(weight, better, hessian) < decibels(weight, nearest, hessian) - 3
    assert code_bits(better) < code_bits(nearest) * 1.02


def test_the_order_of_the_columns_helps():
    weight, hessian = gaussian(64, 192), correlated_moment(192)
    stacked, factor = batch([weight], [hessian])
    identity = torch.arange(192)
    damped = hessian.double() + 0.01 * hessian.double().diagonal().mean() * torch.eye(192)
    lower = torch.linalg.cholesky(damped)
    as_it_stands = Factor(identity[None], (lower / lower.diagonal())[None], lower.diagonal()[None], factor.alive)
    step = torch.full((1, 1, 1), 0.4, dtype=torch.float64)
    errors = [
        output_error(weight.double(), 0.4 * round_by_columns(stacked, step, each, UNIFORM)[0], hessian.double())
        for each in (as_it_stands, factor)
    ]
    assert 10 * math.log10(errors[0] / errors[1]) > 0.3


def error_at_equal_rate(weight, hessian, grid, rule):
    """Output error in dB, corrected by 6.02 dB for each bit a weight, so that rules compare at one rate."""
    coded = GPTQ()({"w": weight}, grid, rule, {"w": hessian})["w"]
    return decibels(weight, coded, hessian) + 6.02 * code_bits(coded) / weight.numel()


def test_column_steps_improve_the_output_at_equal_rate():
    weight, hessian = gaussian(96, 192), correlated_moment(192)
    uniform, column = (error_at_equal_rate(weight, hessian, UNIFORM, rule(12.85)) for rule in (TensorStep, ColumnStep))
    assert column < uniform - 0.3


def test_the_trellis_gains_inside_gptq_too():
    weight, hessian = gaussian(256, 96), correlated_moment(96)
    scalar = error_at_equal_rate(weight, hessian, UNIFORM, TensorStep(12.85))
    assert error_at_equal_rate(weight, hessian, TRELLIS8, TensorStep(14.5)) < scalar - 0.8


def test_columns_without_input_become_zero_and_disturb_nothing():
    weight, hessian = gaussian(20, 48), correlated_moment(48)
    weight[:, 7] *= 1e-3
    silent = hessian.clone()
    silent[7] = silent[:, 7] = 0
    coded = GPTQ()({"w": weight}, UNIFORM, RowMax(), {"w": silent})["w"]
    assert not coded.integers[:, 7].any()
    kept = [column for column in range(48) if column != 7]
    assert (coded.integers[:, kept] != 0).any(dim=0).all()
    nothing = GPTQ()({"w": weight}, UNIFORM, RowMax(), {"w": torch.zeros(48, 48)})["w"]
    assert not nothing.integers.any()


@pytest.mark.parametrize("grid, rule", [(UNIFORM, Deviation(12.85)), (TRELLIS8, ColumnStep(14.5))])
def test_a_plan_rounds_matrices_of_a_shape_at_once_and_always_alike(grid, rule):
    weights = {f"layers.{n}.up": gaussian(32, 48, seed=n) for n in range(3)} | {"gain": torch.ones(3)}
    hessians = {name: correlated_moment(48, seed=n) for n, name in enumerate(weights)}
    plan = (Rule("matrices", grid, ndim=2, scale=rule, method=GPTQ()), Rule("rest", "fp16"))
    codes, again = (quantize(weights, plan, hessians=hessians) for _ in range(2))
    assert list(codes) == sorted(weights)
    for name in list(weights)[:3]:
        alone = quantize({name: weights[name]}, plan, hessians=hessians)[name]
        for other in (again[name], alone):
            assert torch.equal(codes[name].integers, other.integers)
            assert torch.equal(codes[name].scale, other.scale)
    assert codes["gain"].dtype == torch.float16


@pytest.mark.parametrize(
    ("weights", "hessians", "message"),
    [
        ({"up": (4, 3)}, {}, "GPTQ needs the second moment of what up is multiplied with, there is none"),
        ({"up": (4, 3)}, {"up": (4, 4)}, r"moment for up \(4, 3\) must be finite numbers \(3, 3\), got \(4, 4\)"),
        ({"gain": (3,)}, {"gain": (3, 3)}, r"GPTQ rounds matrices, gain is \(3,\)"),
    ],
)
def test_what_gptq_lacks_is_named(weights, hessians, message):
    shaped = [{name: torch.ones(shape) for name, shape in some.items()} for some in (weights, hessians)]
    with pytest.raises(UserError, match=message):
        quantize(shaped[0], (Rule("all", INT6, method=GPTQ()),), hessians=shaped[1])


def test_moments_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="1 of them not finite"):
        GPTQ()({"up": torch.ones(2, 2)}, INT6, RowMax(), {"up": torch.tensor([[1.0, 0.0], [0.0, math.inf]])})


@pytest.mark.parametrize("damping", [0.0, -0.01, math.nan])
def test_no_damping_is_refused(damping):
    with pytest.raises(UserError, match="damping of GPTQ must be positive"):
        GPTQ(damping)


def test_a_scale_beyond_fp16_is_refused_with_a_method_too():
    plan = (Rule("all", INT6, scale=TensorStep(12.85), method=GPTQ()),)
    with pytest.raises(UserError, match="fp16 numbers reach 65504, wide needs more"):
        quantize({"wide": 1e6 * gaussian(4, 4)}, plan, hessians={"wide": torch.eye(4)})


def test_torch_computes_in_one_thread_meanwhile_and_in_as_many_as_before_after():
    seen = []

    class Watching(Deviation):
        def __call__(self, weight, grid):
            seen.append(torch.get_num_threads())
            return super().__call__(weight, grid)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        GPTQ()({"x": gaussian(4, 8)}, UNIFORM, Watching(12.85), {"x": correlated_moment(8)})
        with pytest.raises(UserError):
            GPTQ()({"x": gaussian(4, 8)}, UNIFORM, Watching(12.85), {})
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)

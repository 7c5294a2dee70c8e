"""Filling a budget: predicted sizes against packed ones, and searches on curves of every shape."""

import pytest
import torch

from compress.container import pack
from compress.range_coder import RangeKind
from compress.step_scales import StepRangeKind
from compress.trellis_kind import TrellisKind
from quantize.fit import Fit, code_bits, entropy_bits, fit_steps, more_weights, predicted_bytes
from quantize.grid import round_to_grid
from quantize.plan import Rule, quantize
from quantize.steps import UNIFORM, Deviation, TensorStep
from quantize.trellis import TRELLIS8
from runtime.errors import UserError

KINDS = (RangeKind(UNIFORM, "tensor"), TrellisKind(TRELLIS8, "tensor"), StepRangeKind(UNIFORM, "row"))


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def weights():
    matrices = {f"layers.{n}.{name}": (n + 1) * gaussian(256, 192, seed=n) for n in range(3) for name in ("up", "down")}
    return matrices | {"gain": gaussian(192), "table": gaussian(300, 64)}


def plan(grid, rule):
    return Rule("table", "fp16", pattern="table"), Rule("matrices", grid, ndim=2, scale=rule), Rule("rest", "fp32")


def packed_size(weights, *rule) -> int:
    return len(pack(quantize(weights, plan(*rule)), config={}, kinds=KINDS))


@pytest.mark.parametrize(
    "rule",
    [
        (UNIFORM, TensorStep(12.85)),
        (UNIFORM, TensorStep(40.0)),
        (UNIFORM, Deviation(12.85)),
        (TRELLIS8, TensorStep(14.5)),
    ],
)
def test_sizes_are_predicted_within_one_percent(weights, rule):
    codes = quantize(weights, plan(*rule))
    assert predicted_bytes(codes) == pytest.approx(len(pack(codes, config={}, kinds=KINDS)), rel=0.01)


@pytest.mark.parametrize("share", [0.5, 0.8, 1.3])
def test_the_packed_file_lands_within_a_thousandth_under_the_budget(weights, share):
    rule = UNIFORM, TensorStep(12.85)
    budget = int(share * packed_size(weights, *rule))
    num_weights = 6 * 256 * 192
    rough = fit_steps(
        lambda m: predicted_bytes(quantize(weights, plan(UNIFORM, TensorStep(12.85 * m)))), budget, num_weights
    )
    fit = fit_steps(
        lambda m: packed_size(weights, UNIFORM, TensorStep(12.85 * m)), budget, num_weights, rough.multiplier
    )
    assert 0.999 * budget <= fit.size <= budget
    assert fit.size == packed_size(weights, UNIFORM, TensorStep(12.85 * fit.multiplier))
    assert rough.tries + fit.tries <= 9
    assert (fit.multiplier < 1) == (share > 1)


@pytest.mark.parametrize(
    "size",
    [
        lambda m: 1_000_000 / m,
        lambda m: 100_000 + 500_000 / m**0.4,
        lambda m: 900_000 / (1 + m**3),
        # As bytes fall when many tensors change their steps one by one.
        lambda m: 400_000 - 1_000 * round(125 * torch.tensor(m).log2().item()),
    ],
)
@pytest.mark.parametrize("budget", [250_000, 390_000, 440_000])
def test_a_curve_of_any_shape_is_followed_to_the_budget(size, budget):
    fit = fit_steps(size, budget, 1_000_000)
    assert fit == Fit(fit.multiplier, int(size(fit.multiplier)), fit.tries)
    assert 0.997 * budget <= fit.size <= budget


def test_a_size_that_cannot_reach_the_budget_ends_under_it():
    fit = fit_steps(lambda m: min(300_000, 100_000 / m), 500_000, 1_000_000)
    assert fit.size == 300_000


def test_a_budget_that_nothing_fits_is_refused():
    with pytest.raises(UserError, match="must fit 10,000 bytes, the coarsest steps take 50,0[0-9]+; nearest 50,0"):
        fit_steps(lambda m: 50_000 + 10_000 / m, 10_000, 1_000_000)


def test_entropies_by_hand():
    assert entropy_bits(torch.tensor([-128, 255, -128, 255])) == 4.0
    assert entropy_bits(torch.tensor([], dtype=torch.int8)) == 0.0
    coded = round_to_grid(gaussian(400, 50), torch.tensor(0.25).half(), TRELLIS8)
    even = coded.integers[coded.integers % 2 == 0]
    odd = coded.integers[coded.integers % 2 == 1]
    assert code_bits(coded) == pytest.approx(entropy_bits(even) + entropy_bits(odd), rel=1e-9)


def test_room_is_counted_at_the_present_bytes_a_weight():
    assert more_weights(8_000_000, 16_000_000, 20_000_000) == 20_000_000
    assert more_weights(20_000_000, 16_000_000, 20_000_000) == -4_000_000

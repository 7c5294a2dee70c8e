"""Ternary weights: BitNet's rounding, one mean for a tensor or for every 256 weights, straight-through training."""

import pytest
import torch

from quantize.codes_file import load_codes, save_codes
from quantize.grid import TERNARY, dequantize_coded, round_to_grid, scale_shapes, spread_scale
from quantize.plan import Rule, quantize
from quantize.scale import MeanMagnitude
from quantize.straight_through import StraightThrough

PER_TENSOR, PER_BLOCK = MeanMagnitude(), MeanMagnitude(per_block=True)


def gaussian(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def test_a_weight_at_half_the_mean_is_zero():
    weight = torch.tensor([0.5, 1.5])
    coded = round_to_grid(weight, PER_TENSOR(weight, TERNARY), TERNARY)
    assert (coded.scale.item(), coded.integers.tolist()) == (1.0, [0, 1])


def test_the_last_block_divides_by_256():
    weight = torch.ones(300)
    scale = PER_BLOCK(weight, TERNARY)
    assert scale.shape == (2, 1)
    assert scale.flatten().tolist() == [1.0, float(torch.tensor(44 / 256).half())]
    assert spread_scale(scale, weight).tolist() == [1.0] * 256 + [scale[1].item()] * 44


def test_up_to_256_weights_have_one_scale():
    assert PER_BLOCK(torch.ones(16, 16), TERNARY).shape == ()
    assert PER_BLOCK(torch.ones(16, 17), TERNARY).shape == (2, 1)


def test_blocks_ignore_rows():
    weight = gaussian(8, 192)
    scale = PER_BLOCK(weight, TERNARY)
    assert scale.shape == scale_shapes(weight.shape)["block"] == (6, 1)
    means = weight.abs().flatten().view(6, 256).mean(dim=1)
    assert torch.allclose(scale.flatten().float(), means, rtol=2**-11)
    assert dequantize_coded(round_to_grid(weight, scale, TERNARY)).flatten()[256:512].abs().unique().numel() <= 2


def test_gaussian_weights_lose_what_theory_says():
    weight = gaussian(1024, 1024)
    coded = round_to_grid(weight, PER_TENSOR(weight, TERNARY), TERNARY)
    kept = dequantize_coded(coded)
    # The threshold is half of sqrt(2 / pi): a share of 2 Phi(0.399) - 1 is zero.
    assert (coded.integers == 0).float().mean().item() == pytest.approx(0.310, abs=0.002)
    assert ((kept - weight).square().mean() / weight.square().mean()).item() == pytest.approx(0.263, abs=0.003)
    assert torch.corrcoef(torch.stack((kept.flatten(), weight.flatten())))[0, 1].item() == pytest.approx(
        0.887, abs=2e-3
    )


def test_rounding_again_shrinks_the_scale_so_trits_must_be_stored():
    weight = gaussian(64, 64)
    once = round_to_grid(weight, PER_TENSOR(weight, TERNARY), TERNARY)
    kept = dequantize_coded(once)
    again = round_to_grid(kept, PER_TENSOR(kept, TERNARY), TERNARY)
    zeros = (once.integers == 0).float().mean().item()
    assert torch.equal(once.integers, again.integers)
    assert again.scale.item() == pytest.approx(once.scale.item() * (1 - zeros), rel=2e-3)


@pytest.mark.parametrize("scale", [PER_TENSOR, PER_BLOCK])
def test_the_gradient_passes_as_if_nothing_were_rounded(scale):
    weight, x = gaussian(12, 100).requires_grad_(), gaussian(5, 100)
    mapped = StraightThrough(TERNARY, scale)(weight)
    (x @ mapped.T).square().sum().backward()
    plain = mapped.detach().requires_grad_()
    (x @ plain.T).square().sum().backward()
    assert torch.equal(weight.grad, plain.grad)


@pytest.mark.parametrize("scale", [PER_TENSOR, PER_BLOCK])
def test_the_plan_stores_what_training_saw(scale, tmp_path):
    weight = gaussian(12, 100)
    codes = quantize({"w": weight}, (Rule("body", TERNARY, scale=scale),))
    save_codes(tmp_path / "codes", codes)
    loaded = load_codes(tmp_path / "codes")["w"]
    assert torch.equal(dequantize_coded(loaded), StraightThrough(TERNARY, scale)(weight))


def test_zeros_divide_by_nothing():
    assert round_to_grid(torch.zeros(4, 4), PER_TENSOR(torch.zeros(4, 4), TERNARY), TERNARY).integers.any() == 0

"""DeltaNet layers against their formulas written out, in one piece and in any pieces, and against published counts."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from model.bit_linear import LinearConfig
from model.block import PreNormBlockConfig
from model.decay import NoDecayConfig, SigmoidDecayConfig, StepDecayConfig
from model.deltanet import DeltaNetConfig
from model.embed import TokenEmbeddingConfig
from model.gated_conv import GatedConvConfig
from model.glu import GLUConfig
from model.gpt import GPTConfig, LayerConfig
from model.mlp import MLPConfig
from model.readout import NormedReadoutConfig, SigmoidReadoutConfig
from model.stack import StackConfig
from ops.delta_rule.reference import delta_rule_reference
from ops.rms_norm.fused import l2_norm
from optim.groups import route
from runtime.errors import UserError

F64 = torch.float64
IMLI = DeltaNetConfig(
    num_heads=4,
    decay=SigmoidDecayConfig(),
    readout=SigmoidReadoutConfig(),
    predict_from="undecayed",
    q_scale=1.0,
    l2_eps=1e-24,
)
CONFIGS = {
    "published": DeltaNetConfig(num_heads=4),
    "shared keys": DeltaNetConfig(num_heads=2, num_value_heads=4, expand_k=1.0, expand_v=2.0),
    "no decay": DeltaNetConfig(num_heads=1, decay=NoDecayConfig(), conv_size=2, largest_beta=2.0),
    "imli": IMLI,
}


def built(config, dim=32, dtype=F64, seed=0):
    """A layer of the config in which every parameter is random."""
    layer = config.build(dim)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return layer.to(dtype)


def random_input(length, dim=32, rows=2, seed=1, dtype=F64):
    return torch.randn(rows, length, dim, generator=torch.Generator().manual_seed(seed)).to(dtype)


def written_out(layer, config, x):
    """The layer as the papers write it: one token of the convolution and of the memory after the other."""
    linear = lambda module: x @ module.weight.T  # noqa: E731
    parts = []
    for inputs, taps in (
        (linear(layer.query), layer.query_conv.taps),
        (linear(layer.key), layer.key_conv.taps),
        (linear(layer.value), layer.value_conv.taps),
    ):
        before = F.pad(inputs, (0, 0, config.conv_size - 1, 0))
        mixed = sum(taps[:, j] * before[:, j : j + x.shape[1]] for j in range(config.conv_size))
        parts.append(mixed * mixed.sigmoid())
    q, k, v = parts
    q, k = (part.unflatten(-1, (config.num_heads, -1)) for part in (q, k))
    q, k = (part / (part.square().sum(-1, keepdim=True) + config.l2_eps).sqrt() for part in (q, k))
    beta = config.largest_beta / (1 + torch.exp(-linear(layer.beta)))
    match config.decay:
        case StepDecayConfig():
            step = torch.log1p(torch.exp(linear(layer.decay.step) + layer.decay.step_bias))
            g = -layer.decay.decay_log.exp() * step
        case SigmoidDecayConfig():
            g = -torch.log1p(torch.exp(-linear(layer.decay.step))) / 16
        case NoDecayConfig():
            g = None
    v = v.unflatten(-1, (config.value_heads, -1))
    o, _ = delta_rule_reference(q, k, v, beta, g, scale=config.q_scale, predict_from=config.predict_from)
    gate = linear(layer.readout.gate)
    if isinstance(config.readout, NormedReadoutConfig):
        o = o / (o.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.readout.norm.gain
        gate = gate * gate.sigmoid()
    else:
        gate = gate.sigmoid()
    return (o.flatten(2) * gate) @ layer.project.weight.T


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def config(request):
    return request.param


def test_a_layer_is_its_formulas(config):
    layer, x = built(config), random_input(37)
    torch.testing.assert_close(layer(x)[0], written_out(layer, config, x))


@pytest.mark.parametrize("cuts", [(1,) * 11, (3, 8), (10, 1), (2, 1, 5, 3)])
def test_any_pieces_are_the_whole(config, cuts):
    layer, x = built(config), random_input(11)
    whole, end = layer(x)
    state, parts = None, []
    for piece in x.split(cuts, dim=1):
        y, state = layer(piece, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    torch.testing.assert_close(state, end)
    assert [part.shape for part in state] == [part.shape for part in layer(random_input(80))[1]]


def test_no_gradient_reaches_a_later_token(config):
    layer, x = built(config), random_input(70).requires_grad_()
    layer(x)[0][:, :40].sum().backward()
    assert x.grad[:, :40].abs().amin(-1).min() > 0
    assert not x.grad[:, 40:].any()


def test_bf16_keeps_its_memory_in_fp32(config):
    layer, x = built(config, dtype=torch.float32), random_input(70, dtype=torch.float32)
    y, (*tails, S) = layer(x.bfloat16())
    assert {part.dtype for part in (y, *tails)} == {torch.bfloat16} and S.dtype == torch.float32
    exact = layer(x)[0]
    assert (y - exact).square().mean() < 0.03**2 * exact.square().mean()


@pytest.mark.parametrize(
    "dim, heads, layers, hidden, count", [(192, 4, 6, 512, 5_042_112), (384, 6, 8, 1024, 20_435_328)]
)
def test_imli_has_its_published_parameter_counts(dim, heads, layers, hidden, count):
    block = PreNormBlockConfig(replace(IMLI, num_heads=heads), GLUConfig(hidden))
    with torch.device("meta"):
        model = StackConfig(10_000, dim, (block,) * layers).build()
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_time_constants_start_where_they_were_published():
    mixer = DeltaNetConfig(256, expand_k=1.0, expand_v=1.0)
    model = GPTConfig(64, 512, TokenEmbeddingConfig(), (LayerConfig(mixer, MLPConfig(8)),)).build()
    layer = model.reset_parameters(0).layers[0].attention
    rate, step = layer.decay.decay_log.exp(), F.softplus(layer.decay.step_bias)
    assert 0 < rate.min() < 1 and 15 < rate.max() <= 16 and rate.mean().item() == pytest.approx(8, abs=1)
    assert 1e-3 <= step.min() < 2e-3 and 0.05 < step.max() <= 0.1001
    assert step.log().mean().item() == pytest.approx(math.log(1e-2), abs=0.3)
    torch.testing.assert_close(layer.decay(torch.zeros(1, 1, 512))[0, 0], -rate * step)
    assert layer.value_conv.taps.std().item() == pytest.approx(0.02, rel=0.05)


def test_a_memory_may_start_with_slower_decays():
    draws = [StepDecayConfig(largest).build(8, 512, LinearConfig()) for largest in (16.0, 0.5)]
    with torch.no_grad():
        for decay in draws:
            torch.manual_seed(0)
            decay.reset_parameters()
    published, slower = (decay.decay_log.exp() for decay in draws)
    torch.testing.assert_close(slower, published / 32)
    assert torch.equal(draws[0].step_bias, draws[1].step_bias)


def test_decays_that_forget_nothing_or_all_are_refused():
    with pytest.raises(UserError, match="must be above 0, got 0.0; published is 16"):
        StepDecayConfig(largest=0.0).build(8, 2, LinearConfig())


def test_decay_is_summed_in_fp32():
    layer = built(CONFIGS["published"], dtype=torch.float32)
    assert layer.decay(random_input(3).bfloat16()).dtype == torch.float32


def test_the_projection_starts_at_zero_where_new_blocks_are_identities():
    gpt = GPTConfig(64, 32, TokenEmbeddingConfig(), (LayerConfig(DeltaNetConfig(2), MLPConfig(8)),))
    stack = StackConfig(64, 32, (PreNormBlockConfig(DeltaNetConfig(2), GLUConfig(8)),))
    assert not gpt.build().reset_parameters(0).layers[0].attention.project.weight.any()
    assert stack.build().reset_parameters(0).layers[0].mixer.project.weight.all()


@pytest.mark.parametrize(
    "name, group",
    [
        ("decay.decay_log", "undecayed"),
        ("decay.step_bias", "undecayed"),
        ("decay.step.weight", "matrix"),
        ("value_conv.taps", "scalar"),
        ("readout.norm.gain", "scalar"),
        ("readout.gate.weight", "matrix"),
    ],
)
def test_parameters_go_to_their_groups(name, group):
    assert built(CONFIGS["published"]).get_parameter(name) is not None
    assert route(f"layers.0.attention.{name}") == group


def test_operations_are_those_of_taps_and_memory():
    config = DeltaNetConfig(num_heads=2, num_value_heads=4, expand_k=0.5, expand_v=1.0)
    taps, memory = (64 + 64 + 128) * 4, 4 * 3 * 32 * 32
    assert config.mixing_flops(128, window=1) == config.mixing_flops(128, window=10**6) == 2 * (taps + memory)


@pytest.mark.parametrize("eps", [1e-6, 1e-24])
def test_l2_norm_and_its_gradient(eps):
    x = random_input(5, dim=7).requires_grad_()
    torch.testing.assert_close(l2_norm(x, eps), x / (x.square().sum(-1, keepdim=True) + eps).sqrt())
    assert torch.autograd.gradcheck(lambda z: l2_norm(z, eps), x)
    short = 1e-4 * random_input(3, dtype=torch.float32)
    torch.testing.assert_close(l2_norm(short, 1e-24), F.normalize(short, dim=-1))
    assert not l2_norm(torch.zeros(2, 4), eps).any()


@pytest.mark.parametrize(
    "config, message",
    [
        (DeltaNetConfig(7), "expand_k times the width must be a multiple of the 7 heads, got 0.75 x 64 = 48; nearest "),
        (DeltaNetConfig(3, expand_k=0.75, expand_v=1.0), "expand_v .* 3 heads, got 1 x 64 = 64; nearest expand_v 0.98"),
        (DeltaNetConfig(4, expand_k=0.0), "expand_k .* 4 heads, got 0 x 64 = 0; nearest expand_k 0.0625"),
        (DeltaNetConfig(4, num_value_heads=6), "a multiple of the 4 key heads, got 6; nearest 8"),
        (DeltaNetConfig(4, conv_size=0), "at least 1 tap, got 0; nearest 1"),
        (GatedConvConfig(0), "at least 1 tap, got 0; nearest 1"),
    ],
)
def test_sizes_that_do_not_fit_are_named(config, message):
    with pytest.raises(UserError, match=message) as error:
        config.build(64)
    assert "\n" not in str(error.value)


def test_the_nearest_head_size_fits_as_it_is_printed():
    with pytest.raises(UserError, match="got 0.25 x 192 = 48; nearest expand_k 0.260417$"):
        DeltaNetConfig(10, expand_k=0.25, expand_v=5 / 96).build(192)
    assert DeltaNetConfig(10, expand_k=0.260417, expand_v=5 / 96).head_sizes(192) == (5, 1)

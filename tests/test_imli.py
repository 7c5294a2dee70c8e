"""Imli against its published facts: counts, formulas by hand, what a token can see, and what its bytes hold."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tiny_runs import VOCAB, tiny

from benchmarks.imli import IMLI_VARIANTS, ImliCommand, run_imli, shortened
from compress.container import pack, unpack
from compress.expected import Expected
from compress.ledger import build_ledger
from model.bit_linear import BitLinearConfig
from model.gated_conv import GatedConvConfig
from model.linear import Linear
from model.norm import NormConfig, RMSNorm
from ops.delta_rule.dispatch import delta_rule
from optim.schedule import WarmupCosine
from quantize.activations import Int8PerToken
from quantize.estimate import estimate_bytes
from quantize.grid import TERNARY, Coded, dequantize
from quantize.plan import quantize
from quantize.scale import MeanMagnitude
from quantize.straight_through import StraightThrough
from recipes.imli import adamw, ternary, with_linear
from recipes.override import overridden
from recipes.packed import model_from_codes, parameter_shapes
from recipes.recipe import load_recipe
from runtime.errors import UserError
from runtime.machine import Machine

VARIANTS = ("imli", "imli_a", "imli_b")
PER_BLOCK = [f"--model.layers.*.{part}.linear.weight_map.scale.per_block=true" for part in ("mixer", "mlp")]
FLOAT = [f"--model.layers.*.{part}.linear.weight_map=none" for part in ("mixer", "mlp")]


def tokens_of(length, vocab_size=VOCAB, rows=2, seed=0):
    return torch.randint(0, vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))


def random_tensor(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tiny_recipe(name, *overrides, **changes):
    return overridden(load_recipe(name), [*tiny(name, **changes), *overrides])


def ternary_matrices(model):
    return [module for module in model.modules() if isinstance(module, Linear)]


@pytest.mark.parametrize(
    "name, count",
    [("imli", 5_042_112), ("imli_a", 4_364_736), ("imli_b", 4_370_112), ("imli_large", 20_435_328)],
)
def test_published_counts(name, count):
    assert sum(math.prod(shape) for shape in parameter_shapes(load_recipe(name).model).values()) == count


def test_published_training():
    recipe = load_recipe("imli")
    optim, train = recipe.optim, recipe.train
    assert (optim.matrix_optimizer, optim.adam_betas, optim.adam_weight_decay) == ("adamw", (0.9, 0.95), 0.01)
    assert optim.matrix_lr == optim.embedding_lr == optim.scalar_lr == 4e-3
    assert (optim.grad_clip, optim.warmdown) == (1.0, WarmupCosine(500, floor=0.0025))
    assert (train.window, train.steps * train.tokens_per_step) == (256, 40_400_896)
    assert load_recipe("imli_b").optim.warmdown.warmup_steps == 1000
    assert load_recipe("imli_large").optim.warmdown.floor * 3e-3 == pytest.approx(1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_an_untrained_model_is_near_the_logarithm_of_its_vocabulary(name):
    """Logits have a deviation of .02 sqrt(192) = .28, which costs half its square more than ln 10000."""
    tokens = tokens_of(129, vocab_size=10_000)
    nats, _ = load_recipe(name).model.build().reset_parameters(0)(tokens[:, :-1], tokens[:, 1:])
    assert 9.2 < nats.mean().item() < 9.3


def test_matrices_start_by_their_outputs_and_gates_saturated_or_half_open():
    published = load_recipe("imli").model.build().reset_parameters(0).layers[0].mixer
    half_open = overridden(load_recipe("imli"), ["--model.layers.*.mixer.gate_init_std", "0.02"]).model
    tuned = half_open.build().reset_parameters(0).layers[0].mixer
    for mixer, gate_std in ((published, math.sqrt(2 / 4)), (tuned, 0.02)):
        assert mixer.beta.weight.std().item() == pytest.approx(gate_std, rel=0.1)
        assert mixer.decay.step.weight.std().item() == pytest.approx(gate_std, rel=0.1)
        assert mixer.value.weight.std().item() == pytest.approx(math.sqrt(2 / 288), rel=0.02)
        assert mixer.value_conv.taps.std().item() == pytest.approx(0.02, rel=0.1)


def test_values_are_held_against_what_is_recalled_before_the_decay():
    """S = .5 x 2 + .5 (3 - 2); the papers, which decay first, have .5 x 2 + .5 (3 - 1) = 2."""
    config = load_recipe("imli").model.layers[0].mixer
    key = torch.tensor([1.0, 0, 0, 0]).expand(1, 2, 1, 4)
    v, beta, decay = torch.tensor([2.0, 3.0]), torch.tensor([1.0, 0.5]), torch.tensor([1.0, 0.5]).log()
    o, state = delta_rule(
        key, key, v.view(1, 2, 1, 1), beta.view(1, 2, 1), decay.view(1, 2, 1),
        scale=config.q_scale, predict_from=config.predict_from,
    )  # fmt: skip
    assert o.flatten().tolist() == [2.0, 1.5] and state.flatten().tolist() == [1.5, 0, 0, 0]


def test_a_gated_convolution_by_hand():
    mixer = GatedConvConfig(size=8).build(6)
    with torch.no_grad():
        for seed, parameter in enumerate(mixer.parameters()):
            parameter.copy_(random_tensor(*parameter.shape, seed=seed))
    x = random_tensor(1, 20, 6, seed=9)
    projected, taps, expected = x[0] @ mixer.project_in.weight.T, mixer.conv.taps, torch.zeros(20, 6)
    for t in range(20):
        for j in range(8):
            if t - 7 + j >= 0:
                expected[t] += taps[:, j] * projected[t - 7 + j, 6:]
    expected = (expected * torch.sigmoid(projected[:, :6])) @ mixer.project.weight.T
    torch.testing.assert_close(mixer(x)[0][0], expected)


@pytest.mark.parametrize("name, reach", [("imli_a", 15), ("imli_b", 15), ("imli", 40)])
def test_how_far_a_token_is_felt(name, reach):
    """Two layers of eight tokens reach fourteen back; the memory of Gated DeltaNet reaches everything."""
    model = tiny_recipe(name).model.build().reset_parameters(0).double()
    model.compute_dtype = torch.float64
    tokens = tokens_of(50)
    changed = tokens.clone()
    changed[:, 10] = (changed[:, 10] + 1) % VOCAB
    with torch.no_grad():
        before, after = model.logits(tokens)[0], model.logits(changed)[0]
    felt = (before != after).any(dim=2).all(dim=0).nonzero().flatten().tolist()
    assert felt == list(range(10, 10 + reach))


def test_norms_stand_in_the_blocks_or_inside_the_matrices():
    for name, norms_of_a_block in (("imli", 2), ("imli_a", 2), ("imli_b", 5)):
        block = load_recipe(name).model.build().layers[0]
        norms = {name: module for name, module in block.named_modules() if isinstance(module, RMSNorm)}
        assert len(norms) == norms_of_a_block
    assert {name: norm.gain.numel() for name, norm in norms.items()} == {
        "mixer.project_in.norm": 192,
        "mixer.project.norm": 192,
        "mlp.gate.norm": 192,
        "mlp.up.norm": 192,
        "mlp.down.norm": 512,
    }


def test_a_ternary_matrix_with_a_norm_inside_by_hand():
    linear = BitLinearConfig(StraightThrough(TERNARY, MeanMagnitude(per_block=True)), NormConfig()).build(192, 4)
    x = random_tensor(3, 192, seed=1)
    with torch.no_grad():
        linear.weight.copy_(random_tensor(4, 192))
        linear.norm.gain.copy_(random_tensor(192, seed=2))
    blocks = linear.weight.detach().view(3, 256)
    alpha = blocks.abs().mean(dim=1, keepdim=True).half().float()
    used = (alpha * (blocks / alpha).round().clamp(-1, 1)).view(4, 192).requires_grad_()
    normed = x / (x.square().mean(dim=1, keepdim=True) + 1e-6).sqrt() * linear.norm.gain.detach()
    expected = normed @ used.T
    torch.testing.assert_close(linear(x), expected)
    expected.square().sum().backward()
    linear(x).square().sum().backward()
    torch.testing.assert_close(linear.weight.grad, used.grad, rtol=1e-5, atol=1e-4)


def test_eight_bit_activations_are_bitnets():
    x = torch.cat((random_tensor(4, 32), torch.zeros(1, 32)))
    scale = 127 / x.abs().amax(dim=1, keepdim=True).clamp_min(1e-5)
    rounded = Int8PerToken()(x)
    torch.testing.assert_close(rounded, (x * scale).round() / scale)
    assert not rounded[4].any()
    levels = rounded[:4] * scale[:4]
    torch.testing.assert_close(levels, levels.round())
    assert levels.abs().amax(dim=1).round().tolist() == [127.0] * 4
    leaf = x.clone().requires_grad_()
    Int8PerToken()(leaf).square().sum().backward()
    torch.testing.assert_close(leaf.grad, 2 * rounded)


def test_eight_bit_activations_reach_every_matrix_and_cost_little():
    config = tiny_recipe("imli", model__dim=64).model
    rounding = with_linear(config, replace(ternary(), activation_map=Int8PerToken()))
    tokens = tokens_of(65)
    model, rounded = (each.build().reset_parameters(0) for each in (config, rounding))
    assert all(module.activation_map == Int8PerToken() for module in ternary_matrices(rounded))
    nats, other = (each(tokens[:, :-1], tokens[:, 1:])[0].mean().item() for each in (model, rounded))
    assert nats != other and abs(nats - other) < 0.02


@pytest.mark.parametrize("name", VARIANTS)
def test_the_bytes_hold_what_was_trained(name):
    """To the bit for the ternary matrices; the rest of the trained model is first rounded as the file rounds it."""
    recipe = tiny_recipe(name, model__dim=64)
    trained = recipe.model.build().reset_parameters(0)
    codes = quantize(dict(trained.named_parameters()), recipe.pack.plan)
    artifact = pack(codes, config={}, kinds=recipe.pack.kinds)
    _, read = unpack(artifact, lambda _: Expected(parameter_shapes(recipe.model), kinds=recipe.pack.kinds))
    others = {name: tensor for name, tensor in dequantize(codes).items() if not name.startswith("layers.")}
    gains = {name: tensor.float() for name, tensor in codes.items() if not isinstance(tensor, Coded)}
    trained.load_state_dict({**others, **gains}, strict=False)
    tokens = tokens_of(33)
    with torch.no_grad():
        expected, packed = trained.logits(tokens)[0], model_from_codes(recipe.model, read, Machine()).logits(tokens)[0]
    assert torch.equal(expected, packed)


def test_logits_out_of_the_bytes_with_an_embedding_in_fp16():
    recipe = tiny_recipe("imli", "--pack.plan.1.store=fp16", model__dim=64)
    trained = recipe.model.build().reset_parameters(0)
    codes = quantize(dict(trained.named_parameters()), recipe.pack.plan)
    tokens = tokens_of(33)
    with torch.no_grad():
        expected, packed = trained.logits(tokens)[0], model_from_codes(recipe.model, codes, Machine()).logits(tokens)[0]
    torch.testing.assert_close(packed, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "overrides, num_scales, most_bytes",
    [([], 60, 632_000), ([*PER_BLOCK, "--pack.plan.0.scale.per_block=true"], 12_132, 12_132 * 54)],
)
def test_the_ternary_body_in_bytes(overrides, num_scales, most_bytes):
    recipe = overridden(load_recipe("imli"), overrides)
    weights = dict(recipe.model.build().reset_parameters(0).layers.named_parameters(prefix="layers"))
    codes = {name: coded for name, coded in quantize(weights, recipe.pack.plan).items() if isinstance(coded, Coded)}
    assert {coded.grid for coded in codes.values()} == {TERNARY}
    assert sum(coded.integers.numel() for coded in codes.values()) == 3_105_792
    assert sum(coded.scale.numel() for coded in codes.values()) == num_scales
    kinds = recipe.pack.kinds
    ledger = build_ledger(pack(codes, config={}, kinds=kinds), {}, 16_000_000, kinds)
    packed = sum(entry.total for entry in ledger.entries)
    assert packed <= most_bytes
    shapes = {name: coded.shape for name, coded in codes.items()}
    assert sum(estimate_bytes(shapes, recipe.pack.plan).values()) == pytest.approx(packed, rel=0.02)


def test_the_float_twin_is_an_override_away():
    recipe = tiny_recipe("imli", *FLOAT, "--pack.plan.0.store=fp16")
    twin, imli = recipe.model.build().reset_parameters(0), tiny_recipe("imli").model.build().reset_parameters(0)
    assert all(torch.equal(p, q) for p, q in zip(twin.parameters(), imli.parameters(), strict=True))
    assert all(torch.equal(module.weight_map(module.weight), module.weight) for module in ternary_matrices(twin))
    assert not any(torch.equal(module.weight_map(module.weight), module.weight) for module in ternary_matrices(imli))
    codes = quantize(dict(twin.named_parameters()), recipe.pack.plan)
    assert [name for name, coded in codes.items() if isinstance(coded, Coded)] == ["embed.tokens.weight"]


def test_the_state_is_the_tail_of_a_convolution_and_a_memory():
    tokens = tokens_of(40, vocab_size=10_000, rows=1)
    for name, shapes in (("imli", [(1, 3, 144), (1, 3, 144), (1, 3, 288), (1, 4, 36, 72)]), ("imli_a", [(1, 7, 192)])):
        model = load_recipe(name).model
        assert model.has_bounded_state
        with torch.no_grad():
            _, (embedding, *layers) = model.build().reset_parameters(0).logits(tokens)
        states = [state if isinstance(state, tuple) else (state,) for state in layers]
        assert embedding is None and all([tuple(part.shape) for part in state] == shapes for state in states)


def test_the_curriculum_of_b_lengthens_three_times():
    train = load_recipe("imli_b").train
    tokens = range(0, train.steps * train.tokens_per_step, train.tokens_per_step)
    windows = [train.curriculum.window_at(seen, train.window) for seen in tokens]
    changes = [later for earlier, later in pairwise(windows) if later != earlier]
    assert [windows[0], *changes] == [128, 256, 512]
    assert all(abs(windows.count(window) / len(windows) - 1 / 3) < 0.01 for window in (128, 256, 512))


def test_the_benchmark_gives_every_variant_the_same_tokens_and_rates():
    command = ImliCommand(tokens=100_000, peak=1e-3, warmup_steps=7)
    runs = [shortened(variant(), command, seed=3) for variant in IMLI_VARIANTS.values()]
    assert {(run.train.steps, run.train.tokens_per_step, run.train.seed) for run in runs} == {(97, 1024, 3)}
    assert {run.optim for run in runs} == {adamw(1e-3, warmup_steps=7)}
    for run in runs:
        run.train.check(world_size=1)
    ends = [stage.tokens for stage in runs[2].train.curriculum.stages]
    assert ends == pytest.approx([97 * 1024 / 3, 97 * 1024 * 2 / 3], rel=0.01)
    assert len({run.model for run in runs}) == len(runs)


def test_the_benchmark_names_the_nearest_variant():
    with pytest.raises(UserError, match="unknown variant 'imli_large'; nearest: imli_a"):
        run_imli(ImliCommand(variants=("imli", "imli_large")))

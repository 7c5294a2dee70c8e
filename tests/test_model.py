"""The model against its published facts: parameter counts, initial loss, wiring, causality, state."""

import math
from dataclasses import replace

import pytest
import torch
from tiny_runs import MODEL_RECIPES, VOCAB, tiny

from model.attention import AttentionConfig
from model.deltanet import DeltaNetConfig
from model.embed import BigramHash, SmearGate, bigram_rows
from model.flops import forward_flops_per_token, matrix_parameters, training_flops_per_token
from model.linear import Linear
from model.linear_attention import LinearAttentionConfig
from ops.rms_norm.reference import rms_norm_reference
from quantize.grid import INT6
from quantize.straight_through import StraightThrough
from recipes.override import overridden
from recipes.packed import parameter_shapes
from recipes.recipe import load_recipe
from runtime.errors import UserError


def tiny_model(name, dtype=torch.float32, seed=0):
    model = overridden(load_recipe(name), tiny(name)).model.build(dtype).reset_parameters(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # Output projections start at zero, so a fresh model would hide its mixers.
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.double()


def tokens_of(length, seed=0, rows=2):
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=MODEL_RECIPES)
def model(request):
    built = tiny_model(request.param)
    built.compute_dtype = torch.float64
    return built


@pytest.mark.parametrize("name, count", [("baseline", 17_059_912), ("int5_int6", 24_730_705)])
def test_published_parameter_counts(name, count):
    assert sum(math.prod(shape) for shape in parameter_shapes(load_recipe(name).model).values()) == count


@pytest.mark.parametrize("name", MODEL_RECIPES)
def test_an_untrained_model_knows_nothing(name):
    config = overridden(load_recipe(name), tiny(name, model__dim=64)).model
    tokens = tokens_of(65)
    nats, _ = config.build().reset_parameters(3)(tokens[:, :-1], tokens[:, 1:])
    assert nats.mean().item() == pytest.approx(math.log(VOCAB), abs=0.05)
    assert nats.dtype == torch.float32 and nats.shape == (2, 64)


def test_changing_a_token_changes_no_score_before_it(model):
    tokens, changed = tokens_of(24), tokens_of(24)
    changed[:, 12:] = tokens_of(12, seed=5)
    before, after = (model(t[:, :-1], t[:, 1:])[0] for t in (tokens, changed))
    torch.testing.assert_close(before[:, :11], after[:, :11], rtol=0, atol=0)
    assert (before[:, 11:] != after[:, 11:]).any()


def test_state_carries_the_text_before(model):
    tokens = tokens_of(25)
    whole, _ = model(tokens[:, :-1], tokens[:, 1:])
    state, parts = None, []
    for start, end in ((0, 1), (1, 9), (9, 24)):
        nats, state = model(tokens[:, start:end], tokens[:, start + 1 : end + 1], state)
        parts.append(nats)
    assert len(state) == 1 + len(model.layers)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


def test_fewer_targets_score_the_last_positions(model):
    tokens = tokens_of(17)
    whole, _ = model(tokens[:, :-1], tokens[:, 1:])
    last, _ = model(tokens[:, :-1], tokens[:, -4:])
    torch.testing.assert_close(last, whole[:, -4:])


def test_logits_agree_with_the_nats(model):
    tokens = tokens_of(9)
    logits, _ = model.logits(tokens[:, :-1])
    nats, _ = model(tokens[:, :-1], tokens[:, 1:])
    picked = torch.log_softmax(logits, -1).gather(2, tokens[:, 1:, None])
    torch.testing.assert_close(picked[..., 0], -nats)


def test_zero_projections_make_a_fresh_model_its_embedding_path():
    model = overridden(load_recipe("baseline"), tiny()).model.build().reset_parameters(0)
    tokens = tokens_of(8)
    hidden, _ = model.hidden(tokens)
    x0, _ = model.embed(tokens, torch.float32)
    # Two layers: the second adds the first's output to itself (the skip) and the norm takes the factor away.
    torch.testing.assert_close(hidden, rms_norm_reference(x0))


def test_skips_meet_last_in_first_out():
    model = overridden(load_recipe("baseline"), tiny(model__layers__length=5)).model.build().reset_parameters(0)
    assert model.skip_weights.shape == (2, 32)
    x0, _ = model.embed(tokens_of(4), torch.float32)
    with torch.no_grad():
        model.skip_weights.copy_(torch.tensor([[2.0], [10.0]]).expand(2, 32))
        for index, layer in enumerate(model.layers):
            layer.resid_mix[0] = 1 + index  # each layer multiplies the residual by its number
    scales, x, stack = [], 1.0, []
    for index in range(5):
        if index >= 2 and stack:
            x += [2.0, 10.0][index - 2] * stack.pop()
        x *= 1 + index
        if index < 2:
            stack.append(x)
        scales.append(x)
    seen = []
    for layer in model.layers:
        layer.register_forward_hook(lambda _, __, output: seen.append(output[0]))
    model.hidden(tokens_of(4))
    for scale, output in zip(scales, seen, strict=True):
        torch.testing.assert_close(output, scale * x0)


def test_smear_gate_starts_as_the_mean_of_neighbours():
    x = torch.randn(1, 5, 8)
    y = SmearGate(8)(x)
    torch.testing.assert_close(y[:, 1:], (x[:, 1:] + x[:, :-1]) / 2)
    torch.testing.assert_close(y[:, 0], x[:, 0] / 2)


def test_bigram_rows_are_the_xor_hash():
    tokens = torch.tensor([[5, 900, 7]])
    expected = [4095, (36313 * 900 ^ 27191 * 5) % 4095, (36313 * 7 ^ 27191 * 900) % 4095]
    assert bigram_rows(tokens, 4096).tolist() == [expected]
    assert bigram_rows(tokens[:, 1:], 4096, last_token=tokens[:, 0]).tolist() == [expected[1:]]


def test_bigram_branch_is_silent_at_the_start_but_alive():
    model = overridden(load_recipe("int5_int6"), tiny(model__dim=64)).model.build().reset_parameters(0)
    bigram: BigramHash = model.embed.bigram
    assert not bigram.table.weight.any()
    projection = bigram.project.weight
    assert projection.shape == (64, 128)
    # Orthogonal rows, scaled by 1 / sqrt(2 layers).
    torch.testing.assert_close(projection @ projection.T, torch.eye(64) / 4, rtol=0, atol=1e-5)
    model(tokens_of(9)[:, :-1], tokens_of(9)[:, 1:])[0].mean().backward()
    assert bigram.table.weight.grad.abs().max() > 0


def test_matrices_start_orthogonal_or_zero():
    model = overridden(load_recipe("int5_int6"), tiny(model__dim=128, model__layers__length=1)).model
    layer = model.build().reset_parameters(0).layers[0]
    q = layer.attention.query.weight
    torch.testing.assert_close(q @ q.T, torch.eye(128), rtol=0, atol=1e-5)
    assert not layer.attention.project.weight.any() and not layer.mlp.down.weight.any()


def test_initial_weights_depend_on_the_seed_alone():
    config = overridden(load_recipe("int5_int6"), tiny()).model
    torch.manual_seed(99)
    first = config.build().reset_parameters(7).state_dict()
    second = config.build().reset_parameters(7).state_dict()
    other = config.build().reset_parameters(8).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["embed.tokens.weight"], other["embed.tokens.weight"])


def test_a_weight_map_changes_what_the_forward_uses():
    layer = Linear(8, 4, StraightThrough(INT6))
    torch.nn.init.normal_(layer.weight)
    x = torch.eye(8)
    assert not torch.equal(layer(x).T, layer.weight)
    torch.testing.assert_close(layer(x).T, StraightThrough(INT6)(layer.weight))
    layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, torch.ones(4, 8))


def test_flops_count_matrices_and_half_of_the_attention_square():
    config = load_recipe("baseline").model
    assert matrix_parameters(config) == 9 * (786_432 + 1_048_576)
    bare = forward_flops_per_token(config, 1024, head=False)
    assert bare == 2 * matrix_parameters(config) + 9 * 2 * 512 * 1024
    assert forward_flops_per_token(config, 1024) == bare + 2 * 1024 * 512
    assert training_flops_per_token(config, 1024) == 3 * forward_flops_per_token(config, 1024)


@pytest.mark.parametrize(
    "config, message",
    [
        (AttentionConfig(num_heads=3), "3 heads do not fit width 64; nearest width 66"),
        (AttentionConfig(num_heads=4, num_kv_heads=3), "3 do not divide 4; nearest 2"),
        (AttentionConfig(num_heads=0), "0 heads do not fit width 64"),
        (AttentionConfig(num_heads=4, num_kv_heads=0), "0 do not divide 4; nearest 1"),
        (DeltaNetConfig(num_heads=0), "num_heads must be at least 1, got 0"),
        (DeltaNetConfig(num_value_heads=0), "num_value_heads must be at least 1, got 0"),
        (LinearAttentionConfig(num_heads=-2), "num_heads must be at least 1, got -2"),
    ],
)
def test_heads_that_do_not_divide_are_named(config, message):
    with pytest.raises(UserError, match=message):
        config.build(64)


def test_a_hybrid_is_another_tuple():
    config = overridden(load_recipe("baseline"), tiny()).model
    wider = replace(config.layers[0], mlp=replace(config.layers[0].mlp, hidden=96))
    model = replace(config, layers=(wider, config.layers[1])).build().reset_parameters(0)
    assert [layer.mlp.up.weight.shape[0] for layer in model.layers] == [96, 64]

"""BakaLLM, branch zero, against what was published of it: counts, formulas, what reaches what, and where it stops."""

import math
from dataclasses import replace

import pytest
import torch
from test_ops import leaf
from tiny_runs import VOCAB, tiny

from model.baka.attention import SmallValueAttention
from model.baka.average import DampedAverage
from model.baka.block import BakaBlockConfig
from model.baka.memory import MemoryConfig
from model.baka.model import BakaConfig
from model.embed import PlainEmbeddingConfig
from model.flops import forward_flops_per_token
from model.glu import GLUConfig
from ops.ema.reference import decayed_sum_reference
from ops.ema.scan import decayed_sum, scan_by_doubling, scan_in_blocks
from ops.rotary.pairs import pair_angles, turned_pairs
from recipes.baka import baka, baka_tinystories, baka_w103
from recipes.override import overridden
from runtime.errors import UserError

BLOCK = BakaBlockConfig(GLUConfig(48, activation="relu"), dropout=0.0)
TINY_BAKA = BakaConfig(
    VOCAB, 32, (BLOCK, BLOCK), window=8, memory=MemoryConfig(2), embed=PlainEmbeddingConfig(0.3), tied=True
)


def built(config=TINY_BAKA, seed=0):
    """A model of any config in float64 in which nothing is zero."""
    model = config.build(torch.float64).reset_parameters(seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def text(length, rows=2, seed=0):
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def with_block(**changes):
    return replace(TINY_BAKA, layers=(replace(BLOCK, **changes),) * 2)


def test_the_documented_quirks_are_the_defaults():
    config = baka_w103().model
    (layer,) = set(config.layers)
    assert (layer.ema_feeds, layer.ema_history, layer.damping) == ("v", "input", "baka")
    assert (layer.negation, layer.mlp_gate, layer.dropout, layer.mlp.activation) == (True, "attention", 0.1, "relu")
    assert (config.bptt, config.positions, config.angles) == ("every_second_chunk", "released", "fp32")
    assert (config.memory.suffix, config.memory.query_positions, config.memory.num_tokens) == ("learned", "true", 32)
    assert (config.window, config.vocab_size, config.tied) == (512, 50_277, False)


@pytest.mark.parametrize("published, count", [(baka_w103, 200_135_821), (baka_tinystories, 50_681_449)])
def test_published_sizes_count_and_run_a_step(published, count):
    config = published().model
    with torch.device("meta"):
        model = config.build()
        # The published count holds rotary frequencies, half a width for each layer and the solidifier.
        frequencies = (len(config.layers) + 1) * config.dim // 2
        assert sum(p.numel() for p in model.parameters()) + frequencies == count
        seen = []
        model.layers[0].mlp.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
        tokens = torch.zeros(1, 1025, dtype=torch.int64)
        nats, state = model(tokens[:, :-1], tokens[:, 1:])
        nats.mean().backward()
    assert seen == [(1, 578, config.dim)] * 2
    k, v = state[1][2:4]
    assert (k.shape, v.shape) == ((1, 578, 2 * config.dim), (1, 578, config.dim))
    assert model.memory.first.grad is not None and model.layers[-1].average.share_logit.grad is not None


def test_the_average_answers_an_impulse_as_published():
    average = DampedAverage(1, "baka")
    impulse = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1)
    y, _ = average(impulse, torch.zeros(1, 1))
    assert y.flatten().tolist() == pytest.approx([0.7310, 0.14335, 0.02811], abs=5e-5)
    share, decay = DampedAverage(1, "mega").rates()
    assert decay.item() == pytest.approx(1 - share.item() * 0.7291, abs=1e-4)


@pytest.mark.parametrize("scan", [scan_in_blocks, scan_by_doubling])
@pytest.mark.parametrize("length", [1, 2, 7, 64, 97])
def test_scan_recurrence_and_convolution_are_one_average(monkeypatch, length, scan):
    monkeypatch.setattr("ops.ema.scan._scan", scan)
    x, seed, rate = leaf(2, length, 3), leaf(2, 3, seed=1), leaf(3, seed=2)
    decay = rate.detach().sigmoid().requires_grad_()
    g = torch.randn(2, length, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    scanned, stepped = decayed_sum(x, decay, seed), decayed_sum_reference(x, decay, seed)
    torch.testing.assert_close(scanned, stepped)
    for one, other in zip(*(torch.autograd.grad(y, (x, decay, seed), g) for y in (scanned, stepped)), strict=True):
        torch.testing.assert_close(one, other)
    kernel = decay ** torch.arange(length)[:, None]
    by_fft = torch.fft.irfft(torch.fft.rfft(x, 2 * length, dim=1) * torch.fft.rfft(kernel, 2 * length, dim=0), dim=1)
    unseeded = decayed_sum(x, decay, torch.zeros_like(seed))
    torch.testing.assert_close(by_fft[:, :length], unseeded, atol=1e-6, rtol=0)


@pytest.mark.parametrize("scan", [scan_in_blocks, scan_by_doubling])
@pytest.mark.parametrize("decay", [0.0, 1e-30, 1.0])
def test_the_scan_at_its_ends(monkeypatch, decay, scan):
    monkeypatch.setattr("ops.ema.scan._scan", scan)
    x, rate = leaf(1, 50, 2), torch.full((2,), decay, dtype=torch.float64)
    seed = torch.ones(1, 2, dtype=torch.float64)
    torch.testing.assert_close(decayed_sum(x, rate, seed), decayed_sum_reference(x, rate, seed))


def test_a_folded_chunk_is_the_average_over_it():
    average = DampedAverage(3, "baka").double()
    past, now = leaf(2, 9, 3), leaf(2, 5, 3, seed=1)
    nothing = torch.zeros(2, 3, dtype=torch.float64)
    both, _ = average(torch.cat((past, now), dim=1), nothing)
    seeded, last = average(now, average.folded(past, nothing))
    torch.testing.assert_close(both[:, 9:], seeded)
    torch.testing.assert_close(last, average.folded(now, average.folded(past, nothing)))


def test_negations_tell_a_small_value_from_a_large_one():
    attention = SmallValueAttention(5, negation=True, dropout=0.0)
    q, large, small = (torch.tensor(values) for values in ([1.0, 0, 0, 0, 0], [1.0] * 5, [1.0, 0, 0, 0, 0]))
    assert (q @ large, q @ small) == (1, 1)
    with_q, with_large, with_small = (attention.with_negation(x) for x in (q, large, small))
    assert (with_q @ with_large, with_q @ with_small) == (1, 5)
    assert SmallValueAttention(5, negation=False, dropout=0.0).with_negation(q) is q


def test_attention_is_a_softmax_over_the_whole_width():
    attention = SmallValueAttention(6, negation=True, dropout=0.0).double()
    with torch.no_grad():
        for gate in (attention.out_gate, attention.past_key_gate, attention.past_value_gate):
            gate.weight.copy_(torch.randn(6, 6, generator=torch.Generator().manual_seed(4)))
    q, k, v = leaf(2, 3, 12), leaf(2, 7, 12, seed=1), leaf(2, 7, 6, seed=2)
    scores = (q @ k.mT / math.sqrt(12)).masked_fill(~torch.ones(3, 7, dtype=torch.bool).tril(4), -math.inf)
    y = scores.softmax(-1) @ v
    torch.testing.assert_close(attention.mixed(q, k, v), y * torch.sigmoid(y @ attention.out_gate.weight.T))
    past_k, past_v = attention.gated_past(k, v)
    halves = [half * torch.sigmoid(half @ attention.past_key_gate.weight.T) for half in k.chunk(2, dim=-1)]
    torch.testing.assert_close(past_k, torch.cat(halves, dim=-1))
    torch.testing.assert_close(past_v, v * torch.sigmoid(v @ attention.past_value_gate.weight.T))


@pytest.mark.parametrize("gated_by", ["attention", "self"])
def test_a_block_is_the_sum_of_its_gated_parts(gated_by):
    block, x = built(with_block(mlp_gate=gated_by)).layers[0], leaf(2, 5, 32)
    angles = pair_angles(torch.arange(5), 32)
    h, e = block.norm(x), block.average_norm(block.average(x, torch.zeros_like(x[:, 0]))[0])
    q, k, v = block.attention.queries(h, angles), block.attention.keys(h, angles), block.attention.value(e)
    s = block.attention.mixed(q, k, v)
    m = block.mlp.down(torch.relu(block.mlp.gate(h)) * block.mlp.up(h))
    gate = block.mlp_gate(block.mlp_gate_norm({"attention": s, "self": m}[gated_by]))
    averaged = e * torch.sigmoid(block.average_gate(e) + block.average_bias)
    y, _ = block(x, block.fresh(x), angles)
    torch.testing.assert_close(y, x + s + m * torch.sigmoid(gate) + averaged)


def test_rotation_turns_pairs_of_the_first_half_alone():
    model = built()
    attention, x = model.layers[0].attention, leaf(2, 5, 32)
    here, there = (pair_angles(torch.arange(5) + start, 32) for start in (0, 700))
    for part in (attention.queries, attention.keys):
        assert torch.equal(part(x, here)[..., 32:], part(x, there)[..., 32:])
        assert not torch.equal(part(x, here)[..., 1:32], part(x, there)[..., 1:32])
    turned = turned_pairs(torch.tensor([[3.0, 4.0, 1.0, 0.0]]), pair_angles(torch.tensor([1]), 4))
    angle = torch.tensor([1.0, 0.01])
    expected = [3 * angle[0].cos() - 4 * angle[0].sin(), 3 * angle[0].sin() + 4 * angle[0].cos()]
    assert turned[0].tolist() == pytest.approx([*map(float, expected), angle[1].cos().item(), angle[1].sin().item()])


def test_no_score_depends_on_later_tokens_across_chunks():
    model, tokens = built(), text(25)
    whole, _ = model(tokens[:, :-1], tokens[:, 1:])
    for place in (5, 8, 15, 16, 23):
        changed = tokens.clone()
        changed[:, place] = (changed[:, place] + 1) % VOCAB
        nats, _ = model(changed[:, :-1], tokens[:, 1:])
        assert torch.equal(nats[:, :place], whole[:, :place])
        # Through memory and caches every later chunk hears of it.
        assert (nats[:, place:] != whole[:, place:]).all()


@pytest.mark.parametrize("cut, heard", [("memory", True), ("caches", True), ("both", False)])
def test_the_next_chunk_hears_through_memory_and_through_caches(cut, heard):
    model, tokens = built(), text(17)
    nats = []
    for first in (tokens[:, :8], text(8, seed=9)):
        _, state = model(first, first)
        nats.append(model(tokens[:, 8:16], tokens[:, 9:17], model.forgetful(state, cut))[0])
    assert torch.equal(*nats) != heard


@pytest.mark.parametrize(
    "bptt, reached",
    [
        ("every_second_chunk", [True, False, True]),
        ("full", [True, True, True]),
        ("none", [False, False, False]),
        ("released", [True, True, True]),
    ],
)
def test_where_gradients_stop_between_chunks(bptt, reached):
    model, tokens = built(replace(TINY_BAKA, bptt=bptt)), text(32, rows=1)
    rows = []
    embed = type(model.embed).forward

    def watched(*args):
        rows.append(embed(model.embed, *args)[0].detach().requires_grad_())
        return rows[0], None

    model.embed.forward = watched
    nats, _ = model(tokens, tokens)
    for chunk, is_reached in enumerate(reached, start=1):
        grad = torch.autograd.grad(nats[:, 8 * chunk : 8 * chunk + 8].sum(), rows[0], retain_graph=True)[0]
        assert grad[:, 8 * (chunk - 1) : 8 * chunk].any() == is_reached
        assert grad[:, 8 * chunk : 8 * chunk + 8].any() and not grad[:, 8 * chunk + 8 :].any()


def test_released_gradients_stop_in_odd_layers_alone():
    model, tokens = built(replace(TINY_BAKA, bptt="released", memory=MemoryConfig(0))), text(8, rows=1)
    _, state = model(tokens, tokens)
    opened = model.opened(state, 1)
    assert [own[0].requires_grad for own in opened[1:]] == [True, True]  # the gates' own
    gates = [layer.attention.past_key_gate.weight for layer in model.layers]
    keys = [layer.attention.key.weight for layer in model.layers]
    for own, gate, key, reached in zip(opened[1:], gates, keys, (True, False), strict=True):
        grads = torch.autograd.grad(own[0].sum(), (gate, key), allow_unused=True, retain_graph=True)
        assert (grads[0] is not None, grads[1] is not None) == (True, reached)


@pytest.mark.parametrize("config", [TINY_BAKA, replace(TINY_BAKA, memory=MemoryConfig(0))])
def test_token_by_token_is_what_reading_at_once_gives(config):
    model, tokens = built(config), text(28)
    whole, _ = model.logits(tokens)
    state, parts = None, []
    for token in tokens.split(1, dim=1):
        logits, state = model.logits(token, state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


def test_a_state_is_as_large_after_many_chunks_as_after_two():
    model, sizes = built(), []
    for chunks in (2, 5):
        tokens = text(8 * chunks)
        _, state = model(tokens, tokens)
        sizes.append([part.shape for own in state for part in own])
    assert sizes[0] == sizes[1] and TINY_BAKA.has_bounded_state


def logits_of(config, length=24):
    """Of one text, with the same random numbers wherever shapes agree."""
    return built(config).logits(text(length))[0]


@pytest.mark.parametrize(
    "config",
    [
        with_block(ema_feeds="qk"),
        with_block(ema_history="output"),
        with_block(damping="mega"),
        with_block(mlp_gate="self"),
        replace(TINY_BAKA, positions="contiguous"),
        replace(TINY_BAKA, memory=MemoryConfig(2, query_positions="released")),
    ],
    ids=["feeds", "history", "damping", "gate", "contiguous", "queries"],
)
def test_every_quirk_changes_what_the_model_says_and_streams_as_well(config):
    tokens, whole = text(24), logits_of(config)
    assert not torch.allclose(whole, logits_of(TINY_BAKA))
    model = built(config)
    first, state = model.logits(tokens[:, :11])
    rest, _ = model.logits(tokens[:, 11:], state)
    torch.testing.assert_close(torch.cat((first, rest), dim=1), whole)


def test_the_average_feeds_values_or_queries_and_keys():
    for feeds, silent in (("v", True), ("qk", False)):
        model = built(with_block(ema_feeds=feeds))
        layer, seen = model.layers[0], []
        with torch.no_grad():
            layer.average_norm.gain.zero_()
            layer.average_norm.bias.zero_()
        layer.attention.value.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output))
        model.logits(text(4))
        assert (not seen[0].any()) == silent


def test_the_average_goes_on_from_inputs_or_outputs():
    for history in ("input", "output"):
        model, seen = built(with_block(ema_history=history)), []
        model.layers[0].register_forward_hook(lambda _, inputs, output, seen=seen: seen.append((inputs[0], output[0])))
        _, state = model.logits(text(8))
        x, y = seen[0]
        average = model.layers[0].average
        expected, _ = average(x if history == "input" else y, torch.zeros_like(x[:, 0]))
        torch.testing.assert_close(state[1][5], expected[:, -1])


def test_in_the_solidifier_every_row_sees_every_other():
    model, rows = built(), leaf(1, 14, 32)
    out = model.memory.solidified(rows, pair_angles(torch.arange(14), 32))
    assert out.shape == (1, 2, 32)
    grad = torch.autograd.grad(out[:, 0].sum(), rows)[0]
    assert grad.any(dim=-1).all()


def test_the_suffix_is_learned_or_the_memory_before():
    learned, again = built(), built(replace(TINY_BAKA, memory=MemoryConfig(2, suffix="previous")))
    memory = leaf(3, 2, 32)
    first, second = learned.memory.separators[:, None].expand(2, 3, 32)
    assert torch.equal(learned.memory.before(memory), torch.cat((memory, first[:, None]), dim=1))
    assert torch.equal(learned.memory.after(memory)[:, 0], second)
    assert torch.equal(learned.memory.after(memory)[:, 1:], learned.memory.last.expand(3, -1, -1))
    assert torch.equal(again.memory.after(memory)[:, 1:], memory)
    assert again.memory.last is None and logits_of(again.config).isfinite().all()


def test_released_angles_round_late_positions():
    rows = torch.arange(600)
    exact, rounded = pair_angles(rows, 8), pair_angles(rows, 8, dtype=torch.bfloat16)
    assert not torch.equal(exact[0][300], exact[0][301])
    assert torch.equal(rounded[0][300], rounded[0][301]) and torch.equal(rounded[0][513], rounded[0][514])
    model = replace(TINY_BAKA, angles="released").build(torch.bfloat16).reset_parameters(0)
    assert model._angles(torch.tensor([0]), 0, torch.zeros(1, 4, 32, dtype=torch.bfloat16))[0].dtype == torch.bfloat16


def test_contiguous_positions_count_the_memory_too():
    x = torch.zeros(1, 4, 32)
    starts = {}
    for positions in ("released", "contiguous"):
        model = replace(TINY_BAKA, positions=positions).build()
        starts[positions] = [model._angles(torch.tensor([8 * chunk]), 3, x) for chunk in (0, 2)]
    assert torch.equal(starts["released"][0][0], starts["contiguous"][0][0])
    # The third chunk begins at row 2 x (8 + 6) instead of token 16.
    expected = pair_angles(torch.arange(28 + 3, 28 + 7), 32)
    assert torch.equal(starts["contiguous"][1][0], expected[0])


def test_no_memory_is_no_memory():
    model = built(replace(TINY_BAKA, memory=MemoryConfig(0)))
    assert model.memory.num_rows == 0 and not any("solidifier" in name for name, _ in model.named_parameters())
    tokens = text(24)
    nats, state = model(tokens[:, :-1], tokens[:, 1:])
    assert nats.isfinite().all() and state[0][0].shape == (2, 0, 32) and state[1][2].shape == (2, 7, 64)


def test_a_window_longer_than_the_text_is_one_open_chunk():
    short, long = built(), built(replace(TINY_BAKA, window=1000))
    tokens = text(8)
    torch.testing.assert_close(short.logits(tokens)[0], long.logits(tokens)[0])


def test_dropout_is_for_training():
    model = with_block(dropout=0.5).build().reset_parameters(0)
    tokens = text(8)
    assert not torch.equal(model.logits(tokens)[0], model.logits(tokens)[0])
    with torch.no_grad():
        validated = model.logits(tokens)[0]
    model.eval()
    assert torch.equal(model.logits(tokens)[0], validated)


def test_states_of_others_are_refused():
    model, tokens = built(), text(8)
    _, state = model(tokens, tokens)
    with pytest.raises(
        UserError, match=r"as many rows as the tokens: shape \(3, 2, 32\), got \(2, 2, 32\); nearest None"
    ):
        model(text(8, rows=3), text(8, rows=3), state)
    other = overridden(baka(), tiny("baka", model__memory__num_tokens=5)).model.build().reset_parameters(0)
    with pytest.raises(UserError, match=r"shape \(2, 2, 32\), got \(2, 5, 32\)"):
        model(tokens, tokens, other(tokens, tokens)[1])
    with pytest.raises(UserError, match="3 entries, got 2; nearest None"):
        model(tokens, tokens, (None, None))
    with pytest.raises(UserError, match="3 entries, got None; nearest None"):
        model(tokens, tokens, (None, None, None))
    plain = built(with_block(negation=False))
    with pytest.raises(UserError, match=r"shape \(2, 0, 64\), got \(2, 0, 32\); nearest None"):
        model(tokens, tokens, plain(tokens, tokens)[1])
    long = built(replace(TINY_BAKA, window=1000))
    with pytest.raises(UserError, match="windows of 8 tokens, got one of 20; nearest None"):
        model(tokens, tokens, long(text(20), text(20))[1])


@pytest.mark.parametrize(
    "changes, nearest",
    [
        ({"window": 0}, "1"),
        ({"dim": 33}, "2 and 34"),
        ({"memory": MemoryConfig(-1)}, "0 and 32"),
    ],
)
def test_sizes_that_no_chunk_can_have(changes, nearest):
    with pytest.raises(UserError, match=f"nearest {nearest}$"):
        replace(TINY_BAKA, **changes).build()


def test_operations_count_memory_rows_and_the_chunk_before():
    plain = replace(TINY_BAKA, memory=MemoryConfig(0))
    dim, hidden = 32, 48
    matrices = 2 * (8 * dim * dim + 3 * dim * hidden)
    # One chunk: no past, so its three gates do not run; 4.5 keys a query on average would be exact, 4 are counted.
    one = 2 * (matrices - 2 * 2 * dim * dim) + 2 * 2 * 3 * dim * 4
    assert forward_flops_per_token(plain, 8, head=False) == pytest.approx(one)
    assert forward_flops_per_token(plain, 16) > one
    assert forward_flops_per_token(TINY_BAKA, 8) > forward_flops_per_token(plain, 8)

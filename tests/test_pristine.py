"""BakaLLM, "pristine", against what was published of it: counts, independent windows, positions, the parallel block."""

import math
from dataclasses import replace

import pytest
import torch
from test_baka import built, text
from tiny_runs import VOCAB

from model.embed import PlainEmbeddingConfig
from model.glu import GLUConfig
from model.pristine.block import ParallelBlockConfig, WindowAttentionConfig
from model.pristine.model import PristineConfig
from model.pristine.positions import LinspaceConfig, NopeConfig, RotaryConfig
from recipes.pristine import positioned, pristine, pristine_w103
from recipes.recipe import load_recipe
from runtime.errors import UserError

POSITIONS = (RotaryConfig(), NopeConfig(), LinspaceConfig())


def config_of(positions, **changes):
    block = ParallelBlockConfig(WindowAttentionConfig(2, positions), GLUConfig(48))
    config = PristineConfig(VOCAB, 32, (block, block), window=8, embed=PlainEmbeddingConfig(0.3), tied=True)
    return replace(config, **changes)


def positioned_model(positions, **changes):
    return built(config_of(positions, **changes))


def test_the_published_size_counts_and_runs_a_step():
    config = pristine_w103().model
    with torch.device("meta"):
        model = config.build()
        # The published count holds 32 rotary frequencies a layer.
        assert sum(p.numel() for p in model.parameters()) + 12 * 32 == 190_492_032
        tokens = torch.zeros(2, 1025, dtype=torch.int64)
        nats, _ = model(tokens[:, :-1], tokens[:, 1:])
        nats.mean().backward()
    assert nats.shape == (2, 1024) and all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("positions", POSITIONS, ids=str)
def test_windows_know_nothing_of_each_other(positions):
    model, tokens = positioned_model(positions), text(16)
    changed = torch.cat((text(8, seed=1), tokens[:, 8:]), dim=1)
    whole, other = (model.logits(t)[0] for t in (tokens, changed))
    assert torch.equal(whole[:, 8:], other[:, 8:]) and not torch.equal(whole[:, :8], other[:, :8])
    assert torch.equal(whole, torch.cat([model.logits(part)[0] for part in tokens.split(8, dim=1)], dim=1))


@pytest.mark.parametrize("positions", POSITIONS, ids=str)
def test_global_positions_change_no_logit(positions):
    """Rotary is relative, and a constant on every key shifts all scores of a query alike."""
    tokens = text(24)
    local, everywhere = (positioned_model(positions, global_positions=on) for on in (False, True))
    seen = []
    for model in (local, everywhere):
        hook = model.layers[0].attention.positions.register_forward_hook(lambda _, __, output: seen.append(output[1]))
        seen.append(model.logits(tokens)[0])
        hook.remove()
    windows = len(seen) // 2
    torch.testing.assert_close(seen[windows - 1], seen[-1], atol=1e-4, rtol=0)
    if positions != NopeConfig():
        assert not torch.equal(seen[1], seen[windows + 1])  # the second window's keys


def test_a_block_whose_projections_are_zero_changes_nothing():
    model = positioned_model(RotaryConfig())
    block, x = model.layers[0], torch.randn(2, 8, 32, dtype=torch.float64)
    with torch.no_grad():
        block.attention.project.weight.zero_()
        block.mlp.down.weight.zero_()
    state = block.attention.fresh(x)
    assert torch.equal(block(x, state, torch.arange(8), torch.tensor(0))[0], x)


def test_both_branches_read_one_norm():
    block = positioned_model(RotaryConfig()).layers[0]
    x = torch.randn(2, 8, 32, dtype=torch.float64)
    h = block.norm(x)
    attended, _ = block.attention(h, block.attention.fresh(x), torch.arange(8), torch.tensor(0))
    gate, up = (matrix(h) for matrix in (block.mlp.gate, block.mlp.up))
    y, _ = block(x, block.attention.fresh(x), torch.arange(8), torch.tensor(0))
    torch.testing.assert_close(y, x + attended + block.mlp.down(gate * torch.sigmoid(gate) * up))


@pytest.mark.parametrize("positions, invariant", [(NopeConfig(), True), (RotaryConfig(), False)])
def test_without_positions_the_order_of_earlier_tokens_is_lost(positions, invariant):
    model, tokens = positioned_model(positions), text(8)
    model.layers = model.layers[:1]
    permuted = torch.cat((tokens[:, [3, 0, 6, 2, 5, 1, 4]], tokens[:, 7:]), dim=1)
    last = [model.logits(t)[0][:, -1] for t in (tokens, permuted)]
    assert torch.allclose(*last, atol=1e-9) == invariant


def test_linspace_raises_keys_along_the_window():
    positions = LinspaceConfig().build(4, window=11)
    q = k = torch.zeros(1, 1, 11, 4)
    turned_q, raised_k = positions(q, k, torch.arange(11), torch.tensor(0))
    assert torch.equal(turned_q, q)
    torch.testing.assert_close(raised_k[0, 0, :, 0], torch.linspace(0, 0.1, 11))
    later = positions(q, k, torch.arange(11), torch.tensor(22))[1]
    torch.testing.assert_close(later[0, 0, :, 0], torch.linspace(22, 22.1, 11))
    assert positions.scale.shape == (4,)


def test_positions_are_exchanged_in_every_layer():
    for positions in POSITIONS:
        layers = positioned(pristine(), positions).model.layers
        assert [layer.mixer.positions for layer in layers] == [positions] * 3
    assert load_recipe("pristine").model == positioned(pristine(), RotaryConfig()).model


def test_an_untied_head_has_a_table_of_its_own():
    model = config_of(RotaryConfig(), tied=False, dim=64).build().reset_parameters(0)
    assert model.head_table is model.head.weight and model.head_table is not model.embed.tokens.weight
    assert 0.9 / 8 < model.head_table.abs().max() <= 1 / 8
    nats, _ = model(text(512, rows=4), text(512, rows=4, seed=1))
    # Logits of variance 1/3: a sixth of a nat above the uniform guess.
    assert nats.mean().item() == pytest.approx(math.log(VOCAB) + 1 / 6, abs=0.05)


def test_a_window_longer_than_the_text_stays_open():
    short, long = positioned_model(RotaryConfig()), positioned_model(RotaryConfig(), window=1000)
    tokens = text(8)
    torch.testing.assert_close(short.logits(tokens)[0], long.logits(tokens)[0])
    assert long.logits(tokens)[1][1][0].shape[2] == 8 and short.logits(tokens)[1][1][0].shape[2] == 0


def test_states_of_others_and_impossible_sizes_are_refused():
    model, tokens = positioned_model(RotaryConfig()), text(5)
    _, state = model(tokens, tokens)
    with pytest.raises(UserError, match=r"as many rows as the tokens: shape \(3,\), got \(2,\); nearest None"):
        model(text(4, rows=3), text(4, rows=3), state)
    with pytest.raises(UserError, match="3 entries, got 2; nearest None"):
        model(tokens, tokens, (None, None))
    with pytest.raises(UserError, match="at least 1 token, got 0; nearest 1"):
        config_of(RotaryConfig(), window=0).build()
    with pytest.raises(UserError, match="5 heads do not fit width 32"):
        WindowAttentionConfig(5).build(32, 8)

"""Windowed attention is full attention with a band for a mask, in one piece and in any pieces."""

import pytest
import torch
import torch.nn.functional as F

from model.attention import AttentionConfig
from model.embed import TokenEmbeddingConfig
from model.gpt import GPTConfig, LayerConfig
from model.mlp import MLPConfig
from model.sliding_attention import SlidingAttentionConfig, sliding_attention
from runtime.errors import UserError

F64 = torch.float64


def random_tensor(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def built(config, seed=0):
    layer = config.build(16)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer.double()


@pytest.mark.parametrize("window", [1, 2, 5, 8, 64])
@pytest.mark.parametrize("length, past", [(1, 0), (1, 4), (7, 0), (8, 3), (23, 0), (23, 1)])
def test_it_is_attention_with_a_band_for_a_mask(window, length, past):
    past = min(past, window - 1)
    q, k, v = (
        random_tensor(2, 4, length, 6),
        random_tensor(2, 2, past + length, 6),
        random_tensor(2, 2, past + length, 6),
    )
    wide_k, wide_v = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)
    distance = past + torch.arange(length)[:, None] - torch.arange(past + length)
    band = (distance >= 0) & (distance < window)
    expected = F.scaled_dot_product_attention(q, wide_k, wide_v, attn_mask=band)
    torch.testing.assert_close(sliding_attention(q, k, v, window), expected)


def test_a_window_as_long_as_the_text_is_causal_attention():
    config = SlidingAttentionConfig(num_heads=4, num_kv_heads=2, window=19)
    layer, full = built(config), built(AttentionConfig(num_heads=4, num_kv_heads=2))
    x = random_tensor(2, 19, 16)
    torch.testing.assert_close(layer(x)[0], full(x)[0])


@pytest.mark.parametrize("window", [1, 4, 50])
@pytest.mark.parametrize("cuts", [(1,) * 15, (4, 11), (11, 4), (2, 1, 9, 3)])
def test_any_pieces_are_the_whole(window, cuts):
    layer, x = built(SlidingAttentionConfig(num_heads=4, num_kv_heads=2, window=window)), random_tensor(2, 15, 16)
    whole, end = layer(x)
    state, parts = None, []
    for piece in x.split(cuts, dim=1):
        y, state = layer(piece, state)
        parts.append(y)
        assert state[0].shape[1] <= window - 1
    # Positions differ, and angles are fp32.
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, end)


def test_every_parameter_and_input_gets_the_gradient_of_the_band():
    layer, x = built(SlidingAttentionConfig(num_heads=2, num_kv_heads=1, window=3)), random_tensor(1, 8, 16)
    x.requires_grad_()
    layer(x)[0][:, 6].sum().backward()
    reached = x.grad.abs().amax(-1)[0] > 0
    assert reached.tolist() == [False] * 4 + [True] * 3 + [False]
    assert all(parameter.grad.abs().max() > 0 for parameter in layer.parameters())


def test_its_state_is_bounded_and_that_of_attention_is_not():
    model = lambda mixer: GPTConfig(64, 16, TokenEmbeddingConfig(), (LayerConfig(mixer, MLPConfig(8)),))  # noqa: E731
    assert model(SlidingAttentionConfig()).has_bounded_state and not model(AttentionConfig()).has_bounded_state


def test_operations_are_those_of_the_band():
    config, full = SlidingAttentionConfig(window=8), AttentionConfig()
    # Eight tokens see 1 + ... + 8 others and itself; counted as half a square, as for all attention here.
    assert config.mixing_flops(16, 8) == full.mixing_flops(16, 8) and config.mixing_flops(16, 4) == full.mixing_flops(
        16, 4
    )
    assert config.mixing_flops(16, 10**9) == pytest.approx(2 * 2 * 16 * 8)
    assert config.mixing_flops(16, 16) == 2 * 2 * 16 * (0.5 * 4 + 0.5 * 8)


@pytest.mark.parametrize(
    "config, message",
    [
        (SlidingAttentionConfig(window=0), "attention needs a window of at least 1 token, got 0; nearest 1"),
        (SlidingAttentionConfig(num_heads=3), "3 heads do not fit width 16; nearest width 18"),
    ],
)
def test_what_does_not_fit_is_named(config, message):
    with pytest.raises(UserError, match=message):
        config.build(16)

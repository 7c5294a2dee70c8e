"""Every operator against its reference twin: forward, every gradient, awkward shapes, poisoned memory."""

import pytest
import torch
import torch.nn.functional as F

from model.attention import causal_attention
from ops.attention.blocked import QUERIES_A_BLOCK, blocked_attention
from ops.cross_entropy.chunked import LOGITS_A_CHUNK, chunked_nats
from ops.cross_entropy.softcap import softcapped_logits, softcapped_nats
from ops.newton_schulz.batched import newton_schulz
from ops.newton_schulz.reference import newton_schulz_reference
from ops.relu_squared.fused import relu_squared
from ops.rms_norm.fused import rms_norm
from ops.rms_norm.reference import rms_norm_reference
from ops.rotary.fused import normed_rotary
from ops.rotary.reference import normed_rotary_reference, rotary_table
from ops.short_conv.reference import short_conv_reference
from ops.short_conv.shifted import short_conv

F64 = torch.float64


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Uninitialised memory is NaN: an operator that forgets to write its output fails."""
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = before


def leaf(*shape, dtype=F64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 7, 63), (1, 130, 8)])
def test_rms_norm_equals_its_reference(shape):
    x, y = leaf(*shape), leaf(*shape)
    torch.testing.assert_close(rms_norm(x), rms_norm_reference(y))
    g = torch.randn(shape, dtype=F64)
    torch.testing.assert_close(
        *(torch.autograd.grad(f(z), z, g)[0] for f, z in ((rms_norm, x), (rms_norm_reference, y)))
    )
    torch.testing.assert_close(rms_norm(x.float()), F.rms_norm(x.float(), shape[-1:]))


@pytest.mark.parametrize("length, heads, head_dim", [(1, 1, 2), (5, 3, 8), (63, 2, 64)])
def test_normed_rotary_equals_its_reference(length, heads, head_dim):
    cos, sin = (table.double() for table in rotary_table(3, length, head_dim, 10_000.0, torch.device("cpu")))
    g = torch.randn(2, length, heads, head_dim, dtype=F64)
    results = []
    for operator in (normed_rotary, normed_rotary_reference):
        x, gain = leaf(2, length, heads, head_dim), leaf(heads, seed=1)
        y = operator(x, cos, sin, gain)
        results.append((y, *torch.autograd.grad(y, (x, gain), g)))
    for fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain)


def test_rotation_is_half_split_and_keeps_lengths():
    cos, sin = rotary_table(0, 4, 4, 10_000.0, torch.device("cpu"))
    x = torch.tensor([3.0, 0.0, 4.0, 0.0]).expand(1, 4, 1, 4)
    y = normed_rotary(x, cos, sin, torch.ones(1))[0, :, 0]
    unit = 5 / 2  # the root mean square of (3, 0, 4, 0)
    angle = torch.arange(4.0)
    torch.testing.assert_close(y[:, 0], (3 * angle.cos() + 4 * angle.sin()) / unit)
    torch.testing.assert_close(y[:, 2], (4 * angle.cos() - 3 * angle.sin()) / unit)
    torch.testing.assert_close(y.norm(dim=-1), torch.full((4,), 2.0))


@pytest.mark.parametrize("batch, length, channels, size", [(1, 1, 1, 1), (2, 1, 3, 4), (3, 17, 5, 8), (2, 64, 8, 1)])
def test_short_conv_equals_its_reference(batch, length, channels, size):
    g, results = torch.randn(batch, length, channels, dtype=F64), []
    for operator in (short_conv, short_conv_reference):
        x, taps = leaf(batch, length + size - 1, channels), leaf(channels, size, seed=1)
        y = operator(x, taps)
        results.append((y, *torch.autograd.grad(y, (x, taps), g)))
    for shifted, plain in zip(*results, strict=True):
        torch.testing.assert_close(shifted, plain)


def test_short_conv_sums_in_fp32():
    x, taps = leaf(2, 35, 8).bfloat16().detach(), leaf(8, 4, seed=1).detach().float()
    y = short_conv(x, taps)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, short_conv(x.float(), taps).bfloat16())


def test_relu_squared_equals_its_twin():
    x, y = leaf(4, 33), leaf(4, 33)
    g = torch.randn(4, 33, dtype=F64)
    torch.testing.assert_close(relu_squared(x), y.relu().square())
    torch.testing.assert_close(torch.autograd.grad(relu_squared(x), x, g), torch.autograd.grad(y.relu().square(), y, g))


@pytest.mark.parametrize(
    "operator, reference", [(rms_norm, rms_norm_reference), (relu_squared, lambda x: x.relu() ** 2)]
)
def test_bf16_errs_at_most_twice_as_much_as_plain_bf16(operator, reference):
    x = leaf(64, 96, dtype=torch.float32)
    g = torch.randn(64, 96)
    truth, (truth_grad,) = reference(x), torch.autograd.grad(reference(x), x, g)
    errors = []
    for function in (operator, reference):
        low = x.detach().bfloat16().requires_grad_()
        y = function(low)
        (grad,) = torch.autograd.grad(y, low, g.bfloat16())
        errors.append(((y.float() - truth).abs().max(), (grad.float() - truth_grad).abs().max()))
    (ours, ours_grad), (plain, plain_grad) = errors
    assert ours <= 2 * plain and ours_grad <= 3 * plain_grad


@pytest.mark.parametrize("shape", [(8, 8), (5, 12), (12, 5), (64, 32)])
def test_newton_schulz_stack_equals_single_matrices(shape):
    stack = torch.randn(3, *shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    together = newton_schulz(stack, dtype=F64)
    for matrix, update in zip(stack, together, strict=True):
        torch.testing.assert_close(update, newton_schulz_reference(matrix))


def test_newton_schulz_brings_singular_values_near_one_and_keeps_zero():
    matrix = torch.randn(1, 96, 64, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(newton_schulz(matrix, dtype=torch.float32)[0])
    assert values.min() > 0.6 and values.max() < 1.25
    assert not newton_schulz(torch.zeros(2, 4, 4), dtype=torch.float32).any()


def test_softcapped_nats_are_a_normalised_distribution():
    x, table = torch.randn(7, 16), torch.randn(40, 16)
    every = torch.stack([softcapped_nats(x, table, torch.full((7,), token), cap=5.0) for token in range(40)], dim=1)
    torch.testing.assert_close(every.neg().exp().sum(1), torch.ones(7))
    assert softcapped_logits(100 * x, table, cap=5.0).abs().max() <= 5.0


@pytest.mark.parametrize("past", [0, 3, QUERIES_A_BLOCK + 1])
@pytest.mark.parametrize("length", [1, QUERIES_A_BLOCK - 1, QUERIES_A_BLOCK, 2 * QUERIES_A_BLOCK + 5])
@pytest.mark.parametrize("heads, kv_heads", [(1, 1), (4, 2), (3, 1)])
def test_blocked_attention_equals_its_twin(length, past, heads, kv_heads):
    shapes = ((length, heads, 6), (past + length, kv_heads, 6), (past + length, kv_heads, 5))
    arguments = [leaf(2, *shape, seed=seed) for seed, shape in enumerate(shapes)]
    g = torch.randn(2, heads, length, 5, dtype=F64)
    results = []
    for attend in (blocked_attention, causal_attention):
        y = attend(*(part.transpose(1, 2) for part in arguments))
        results.append((y, *torch.autograd.grad(y, arguments, g)))
    for blocked, plain in zip(*results, strict=True):
        torch.testing.assert_close(blocked, plain)


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("rows, vocab", [(1, 40), (300, 1000), (3, LOGITS_A_CHUNK + 1)])
def test_chunked_nats_equal_their_twin(rows, vocab, cap):
    x, table = leaf(rows, 16, dtype=torch.float32), leaf(vocab, 16, dtype=torch.float32, seed=1)
    targets = torch.randint(vocab, (rows,), generator=torch.Generator().manual_seed(2))
    g = torch.randn(rows)
    results = []
    for nats_of in (chunked_nats, softcapped_nats):
        nats = nats_of(x, table, targets, cap)
        results.append((nats, *torch.autograd.grad(nats, (x, table), g)))
    for chunked, plain in zip(*results, strict=True):
        # Sums of up to 131,073 products, in another order.
        torch.testing.assert_close(chunked, plain, rtol=1e-5, atol=1e-4)


def test_chunked_nats_keep_nothing_where_no_gradient_is_wanted():
    x, table, targets = torch.randn(7, 16), leaf(40, 16, dtype=torch.float32), torch.arange(7)
    with torch.no_grad():
        nats = chunked_nats(x, table, targets, 30.0)
    assert not nats.requires_grad
    torch.testing.assert_close(nats, softcapped_nats(x, table, targets, 30.0).detach())

"""The delta rule by chunks against the reference, token by token: values, every gradient, odd lengths, its algebra."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from test_ops import poisoned_memory  # noqa: F401

from ops.delta_rule.chunked import chunked_delta_rule
from ops.delta_rule.decays import chunk_decays
from ops.delta_rule.dispatch import delta_rule
from ops.delta_rule.reference import delta_rule_reference

F64 = torch.float64
NAMES = ("q", "k", "v", "beta", "g", "state")


def inputs(length, *, batch=2, heads=(2, 4), sizes=(8, 6), dtype=F64, normaliser=1.0, kept=0.0, seed=0):
    """flash-linear-attention's: positive, so strongly correlated keys; g = 0 for a share `kept` of the tokens."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, dtype=F64, generator=generator)

    (few, many), (Dk, Dv) = heads, sizes
    q, k = (F.normalize(uniform(batch, length, few, Dk), dim=-1) for _ in range(2))
    v, beta = uniform(batch, length, many, Dv), uniform(batch, length, many).sigmoid()
    g = F.logsigmoid(uniform(batch, length, many)) / normaliser * (uniform(batch, length, many) >= kept)
    return [x.to(dtype).requires_grad_() for x in (q, k, v, beta, g, uniform(batch, many, Dk, Dv))]


def some_starts(length, batch=2):
    return torch.rand(batch, length, generator=torch.Generator().manual_seed(length)) < 0.1


def results(form, arguments, **options):
    """Output, final state and the gradient of every argument, from random gradients of both."""
    outputs = form(*arguments, **options)
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(y.shape, dtype=F64, generator=generator).to(y) for y in outputs]
    given = [x for x in arguments if x is not None]
    return *outputs, *torch.autograd.grad(outputs, given, upstream)


def relative_rms(got, wanted):
    return ((got.double() - wanted.double()).norm() / wanted.double().norm()).item()


def assert_equal(got, wanted, tolerance=1e-12):
    for name, x, y in zip(("out", "final", *NAMES), got, wanted, strict=False):
        assert x.shape == y.shape and x.dtype == y.dtype, name
        assert (x - y).abs().max() <= tolerance, (name, (x - y).abs().max())


@pytest.mark.parametrize("predict_from", ["decayed", "undecayed"])
@pytest.mark.parametrize(
    "chunk, length",
    [(1, 5), (4, 63), (8, 75), (16, 100), (32, 75), (64, 1), (64, 63), (64, 64), (64, 65), (64, 130)],
)
def test_chunks_equal_the_reference_in_value_and_every_gradient(chunk, length, predict_from):
    for starts in (None, some_starts(length)):
        options = {"predict_from": predict_from, "starts": starts}
        wanted = results(delta_rule_reference, inputs(length), **options)
        assert_equal(results(chunked_delta_rule, inputs(length), chunk=chunk, **options), wanted)


@pytest.mark.parametrize("length, chunk", [(500, 16), (1000, 64)])
def test_long_sequences_of_odd_lengths_equal_the_reference(length, chunk):
    arguments = inputs(length, normaliser=10.0)
    assert_equal(results(chunked_delta_rule, arguments, chunk=chunk), results(delta_rule_reference, arguments))


@pytest.mark.parametrize("predict_from", ["decayed", "undecayed"])
def test_a_span_of_one_chunk_and_of_all_give_the_same(monkeypatch, predict_from):
    arguments, options = inputs(70), {"predict_from": predict_from, "starts": some_starts(70), "chunk": 8}
    whole = results(chunked_delta_rule, arguments, **options)
    monkeypatch.setattr("ops.delta_rule.chunked.SPAN_NUMBERS", 1)
    assert_equal(results(chunked_delta_rule, arguments, **options), whole)


@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("normaliser", [0.01, 0.1, 1.0, 10.0])
def test_fp32_stays_within_rounding_on_correlated_keys(normaliser, kept):
    exact = inputs(500, batch=1, heads=(1, 1), sizes=(32, 32), normaliser=normaliser, kept=kept)
    single = [x.detach().float().requires_grad_() for x in exact]
    wanted, got = results(delta_rule_reference, exact), results(chunked_delta_rule, single)
    for name, x, y in zip(("out", "final", *NAMES), got, wanted, strict=True):
        # Where nearly all is forgotten the gradient of g is itself next to nothing: what counts is its absolute error.
        nothing = name == "g" and (x - y).abs().max() <= 1e-6
        assert nothing or relative_rms(x, y) <= 1e-5, (name, relative_rms(x, y))


def test_no_decay_is_a_decay_of_zero_bit_for_bit():
    q, k, v, beta, g, state = inputs(75, dtype=torch.float32)
    without = results(chunked_delta_rule, (q, k, v, beta, None, state))
    zero = results(chunked_delta_rule, (q, k, v, beta, torch.zeros_like(g).requires_grad_(), state))
    for x, y in zip(without, zero[:-2] + zero[-1:], strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("form", [delta_rule_reference, chunked_delta_rule])
def test_imli_recalls_before_the_decay_and_the_papers_after_it(form):
    one = torch.ones(1, 2, 1, 1)
    v, beta = torch.tensor([2.0, 3.0]).view(1, 2, 1, 1), torch.tensor([1.0, 0.5]).view(1, 2, 1)
    for decay, imli, papers in ((0.5, 1.5, 2.0), (1.0, 2.5, 2.5)):
        g = torch.tensor([1.0, decay]).log().view(1, 2, 1)
        for predict_from, last in (("undecayed", imli), ("decayed", papers)):
            out, state = form(one, one, v, beta, g, predict_from=predict_from)
            torch.testing.assert_close(out.flatten(), torch.tensor([2.0, last]))
            torch.testing.assert_close(state.flatten(), torch.tensor([last]))


@pytest.mark.parametrize("form", [delta_rule_reference, chunked_delta_rule])
def test_orthonormal_keys_recall_exactly_and_a_repeated_key_overwrites(form):
    keys = torch.linalg.qr(torch.randn(16, 16, dtype=F64, generator=torch.Generator().manual_seed(0)))[0]
    keys = torch.cat((keys, keys[:3])).view(1, 19, 1, 16)
    values = torch.randn(1, 19, 1, 5, dtype=F64)
    _, state = form(keys, keys, values, torch.ones(1, 19, 1, dtype=F64))
    recalled = keys[0, :16, 0] @ state[0, 0]
    torch.testing.assert_close(recalled[3:], values[0, 3:16, 0])
    torch.testing.assert_close(recalled[:3], values[0, 16:, 0])


@pytest.mark.parametrize("form", [delta_rule_reference, chunked_delta_rule])
def test_nothing_written_only_fades(form):
    q, k, v, beta, g, state = inputs(70)
    _, final = form(q, k, v, torch.zeros_like(beta), g, state)
    torch.testing.assert_close(final, g.sum(1).exp()[..., None, None] * state)


@pytest.mark.parametrize("predict_from", ["decayed", "undecayed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strong_decay_over_a_long_text_stays_finite(dtype, predict_from):
    q, k, v, beta, g, state = inputs(4000, batch=1, heads=(1, 1))
    g = torch.where(torch.arange(4000)[:, None] % 3 == 0, 0.0, torch.full_like(g, -50.0)).requires_grad_()
    arguments = [x.detach().to(dtype).requires_grad_() for x in (q, k, v, beta, g)]
    arguments.append(state.detach().float().requires_grad_())
    for x in results(chunked_delta_rule, arguments, predict_from=predict_from):
        assert x.isfinite().all()


@pytest.mark.parametrize("strength", [2.0, 2.5])
def test_beta_of_two_and_beyond_equals_the_reference(strength):
    q, k, v, beta, g, state = inputs(65)
    q, k = (F.normalize(x.detach() - 0.3, dim=-1).requires_grad_() for x in (q, k))
    arguments = q, k, v, torch.full_like(beta, strength).requires_grad_(), g, state
    wanted = results(delta_rule_reference, arguments)
    for x, y in zip(results(chunked_delta_rule, arguments), wanted, strict=True):
        assert y.isfinite().all() and (x - y).abs().max() <= 1e-12 * max(1.0, y.abs().max())


@pytest.mark.parametrize("form", [delta_rule_reference, chunked_delta_rule])
def test_documents_in_one_row_equal_each_document_alone(form):
    q, k, v, beta, g, state = inputs(100, batch=1)
    borders = [0, 1, 37, 64, 100]
    starts = torch.zeros(1, 100, dtype=torch.bool)
    starts[0, borders[1:-1]] = True
    out, final = form(q, k, v, beta, g, state, starts=starts)
    for i, (a, b) in enumerate(itertools.pairwise(borders)):
        alone, last = form(*(x[:, a:b] for x in (q, k, v, beta, g)), state if i == 0 else None)
        torch.testing.assert_close(out[:, a:b], alone)
    torch.testing.assert_close(final, last)
    starts[0, 0] = True
    forgotten = form(q, k, v, beta, g, state, starts=starts)[0]
    torch.testing.assert_close(forgotten, form(q, k, v, beta, g, None, starts=starts)[0])


def test_a_state_that_a_document_start_empties_gets_no_gradient():
    starts = torch.zeros(2, 70, dtype=torch.bool)
    starts[0, 10] = True
    gradient = results(chunked_delta_rule, inputs(70), starts=starts)[-1]
    q, k, v, beta, g, state = inputs(70)
    final = chunked_delta_rule(q, k, v, beta, g, state, starts=starts)[1]
    (of_final,) = torch.autograd.grad(final.sum(), state)
    assert not of_final[0].any() and of_final[1].any() and gradient[0].any()


def test_no_output_depends_on_a_later_token():
    arguments = inputs(70)
    changed = [x.detach().clone() for x in arguments]
    for x in changed[:5]:
        x[:, 40] *= 0.5
    before, after = (chunked_delta_rule(*x)[0] for x in (arguments, changed))
    assert torch.equal(before[:, :40], after[:, :40])
    assert (before[:, 40:] != after[:, 40:]).any()


def test_a_text_in_pieces_equals_the_text():
    q, k, v, beta, g, state = inputs(130)
    whole, last = chunked_delta_rule(q, k, v, beta, g, state)
    pieces = []
    for tokens in (slice(0, 50), slice(50, 51), slice(51, 130)):
        piece, state = delta_rule(*(x[:, tokens] for x in (q, k, v, beta, g)), state)
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole)
    torch.testing.assert_close(state, last)


def test_low_precision_is_summed_in_fp32_and_rounded_once():
    *low, state = inputs(75, dtype=torch.bfloat16)
    low.append(state.detach().float().requires_grad_())
    wide = [x.detach().float().requires_grad_() for x in low]
    got, wanted = results(chunked_delta_rule, low), results(chunked_delta_rule, wide)
    assert got[0].dtype == torch.bfloat16 and got[1].dtype == torch.float32
    assert torch.equal(got[0], wanted[0].bfloat16()) and torch.equal(got[1], wanted[1])
    assert [x.dtype for x in got[2:]] == [x.dtype for x in low]
    for x, y in zip(got[2:], wanted[2:], strict=True):
        assert relative_rms(x, y) <= 0.008


def test_what_has_faded_is_nothing_rather_than_a_denormal_number():
    # Products with denormal numbers cost a CPU a hundred times as much.
    decays = chunk_decays(torch.full((1, 64), -1.5), None, "decayed")
    for factor in decays:
        assert ((factor == 0) | (factor >= 2.0**-100)).all()
    assert (decays.read == 0).any() and decays.read.diagonal(dim1=1, dim2=2).eq(1).all()

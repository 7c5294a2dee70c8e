"""The delta rule's step, its dispatch, what the chunked form keeps for its backward, and what is said of a mistake."""

import re

import pytest
import torch
from test_delta_rule import assert_equal, inputs, results, some_starts
from test_ops import poisoned_memory  # noqa: F401

from ops.delta_rule.chunked import chunked_delta_rule
from ops.delta_rule.dispatch import delta_rule
from ops.delta_rule.reference import delta_rule_reference
from ops.delta_rule.step import delta_rule_step
from runtime.errors import UserError


@pytest.mark.parametrize("predict_from", ["decayed", "undecayed"])
@pytest.mark.parametrize("gated", [True, False])
def test_steps_equal_chunks(gated, predict_from):
    q, k, v, beta, g, state = (x.detach() for x in inputs(70))
    g = g if gated else None
    whole, last = chunked_delta_rule(q, k, v, beta, g, state, predict_from=predict_from)
    outputs = []
    for t in range(70):
        token = (None if x is None else x[:, t : t + 1] for x in (q, k, v, beta, g))
        out, state = delta_rule_step(*token, state, predict_from=predict_from)
        outputs.append(out)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=0, atol=1e-12)


def test_a_step_is_differentiable_and_leaves_the_state_it_was_given():
    arguments = inputs(1)
    before = arguments[-1].detach().clone()
    assert_equal(results(delta_rule_step, arguments), results(delta_rule_reference, arguments))
    assert torch.equal(arguments[-1], before)
    q, k, v, beta, _, _ = arguments
    assert_equal(delta_rule_step(q, k, v, beta), delta_rule_reference(q, k, v, beta))


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("predict_from", ["decayed", "undecayed"])
def test_what_a_model_calls_is_the_reference(length, predict_from):
    for starts in (None, torch.ones(2, length, dtype=torch.bool)):
        options = {"predict_from": predict_from, "starts": starts, "scale": 0.3}
        arguments = inputs(length)
        assert_equal(results(delta_rule, arguments, **options), results(delta_rule_reference, arguments, **options))


def test_one_token_is_a_step_and_several_are_chunks(monkeypatch):
    taken = []
    for name in ("delta_rule_step", "chunked_delta_rule"):
        monkeypatch.setattr(f"ops.delta_rule.dispatch.{name}", lambda *_, name=name, **__: taken.append(name))
    for length in (1, 2):
        delta_rule(*inputs(length))
    assert taken == ["delta_rule_step", "chunked_delta_rule"]


@pytest.mark.parametrize("span_tokens, span_numbers, spans", [(64, 4096, 1), (32, 4096, 2), (64, 1024, 4), (64, 1, 4)])
def test_the_backward_keeps_the_inputs_the_inverses_and_a_state_a_span(monkeypatch, span_tokens, span_numbers, spans):
    monkeypatch.setattr("ops.delta_rule.chunked.SPAN_TOKENS", span_tokens)
    monkeypatch.setattr("ops.delta_rule.chunked.SPAN_NUMBERS", span_numbers)
    batch, heads, Dk, Dv, chunk, length = 2, 2, 16, 16, 16, 64
    arguments = inputs(length, batch=batch, heads=(heads, heads), sizes=(Dk, Dv), dtype=torch.float32)
    kept, storages = 0, {}

    def keep(tensor):
        nonlocal kept
        kept += tensor.nbytes
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        chunked_delta_rule(*arguments, chunk=chunk)
    tokens = batch * length * heads
    state = batch * heads * Dk * Dv
    # q, k, v, beta and g; the inverses; the state before each span.
    allowed = 4 * (tokens * (2 * Dk + Dv + 2) + tokens * chunk + spans * state)
    assert kept == allowed == sum(storages.values())


def test_no_state_inside_a_span_outlives_the_forward(monkeypatch):
    monkeypatch.setattr("ops.delta_rule.chunked.SPAN_NUMBERS", 1024)
    *_, state = arguments = inputs(64, batch=1, heads=(1, 1), sizes=(8, 8))
    storages = {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _, final = chunked_delta_rule(*arguments, chunk=8)
    assert final.untyped_storage().nbytes() == state.nbytes
    assert max(storages.values()) <= arguments[0].nbytes


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_values_are_the_same_without_gradients(mode):
    arguments = inputs(70)
    wanted = chunked_delta_rule(*arguments)
    with mode():
        got = chunked_delta_rule(*(x.detach().clone() for x in arguments))
    assert all(torch.equal(x, y) for x, y in zip(got, wanted, strict=True))
    assert not got[0].requires_grad


def test_layouts_and_missing_gradients_do_not_matter():
    wanted = results(chunked_delta_rule, inputs(70))
    strided = [x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for x in inputs(70)]
    assert not strided[0].is_contiguous()
    assert_equal(results(chunked_delta_rule, strided), wanted, tolerance=0)
    q, k, v, beta, g, state = inputs(70)
    out, final = chunked_delta_rule(q, k, v.detach(), beta, g.detach(), state)
    of_q, of_state = torch.autograd.grad(out.sum(), (q, state))
    plain, _ = delta_rule_reference(q, k, v, beta, g, state)
    assert_equal(torch.autograd.grad(plain.sum(), (q, state)), (of_q, of_state))


def test_compiled_without_a_graph_break():
    arguments = inputs(40, batch=1, heads=(1, 1))
    compiled = torch.compile(chunked_delta_rule, fullgraph=True, backend="aot_eager")
    options = {"chunk": 16, "starts": some_starts(40, batch=1)}
    wanted = results(chunked_delta_rule, arguments, **options)
    assert_equal(results(compiled, arguments, **options), wanted)


def changed(**changes):
    names = ("q", "k", "v", "beta", "g", "state")
    return {**dict(zip(names, (x.detach() for x in inputs(5)), strict=True)), **changes}


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"v": torch.zeros(2, 5, 3, 6), "beta": torch.zeros(2, 5, 3)},
            "value heads must be a multiple of the 2 key heads, got 3; nearest 4",
        ),
        (
            {"g": torch.full((2, 5, 4), 0.25, dtype=torch.float64)},
            "g is a log decay, finite and at most 0, got 0.25; nearest 0",
        ),
        (
            {"g": torch.full((2, 5, 4), -torch.inf, dtype=torch.float64)},
            "g is a log decay, finite and at most 0, got -inf; nearest -100",
        ),
        (
            {"state": torch.zeros(2, 4, 6, 8, dtype=torch.float64)},
            "state must have the shape (2, 4, 8, 6) that q and v give it, got (2, 4, 6, 8)",
        ),
        (
            {"state": torch.zeros(2, 4, 8, 6)},
            "state must be torch.float64 beside values in torch.float64, got torch.float32",
        ),
        ({"k": torch.zeros(2, 5, 2, 7)}, "k must have the shape (2, 5, 2, 8) that q and v give it, got (2, 5, 2, 7)"),
        ({"q": torch.zeros(2, 5, 2, 8)}, "q must be torch.float64 beside values in torch.float64, got torch.float32"),
        (
            {"beta": torch.zeros(2, 5, 4, dtype=torch.bfloat16)},
            "beta must be torch.float32 or torch.float64 beside values in torch.float64, got torch.bfloat16",
        ),
        ({"q": torch.zeros(5, 2, 8)}, "q and v are [B, T, heads, head size], got (5, 2, 8) and (2, 5, 4, 6)"),
        (
            {"starts": torch.zeros(2, 6, dtype=torch.bool)},
            "starts must have the shape (2, 5) that q and v give it, got (2, 6)",
        ),
        ({"predict_from": "undecaied"}, "unknown predict_from 'undecaied'; nearest: undecayed"),
        (
            {name: x[:, :0] for name, x in changed().items() if name != "state"},
            "the delta rule needs at least one token, got T = 0; nearest 1",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", [delta_rule_reference, chunked_delta_rule, delta_rule])
def test_a_wrong_argument_is_one_line(form, changes, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}") as error:
        form(**changed(**changes))
    assert "\n" not in str(error.value)


def test_a_wrong_chunk_and_a_long_step_are_one_line():
    for chunk, nearest in ((48, 64), (0, 1), (-3, 1), (33, 32)):
        with pytest.raises(UserError, match=f"^chunk must be a power of two, got {chunk}; nearest {nearest}$"):
            chunked_delta_rule(**changed(), chunk=chunk)
    with pytest.raises(UserError, match="^a step of the delta rule takes one token, got 5; nearest 1$"):
        delta_rule_step(**changed())

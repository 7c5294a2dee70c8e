"""Code that adapts to what it scores: the order of scoring and updating within a span of validation text."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from records.judge.finding import Finding
from records.judge.flow import FlowIndex, FunctionFlow, backwards, steps
from records.judge.record import JudgedRecord
from records.judge.rules import found
from records.judge.source import bindings, last_name, names_of, own_nodes, target_names, words_of
from records.judge.validation_names import MEASURE_NAME

_SUM_NAME = re.compile(r"nll|loss|bits|nats|bpb|score|total|sum", re.IGNORECASE)
_ACCUMULATES = re.compile(r"accumulate|add_score|update_score|count_bits", re.IGNORECASE)
_LOGGED_NAME = re.compile(r"train|running|log|ema|avg|epoch", re.IGNORECASE)
WHY_ORDER = "told from the order of the lines and from names; nothing was run"


@dataclass(frozen=True)
class ScoredSpan:
    """A line that adds to a score: where its loss was computed, and on what."""

    node: ast.AST
    computed: int  # line of the forward pass
    spans: frozenset[str]


def judge_adaptation(record: JudgedRecord, flows: FlowIndex) -> Iterator[Finding]:
    """Scores and updates in the loops of every function."""
    for flow in flows.flows:
        loops = loops_of(flow)
        late = next((seen for loop in loops if (seen := _score_after_step(flow, flows, loop))), None)
        if late:
            yield late
        yield from _adapted_before(flow, flows)


def _score_after_step(flow: FunctionFlow, flows: FlowIndex, loop: ast.AST) -> Finding | None:
    """A score on a span that an earlier step of the same iteration was taken on."""
    updates = _updates(flow, flows, loop)
    if not updates:
        return None
    for scored in scored_spans(flow, loop):
        for node, spans in updates:
            inner = _innermost(loop, node)
            leaves = (
                inner is not loop and holds_line(inner, scored.computed) and not holds_line(inner, scored.node.lineno)
            )
            if spans & scored.spans and (scored.computed > node.lineno or leaves):
                said = f"a score of line {scored.node.lineno} comes after an optimiser step on the same span"
                return found("step-before-score", said, flow.unit.at(node), None, "high", WHY_ORDER)
    return None


def _adapted_before(flow: FunctionFlow, flows: FlowIndex) -> Iterator[Finding]:
    """A whole evaluation after training on the same text: adapt(model, val_tokens), then eval(model, val_tokens)."""
    calls = [node for node in own_nodes(flow.node) if isinstance(node, ast.Call) and _named_text(flow, node)]
    calls.sort(key=lambda call: call.lineno)
    for index, call in enumerate(calls):
        name = last_name(call.func)
        if MEASURE_NAME.match(name) or re.search(r"warm|^train", name) or not flows.trains(call, flow):
            continue
        for later in calls[index + 1 :]:
            shared = _named_text(flow, call) & _named_text(flow, later)
            if shared and MEASURE_NAME.match(last_name(later.func)) and later.lineno > call.lineno:
                said = f"{name} trains on {', '.join(sorted(shared))}, which line {later.lineno} scores afterwards"
                yield found("step-before-score", said, flow.unit.at(call), None, "medium", WHY_ORDER)
                return


def _named_text(flow: FunctionFlow, call: ast.Call) -> set[str]:
    """The variables with validation text that a call is given as they are."""
    given = [part for part in (*call.args, *(word.value for word in call.keywords)) if isinstance(part, ast.Name)]
    return {part.id for part in given if flow.holds(part)}


def _updates(flow: FunctionFlow, flows: FlowIndex, loop: ast.AST) -> list[tuple[ast.AST, frozenset[str]]]:
    """The optimiser steps in a loop, and the spans of validation text that each learns from."""
    gradients = [call for call in backwards(flow) if holds_line(loop, call.lineno)]
    found_updates = []
    for step in steps(loop):
        earlier = [call for call in gradients if call.lineno <= step.lineno]
        if earlier:
            found_updates.append((step, _spans(flow, loop, earlier[-1])))
    for node in own_nodes(loop):
        if isinstance(node, ast.Call) and flows.trains(node, flow):
            found_updates.append((node, _spans(flow, loop, node)))
    return found_updates


def scored_spans(flow: FunctionFlow, loop: ast.AST) -> Iterator[ScoredSpan]:
    """The lines of a loop that add a loss on validation text to a sum, a list or a table."""
    for node in own_nodes(loop):
        value, name = None, ""
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
            value, name = node.value, last_name(node.target)
        elif isinstance(node, ast.Call) and _ACCUMULATES.search(last_name(node.func)) and node.args:
            value, name = ast.Tuple(node.args, ast.Load()), "sum"
        elif isinstance(node, ast.Call) and last_name(node.func) in ("append", "add_", "extend") and node.args:
            value, name = node.args[0], last_name(getattr(node.func, "value", node.func))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            value, name = node.value, last_name(node.targets[0].value)
        if value is None or not flow.is_loss(value) or _LOGGED_NAME.search(name) or not _SUM_NAME.search(name or "sum"):
            continue
        if not _feeds_gradient(flow, name):
            yield ScoredSpan(node, _computed(flow, loop, node, value), _spans(flow, loop, node))


def loops_of(flow: FunctionFlow) -> list[ast.AST]:
    """The loops of a function, in the order of the text."""
    loops = (node for node in own_nodes(flow.node) if isinstance(node, (ast.For, ast.While)))
    return sorted(loops, key=lambda loop: loop.lineno)


def holds_line(loop: ast.AST, line: int) -> bool:
    """Whether a line stands in a loop."""
    return loop.lineno <= line <= (loop.end_lineno or loop.lineno)


def _feeds_gradient(flow: FunctionFlow, name: str) -> bool:
    return any(name in words_of(call.func) for call in backwards(flow))


def _computed(flow: FunctionFlow, loop: ast.AST, node: ast.AST, value: ast.AST) -> int:
    """The line of the forward pass that a scored value came from."""
    line = node.lineno
    names = names_of(value) & flow.losses
    for _ in range(4):
        earlier = [
            (bound, made) for bound, made, _ in _bindings_in(flow, loop) if bound & names and made.lineno <= line
        ]
        if not earlier:
            break
        bound, made = earlier[-1]
        line, names = made.lineno, names_of(made) & flow.losses - bound
        if not names:
            break
    return line


def _spans(flow: FunctionFlow, loop: ast.AST, node: ast.AST) -> frozenset[str]:
    """What the names in a line were cut from: the expressions that made them from text bound outside the loop."""
    roots, waiting, seen = set(), [(name, node.lineno) for name in names_of(node) & flow.held], set()
    inside = {name for bound, _, _ in _bindings_in(flow, loop) for name in bound}
    while waiting:
        name, line = waiting.pop()
        earlier = [made for bound, made, _ in _bindings_in(flow, loop) if name in bound and made.lineno <= line]
        if not earlier or (name, line) in seen:
            continue
        seen.add((name, line))
        made = earlier[-1]
        sources = names_of(made) & flow.held & inside - {name}
        if sources:
            waiting += [(source, made.lineno) for source in sources]
        else:
            roots.add(ast.dump(made))
    return frozenset(roots)


def _bindings_in(flow: FunctionFlow, loop: ast.AST) -> list[tuple[set[str], ast.AST, ast.AST]]:
    own = [(target_names(loop.target), loop.iter, loop)] if isinstance(loop, ast.For) else []
    return own + list(bindings(loop))


def _innermost(loop: ast.AST, node: ast.AST) -> ast.AST:
    """The innermost loop inside `loop` that holds `node`, `loop` itself where there is none."""
    inner = [
        part for part in own_nodes(loop) if isinstance(part, (ast.For, ast.While)) and holds_line(part, node.lineno)
    ]
    return max(inner, key=lambda part: part.lineno, default=loop)

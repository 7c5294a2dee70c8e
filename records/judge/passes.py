"""Code that scores more than once, or chooses afterwards: epochs, tables filled first, experts picked by their loss."""

import ast
import re
from collections.abc import Iterator

from records.judge.adaptation import WHY_ORDER, holds_line, loops_of, scored_spans
from records.judge.finding import Finding
from records.judge.flow import FlowIndex, FunctionFlow, backwards
from records.judge.record import JudgedRecord
from records.judge.rules import found
from records.judge.source import last_name, nodes_of, own_nodes, target_names, words_of

_PASS_NAME = re.compile(r"epoch|pass|round|sweep|rescor", re.IGNORECASE)
_EXPERT_LOSS = re.compile(r"nll|loss|_ce$|^ce_|nats|bits|neg_log|logp|log_prob|lp_", re.IGNORECASE)
_NO_EXPERT = re.compile(r"best|train|val_loss|mse|err|clip|prev|last|running|target|cap", re.IGNORECASE)
_CHOICES = {"min", "amin", "minimum", "argmin", "maximum", "fmin"}


def judge_passes(record: JudgedRecord, flows: FlowIndex) -> Iterator[Finding]:
    """Passes and choices in every function."""
    for flow in flows.flows:
        loops = loops_of(flow)
        yield from _epochs(flow, loops)
        yield from _fills_then_scores(flow, loops)
        yield from _oracle(flow)


def judge_byte_mixture(record: JudgedRecord, flows: FlowIndex) -> Iterator[Finding]:
    """A token's probability spread over its bytes by a root."""
    for unit in record.units:
        if not any(re.search(r"ppm", word, re.IGNORECASE) for word in unit.words):
            continue
        root = next(filter(_is_root, unit.nodes), None)
        if root is not None:
            said = "a probability to the power 1/n beside a byte model: the parts are no distribution"
            why = "the sum over the alphabet was not taken"
            yield found("byte-mixture", said, unit.at(root), None, "medium", why)


def _is_root(node: ast.AST) -> bool:
    """x ** (1 / n)."""
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and isinstance(node.right, ast.BinOp)):
        return False
    return isinstance(node.right.op, ast.Div) and isinstance(node.right.left, ast.Constant)


def _epochs(flow: FunctionFlow, loops: list[ast.AST]) -> Iterator[Finding]:
    """Passes over the same text with a score that starts anew in each: the last pass is what is reported."""
    for loop in loops:
        if not isinstance(loop, ast.For) or not any(map(_PASS_NAME.search, target_names(loop.target))):
            continue
        if flow.holds(loop.iter) or not backwards(flow):
            continue
        fresh = {name for node in loop.body if isinstance(node, ast.Assign) for name in target_names(node.targets[0])}
        sums = {
            last_name(scored.node.target)
            for scored in scored_spans(flow, loop)
            if isinstance(scored.node, ast.AugAssign)
        }
        told = fresh & sums & _read_after(flow, loop)
        if told:
            said = f"{', '.join(sorted(told))} starts anew in every pass over the text it trains on"
            yield found("several-passes", said, flow.unit.at(loop), None, "high", WHY_ORDER)


def _read_after(flow: FunctionFlow, loop: ast.AST) -> set[str]:
    """The variables that are read once the loop is over: what is only logged in it is no score."""
    names = (node for node in own_nodes(flow.node) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    return {name.id for name in names if name.lineno > (loop.end_lineno or loop.lineno)}


def _fills_then_scores(flow: FunctionFlow, loops: list[ast.AST]) -> Iterator[Finding]:
    """A table filled from all of the text in one loop and read while the text is scored in a later one."""
    top = [loop for loop in loops if not any(holds_line(other, loop.lineno) for other in loops if other is not loop)]
    for index, first in enumerate(top):
        filled = _filled(flow, first)
        if not filled or next(scored_spans(flow, first), None):
            continue
        for later in top[index + 1 :]:
            if filled & words_of(later) and next(scored_spans(flow, later), None):
                said = (
                    f"{', '.join(sorted(filled & words_of(later)))} is filled from the text before the text is scored"
                )
                yield found("several-passes", said, flow.unit.at(first), None, "medium", WHY_ORDER)
                return


def _filled(flow: FunctionFlow, loop: ast.AST) -> set[str]:
    """Tables that a loop over validation text updates."""
    if not (isinstance(loop, ast.For) and (flow.holds(loop.iter) or any(map(flow.holds, loop.body)))):
        return set()
    names = set()
    for node in own_nodes(loop):
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Subscript):
            names.add(last_name(node.target.value))
        elif isinstance(node, ast.Call) and last_name(node.func) in ("update", "add_", "index_add_", "scatter_add_"):
            names.add(last_name(getattr(node.func, "value", node.func)))
        elif isinstance(node, ast.Call) and last_name(node.func) == "at" and node.args:
            names.add(last_name(node.args[0]))
    return names - {""}


def _oracle(flow: FunctionFlow) -> Iterator[Finding]:
    """The least of several losses on the token that was to be predicted."""
    for node in own_nodes(flow.node):
        if not isinstance(node, ast.Call) or last_name(node.func) not in _CHOICES:
            continue
        parts = [*node.args, *([node.func.value] if isinstance(node.func, ast.Attribute) else [])]
        names = {
            name
            for part in parts
            for name in words_of(part)
            if _EXPERT_LOSS.search(name) and not _NO_EXPERT.search(name)
        }
        names -= {last_name(node.func), "losses"} if len(parts) == 1 else {last_name(node.func)}
        functions = {last_name(part.func) for value in parts for part in nodes_of(value) if isinstance(part, ast.Call)}
        if len(names - functions) >= 2:
            said = (
                f"{last_name(node.func)} over {', '.join(sorted(names - functions)[:4])}: the target is known by then"
            )
            yield found("oracle-selection", said, flow.unit.at(node), None, "medium", WHY_ORDER)
            return

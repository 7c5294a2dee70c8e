"""Probabilities mixed and tilted: with counts that are no distribution, by gates that see the token being predicted."""

import ast
import re
from collections.abc import Iterator

from records.judge.cache_keys import direct_targets, is_hashed, targets_of
from records.judge.finding import Finding
from records.judge.flow import FlowIndex, FunctionFlow
from records.judge.record import JudgedRecord
from records.judge.rules import found
from records.judge.source import bindings, last_name, names_of, nodes_of, own_nodes, words_of

_TILT = re.compile(r"tilt|gate|hint|boost|beta|expert", re.IGNORECASE)
_CLASS_TABLE = re.compile(r"boundary|word_?start|is_start|starts_|leading|is_word|within|begins", re.IGNORECASE)
_WHY = "told from names; nothing was run"


def judge_blends(record: JudgedRecord, flows: FlowIndex) -> Iterator[Finding]:
    """Blends and gates in every function that knows a target."""
    for flow in flows.flows:
        targets = targets_of(flow, direct_targets(flow))
        if targets:
            yield from _blend(flow, targets)
            yield from _gate(flow, targets)


def _blend(flow: FunctionFlow, targets: set[str]) -> Iterator[Finding]:
    """(1 - a) p + a q, where p is the true token's probability alone and q comes from a hashed table."""
    hashed = {name for names, value, _ in bindings(flow.node) for name in names if is_hashed(value)}
    if not hashed or not targets:
        return
    counted = _made_from(flow, hashed, reads_only=True)
    gathered = _made_from(
        flow, {name for names, value, _ in bindings(flow.node) for name in names if _gathers(value, targets)}
    )
    for node in own_nodes(flow.node):
        if _is_weighted(node) and names_of(node) & gathered and names_of(node) & counted:
            said = "hashed counts are blended into the true token's probability alone"
            why = "whether the vocabulary still sums to 1 shows only when it is summed"
            yield found("target-only-blend", said, flow.unit.at(node), None, "medium", why)
            return


def _gathers(value: ast.AST, targets: set[str]) -> bool:
    """probs.gather(-1, y), probs[range, y], exp(-nll)."""
    for part in nodes_of(value):
        picks = isinstance(part, ast.Call) and last_name(part.func) in ("gather", "take_along_dim", "cross_entropy")
        if picks and targets & words_of(part):
            return True
        if isinstance(part, ast.Subscript) and targets & names_of(part.slice):
            return True
    return False


def _made_from(flow: FunctionFlow, names: set[str], reads_only: bool = False) -> set[str]:
    """`names` and what is computed from them; with `reads_only`, what is read from tables under them."""
    made = set() if reads_only else set(names)
    for bound, value, _ in list(bindings(flow.node)) * 2:
        reads = any(isinstance(part, ast.Subscript) and names & names_of(part.slice) for part in nodes_of(value))
        if reads or made & names_of(value):
            made |= bound
    return made


def _is_weighted(node: ast.AST) -> bool:
    """a x + b y."""
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)):
        return False
    return all(isinstance(side, ast.BinOp) and isinstance(side.op, ast.Mult) for side in (node.left, node.right))


def _gate(flow: FunctionFlow, targets: set[str]) -> Iterator[Finding]:
    """A class of the target (starts a word, is a boundary) that switches a tilt."""
    if not targets or not any(map(_TILT.search, words_of(flow.node))):
        return
    gates = set()
    for names, value, _ in bindings(flow.node):
        for part in nodes_of(value):
            if (
                isinstance(part, ast.Subscript)
                and targets & names_of(part.slice)
                and _CLASS_TABLE.search(last_name(part.value))
            ):
                gates |= names
    for node in own_nodes(flow.node) if gates else ():
        tilted = (
            isinstance(node, ast.BinOp)
            and isinstance(node.op, ast.Mult)
            or isinstance(node, ast.Call)
            and last_name(node.func) == "where"
        )
        if tilted and gates & names_of(node) and any(map(_TILT.search, words_of(node) - gates)):
            said = f"{', '.join(sorted(gates))} is read from the token being predicted and switches a tilt"
            yield found("gate-reads-target", said, flow.unit.at(node), None, "medium", _WHY)
            return

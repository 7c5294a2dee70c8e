"""Caches of counts: keys that hold the token being predicted."""

import ast
import re
from collections.abc import Iterator

from records.judge.finding import Finding
from records.judge.flow import FlowIndex, FunctionFlow
from records.judge.record import JudgedRecord
from records.judge.rules import found
from records.judge.source import bindings, last_name, names_of, nodes_of, own_nodes, words_of

_TARGET = re.compile(
    r"^(y|y_t|yb|y_np|ys?|tgt\w*|targets?(_\w+)?|labels?|gold\w*|next_tok\w*|true_tok\w*|\w+_(tgt|targets?))$"
)
_CASTS = {
    *("astype", "to", "long", "int", "view", "reshape", "uint64", "int64"),
    *("cpu", "numpy", "item", "tolist", "asarray", "flatten"),
}
_READS = {"get", "take", "gather", "index_select", "lookup", "query", "__contains__"}
_WHY = "told from names and from how the key is mixed; nothing was run"


def judge_cache_keys(record: JudgedRecord, flows: FlowIndex) -> Iterator[Finding]:
    """Every function that mixes keys."""
    for flow in flows.flows:
        direct = direct_targets(flow)
        targets = targets_of(flow, direct)
        keys = _keys(flow, targets, direct)
        read = _read_under(flow, keys)
        if read is not None:
            said = f"{', '.join(sorted(keys & words_of(read)))} holds the token being predicted and is looked up"
            yield found("target-in-key", said, flow.unit.at(read), None, "high", _WHY)
        elif keys & _returned(flow):
            said = f"{flow.name} returns a key that holds the token being predicted"
            yield found("target-in-key", said, flow.unit.at(flow.node), None, "medium", _WHY)


def targets_of(flow: FunctionFlow, direct: set[str]) -> set[str]:
    """Variables that hold the token being predicted: by name, or because they were made from one that does."""
    named = {word for word in words_of(flow.node) if _TARGET.match(word)}
    for names, value, _ in bindings(flow.node) if named or direct else ():
        plain = _without_casts(value)
        if (isinstance(plain, ast.Name) and plain.id in named) or _is_direct(plain, direct):
            named |= names
    return named


def direct_targets(flow: FunctionFlow) -> set[str]:
    """Every tokens[position] of a function that reads tokens[position - k] too, as the tree is written."""
    cuts = [node for node in own_nodes(flow.node) if isinstance(node, ast.Subscript)]
    before = [cut for cut in cuts if isinstance(cut.slice, ast.BinOp) and isinstance(cut.slice.op, ast.Sub)]
    contexts = {(ast.dump(cut.value), name) for cut in before for name in names_of(cut.slice.left)}
    if not contexts:
        return set()
    at_names = [cut for cut in cuts if isinstance(cut.slice, ast.Name) and isinstance(cut.ctx, ast.Load)]
    return {ast.dump(cut) for cut in at_names if (ast.dump(cut.value), cut.slice.id) in contexts}


def _is_direct(node: ast.AST, direct: set[str]) -> bool:
    return bool(direct) and isinstance(node, ast.Subscript) and ast.dump(node) in direct


def _without_casts(node: ast.AST) -> ast.AST:
    while isinstance(node, ast.Call) and last_name(node.func) in _CASTS:
        inner = node.func.value if isinstance(node.func, ast.Attribute) and node.func.attr in _CASTS else None
        is_module = isinstance(inner, ast.Name) and inner.id in ("np", "torch", "numpy")
        if inner is None or is_module:
            if not node.args:
                break
            node = node.args[0]
        else:
            node = inner
    return node


def _mentions(node: ast.AST, targets: set[str], direct: set[str]) -> bool:
    """Whether an expression holds a target token, as a name or as tokens[position]."""
    if targets & names_of(node):
        return True
    return bool(direct) and any(_is_direct(part, direct) for part in nodes_of(node))


def _keys(flow: FunctionFlow, targets: set[str], direct: set[str]) -> set[str]:
    """Variables that hold a key mixed from a target and its context."""
    keys: set[str] = set()
    for names, value, statement in bindings(flow.node):
        if isinstance(statement, (ast.For, ast.comprehension)):
            continue
        plain = _without_casts(value)
        carried = isinstance(plain, (ast.Name, ast.BinOp)) and keys & names_of(plain)
        mixed = (is_hashed(value) or _calls_hash(value)) and _mixes_more(value, targets)
        if carried or (mixed and _mentions(value, targets, direct)):
            keys |= names
    return keys - targets


def _calls_hash(value: ast.AST) -> bool:
    calls = (part for part in nodes_of(value) if isinstance(part, ast.Call))
    return any(last_name(call.func) in ("hash", "crc32") for call in calls)


def _mixes_more(value: ast.AST, targets: set[str]) -> bool:
    """A key has a context beside the target: y % 2 alone is none."""
    return len(names_of(value) - targets - {"np", "torch"}) >= 1 and not _is_comparison(value)


def _is_comparison(value: ast.AST) -> bool:
    return any(isinstance(part, ast.Compare) for part in nodes_of(value))


def _read_under(flow: FunctionFlow, keys: set[str]) -> ast.AST | None:
    """Where a table is read (not updated) under one of the keys."""
    for node in own_nodes(flow.node) if keys else ():
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and keys & names_of(node.slice):
            return node
        reads = isinstance(node, ast.Call) and last_name(node.func) in _READS
        if reads and any(keys & names_of(argument) for argument in node.args):
            return node
    return None


def _returned(flow: FunctionFlow) -> set[str]:
    return {
        name
        for node in own_nodes(flow.node)
        if isinstance(node, ast.Return) and node.value
        for name in names_of(node.value)
    }


def is_hashed(value: ast.AST) -> bool:
    """Whether an expression mixes what it is made of, as a hash does."""
    operators = {type(part.op) for part in nodes_of(value) if isinstance(part, ast.BinOp)}
    spreads, folds = operators & {ast.Mult, ast.LShift}, operators & {ast.Mod, ast.BitAnd, ast.BitOr}
    return ast.BitXor in operators or bool(spreads and folds)

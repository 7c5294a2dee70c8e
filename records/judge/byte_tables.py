"""The table of bytes a token: the space before a word added twice, byte pieces forgotten, a constant instead."""

import ast
import re
from collections.abc import Iterator

from records.judge.finding import Finding
from records.judge.flow import FlowIndex
from records.judge.record import JudgedRecord
from records.judge.rules import found
from records.judge.source import SourceUnit, nodes_of, own_nodes, words_of

WORD_MARK = "\u2581"
_LEAD = re.compile(r"lead|space", re.IGNORECASE)
_BOUNDARY = re.compile(r"boundary", re.IGNORECASE)
_CONSTANT = re.compile(r"^(avg_|mean_)?bytes_(per|a)_tok(en)?$", re.IGNORECASE)


def judge_byte_tables(record: JudgedRecord, flows: FlowIndex) -> Iterator[Finding]:
    """Every function that builds a table of bytes from the pieces of a tokenizer."""
    adds_at_run_time = any(_adds_lead(unit) for unit in record.units)
    for unit in record.units:
        for function in unit.functions:
            if not _builds_table(function):
                continue
            reason = _holds_space(function) if adds_at_run_time else ""
            if reason:
                said = f"{function.name} {reason}, and the space is added again at run time"
                yield found("table-double-space", said, unit.at(function), None, "high", "the table was not built")
            if not _knows_bytes(function):
                said = f"{function.name} never asks whether a piece is a byte: <0x0A> may count as its spelling"
                yield found(
                    "table-fallback", said, unit.at(function), None, "medium", "the tokenizer may have no such pieces"
                )
        yield from _constants(unit)


def _builds_table(function: ast.AST) -> bool:
    marks = any(isinstance(node, ast.Constant) and node.value == WORD_MARK for node in own_nodes(function))
    words = words_of(function)
    return marks and "encode" in words and bool(words & {"id_to_piece", "IdToPiece", "get_piece_size", "vocab_size"})


def _adds_lead(unit: SourceUnit) -> bool:
    """bytes[y] + (lead[y] & ~boundary[x]), however it is written."""
    for node in unit.nodes:
        if isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, ast.Add):
            words = words_of(node)
            if any(map(_LEAD.search, words)) and any(map(_BOUNDARY.search, words)):
                return True
    return False


def _holds_space(function: ast.AST) -> str:
    """How the table comes to hold the space; "" where it does not."""
    stripped = False
    for node in own_nodes(function):
        if _adds_one(node):
            return "adds 1 to the bytes of the piece"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            if node.func.attr == "replace" and texts == [WORD_MARK, " "]:
                return "counts the mark as a space"
            stripped |= node.func.attr in ("lstrip", "removeprefix", "strip") or texts == [WORD_MARK, ""]
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice) and node.slice.lower is not None:
            stripped = True
    return "" if stripped else "counts the mark itself, three bytes"


def _adds_one(node: ast.AST) -> bool:
    """len(piece.encode()) + 1, or bytes_of[token] += 1."""
    if isinstance(node, ast.AugAssign):
        parts, about = [node.value], any("byte" in word for word in words_of(node.target))
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts, about = [node.left, node.right], "encode" in words_of(node)
    else:
        return False
    return about and any(isinstance(part, ast.Constant) and part.value == 1 for part in parts)


def _knows_bytes(function: ast.AST) -> bool:
    texts = {
        node.value for node in nodes_of(function) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return bool(words_of(function) & {"is_byte", "IsByte"}) or any("<0x" in text for text in texts)


def _constants(unit: SourceUnit) -> Iterator[Finding]:
    """A number where the bytes of the text should be counted."""
    for node in unit.nodes:
        pairs = []
        if isinstance(node, ast.Assign):
            pairs = [(word, node.value) for target in node.targets for word in words_of(target)]
        elif isinstance(node, ast.keyword) and node.arg:
            pairs = [(node.arg, node.value)]
        for name, value in pairs:
            if (
                isinstance(value, ast.Constant)
                and isinstance(value.value, float)
                and 1 < value.value < 8
                and _CONSTANT.match(name)
            ):
                why = "it may serve an estimate in the log alone"
                yield found("bytes-constant", f"{name} is {value.value}", unit.at(value), None, "medium", why)

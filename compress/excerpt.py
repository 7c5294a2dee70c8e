"""The text of the needed parts of a file, comments and layout as they are."""

import ast
from collections.abc import Iterator

from compress.modules import Module
from compress.shake import Unit, annotations_of, is_bare_string, without_names

# (first byte, byte after the last, what comes instead)
Edit = tuple[int, int, str]


def excerpt(
    module: Module,
    needed: set[Unit],  # of this module and of others
    gone: set[str],  # classes that annotations name and nothing else needs
) -> str:
    """The needed statements in their order, each with the comments above it, without methods that nobody calls."""
    source = module.source.encode("utf-8")
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    units = {unit.node: unit for unit in module.units if unit in needed}
    parts, above = [], 0
    for node in module.tree.body:
        if node in units:
            edits = sorted(_edits(units[node], needed, gone, starts))
            parts.append(_edited(source, starts[above], starts[node.end_lineno], edits))
        above = node.end_lineno
    return "".join(parts).strip("\n")


def module_docstring(module: Module) -> str:
    """The docstring of a module as it is written, "" without one."""
    first = module.tree.body[0] if module.tree.body else None
    if first is None or not is_bare_string(first):
        return ""
    return ast.get_source_segment(module.source, first) or ""


def _edits(unit: Unit, needed: set[Unit], gone: set[str], starts: list[int]) -> Iterator[Edit]:
    dropped = {method.node for method in unit.methods if method not in needed}
    if dropped:
        yield from _cuts(unit.node, dropped, starts)
    todo: list[ast.AST] = [unit.node]
    while todo:
        node = todo.pop()
        todo += [child for child in ast.iter_child_nodes(node) if child not in dropped]
        for annotation in annotations_of(node):
            left = without_names(annotation, gone)
            if left is not annotation and (left is None or ast.dump(left) != ast.dump(annotation)):
                begin = starts[annotation.lineno - 1] + annotation.col_offset
                end = starts[annotation.end_lineno - 1] + annotation.end_col_offset
                yield begin, end, ast.unparse(left) if left else "object"


def _cuts(node: ast.ClassDef, dropped: set[ast.stmt], starts: list[int]) -> Iterator[Edit]:
    """The methods to drop, with the comments and blank lines above them."""
    above = None
    for entry in node.body:
        if entry in dropped:
            first = min(decorator.lineno for decorator in [*entry.decorator_list, entry])
            yield starts[above if above else first - 1], starts[entry.end_lineno], ""
        above = entry.end_lineno
    if dropped >= set(node.body):
        yield starts[node.end_lineno], starts[node.end_lineno], f"{' ' * node.body[0].col_offset}pass\n"


def _edited(source: bytes, begin: int, end: int, edits: list[Edit]) -> str:
    pieces = []
    for first, last, text in edits:
        pieces += [source[begin:first], text.encode("utf-8")]
        begin = last
    return b"".join([*pieces, source[begin:end]]).decode("utf-8")

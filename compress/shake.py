"""What of some source is needed: every statement that a beginning reaches by the names that it uses, and nothing else.

A unit is a top-level statement, or a method of a class without bases (with them, somebody else may call it). A unit
needs what binds the names it uses, and what adds to that (`@op.register_fake`, `op.register(...)`, `TABLE[key] = ...`).
A method is needed once its class is and its name stands anywhere, as an attribute or in a string. A class that only
annotations name is not needed: no value can be one of it, so it leaves their unions.
"""

import ast
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(eq=False)
class Unit:
    """A statement, what it binds and what it looks up; an attribute is a name with a dot before it."""

    node: ast.stmt
    binds: set[str]  # the names that lead to it
    uses: set[str]
    hints: set[str]  # names that only annotations look up
    methods: "list[Unit]" = field(default_factory=list)  # those that nothing but a use of their name keeps

    @property
    def is_class(self) -> bool:
        return isinstance(self.node, ast.ClassDef)


def units_of(tree: ast.Module) -> list[Unit]:
    """The units of a module in its order; imports and bare strings are none.

    >>> [sorted(unit.binds) for unit in units_of(ast.parse("import os; a = b = 1\\ndef f(): pass\\na.add(f)"))]
    [['a', 'b'], ['f'], ['a']]
    """
    units = [_unit_of(node) for node in tree.body if not is_import(node) and not is_bare_string(node)]
    bound = set().union(*(unit.binds for unit in units))
    for unit in units:
        unit.binds |= set(_added_to(unit.node)) & bound
    return units


def reached(roots: Iterable[Unit], find: Callable[[Unit, str], Iterable[Unit]]) -> set[Unit]:
    """The units that `roots` need, themselves and methods included; `find` gives those that bind a unit's name."""
    found: set[Unit] = set()
    waiting: dict[str, list[Unit]] = defaultdict(list)
    named: set[str] = set()
    open_units = list(roots)
    owners: dict[Unit, Unit] = {}
    while open_units:
        unit = open_units.pop()
        if unit in found:
            continue
        found.add(unit)
        owner = owners.get(unit, unit)
        for method in unit.methods:
            owners[method] = unit
            for name in method.binds:
                (open_units if name in named else waiting[name]).append(method)
        for name in unit.uses:
            if name.startswith("."):
                named.add(name)
                open_units += waiting.pop(name, [])
            else:
                open_units += find(owner, name)
        for name in unit.hints - unit.uses:
            open_units += (hinted for hinted in find(owner, name) if not hinted.is_class)
    return found


def annotations_of(node: ast.AST) -> list[ast.expr]:
    """The annotations that stand in this node itself: of parameters, of a result, of a variable."""
    if isinstance(node, Function):
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        found = [argument.annotation for argument in every if argument is not None]
        return [annotation for annotation in [*found, node.returns] if annotation is not None]
    return [node.annotation] if isinstance(node, ast.AnnAssign) else []


def without_names(annotation: ast.expr, gone: set[str]) -> ast.expr | None:
    """The annotation without the union members that mention a name of `gone`; None when nothing is left.

    >>> ast.unparse(without_names(ast.parse("A | type[B] | None", mode="eval").body, {"B"}))
    'A | None'
    """
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        left, right = without_names(annotation.left, gone), without_names(annotation.right, gone)
        return ast.BinOp(left, ast.BitOr(), right) if left and right else left or right
    return None if gone & set(_names(annotation)) else annotation


def is_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def is_bare_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def is_main_block(node: ast.stmt) -> bool:
    """Whether it is `if __name__ == "__main__":`."""
    return isinstance(node, ast.If) and "__name__" in set(_names(node.test))


def _unit_of(node: ast.stmt) -> Unit:
    methods = []
    if isinstance(node, ast.ClassDef) and not node.bases:
        methods = [entry for entry in node.body if isinstance(entry, Function) and not entry.name.startswith("__")]
    uses, hints = _lookups(node, leave=methods)
    return Unit(node, _bound_names(node), uses, hints, [_method_of(method) for method in methods])


def _method_of(node: Function) -> Unit:
    uses, hints = _lookups(node, leave=[])
    return Unit(node, {f".{node.name}"}, uses, hints)


def _bound_names(node: ast.stmt) -> set[str]:
    """What the statement binds at the level it stands on."""
    if isinstance(node, Function | ast.ClassDef):
        return {node.name} - {"_"}
    found = {entry.id for entry in _level(node) if isinstance(entry, ast.Name) and isinstance(entry.ctx, ast.Store)}
    for entry in _level(node):
        if isinstance(entry, Function | ast.ClassDef):
            found.add(entry.name)
        elif isinstance(entry, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in entry.names}
    return found


def _added_to(node: ast.stmt) -> Iterator[str]:
    """The names of what the statement adds to: by a decorator, a call or an assignment that goes through them."""
    places = getattr(node, "decorator_list", []) + getattr(node, "targets", [])
    for place in [*places, node.value] if isinstance(node, ast.Expr) else places:
        first = place
        while isinstance(first, ast.Call | ast.Attribute | ast.Subscript):
            first = first.func if isinstance(first, ast.Call) else first.value
        if isinstance(first, ast.Name) and first is not place:
            yield first.id


def _level(node: ast.AST) -> Iterator[ast.AST]:
    """The node and what lies below it, but nothing inside functions, classes and comprehensions."""
    yield node
    inner = Function | ast.ClassDef | ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    if not isinstance(node, inner):
        for child in ast.iter_child_nodes(node):
            yield from _level(child)


def _lookups(node: ast.AST, leave: list) -> tuple[set[str], set[str]]:
    """(names and .attributes that the code uses, names that its annotations use), without the nodes to `leave`."""
    uses: set[str] = set()
    hints: set[str] = set()
    todo = [node]
    while todo:
        entry = todo.pop()
        annotations = annotations_of(entry)
        for annotation in annotations:
            hints |= set(_names(annotation))
        todo += [child for child in _children(entry) if not any(child is other for other in (*annotations, *leave))]
        if isinstance(entry, ast.Name):
            uses.add(entry.id)
        elif isinstance(entry, ast.Attribute):
            uses.add(f".{entry.attr}")
        elif isinstance(entry, ast.Constant) and isinstance(entry.value, str) and entry.value.isidentifier():
            uses.add(f".{entry.value}")
    return uses, hints


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """As ast.iter_child_nodes, but the annotation of an argument belongs to its function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.arguments):
            yield from (default for default in (*child.defaults, *child.kw_defaults) if default is not None)
        else:
            yield child


def _names(node: ast.expr) -> Iterator[str]:
    """The names in an expression, those in quoted annotations too."""
    for entry in ast.walk(node):
        if isinstance(entry, ast.Name):
            yield entry.id
        elif isinstance(entry, ast.Constant) and isinstance(entry.value, str):
            yield from _quoted_names(entry.value)


def _quoted_names(text: str) -> Iterator[str]:
    try:
        quoted = ast.parse(text, mode="eval")
    except SyntaxError:
        return
    yield from (entry.id for entry in ast.walk(quoted) if isinstance(entry, ast.Name))

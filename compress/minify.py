"""Source in fewer bytes: without the sentences of errors, without annotations that nothing reads, then python-minifier.

The annotations of fields stay, because dataclasses and overrides are made of them, and so do those under a decorator
that may look at them (a Triton kernel's `tl.constexpr`). What only the others needed goes with them. Dataclasses and
the classes in their fields keep their names, which stand in the fingerprints of recipes.
"""

import ast
import builtins
from collections import defaultdict
from itertools import takewhile

import python_minifier

from compress.attributes import shorten_attributes
from compress.shake import Function, annotations_of, is_import, is_main_block, reached, units_of
from compress.terse import without_sentences

# Decorators that do not look at the annotations of what they decorate.
BLIND_DECORATORS = {"staticmethod", "classmethod", "property", "contextmanager", "no_grad", "inference_mode"}


def minify_source(source: str) -> str:
    """What runs as `source` does from its `if __name__ == "__main__":` on."""
    tree = _shaken(_Bare().visit(without_sentences(ast.parse(source))))
    shorten_attributes(tree, kept=_watched_names(tree))
    _free_parameters(tree)
    return python_minifier.minify(
        ast.unparse(ast.fix_missing_locations(tree)),
        remove_annotations=False,
        remove_literal_statements=True,
        # A kernel sees no string and no builtin through a global name; and LZMA sees repetitions anyway.
        hoist_literals=False,
        rename_globals=True,
        preserve_globals=[*_spelled_classes(tree), *_used_builtins(tree), *_watched_hints(tree)],
        preserve_locals=list(_watched_names(tree)),
    )


class _Bare(ast.NodeTransformer):
    """Takes off the annotations that nothing reads, and the causes of errors, which only tracebacks show."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        if not _is_watched(node):
            node.returns = None
            for entry in ast.walk(node.args):
                if isinstance(entry, ast.arg):
                    entry.annotation = None
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        node.body = [entry if isinstance(entry, ast.AnnAssign) else self.visit(entry) for entry in node.body]
        return node

    # In an interactive session `_` is a builtin, and python-minifier would take a variable for it.
    def visit_Name(self, node: ast.Name) -> ast.Name:
        node.id = "unused_" if node.id == "_" else node.id
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.arg = "unused_" if node.arg == "_" else node.arg
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        return self.generic_visit(ast.Assign([node.target], node.value)) if node.value else ast.Pass()

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:
        node.cause = None
        return self.generic_visit(node)


def _free_parameters(tree: ast.Module) -> None:
    """Makes parameters positional that no call names, so that the minifier may rename them; it writes no slash.

    A name that stands in a string may be a key of a `**` call.
    """
    nodes = list(ast.walk(tree))
    named = {node.arg for node in nodes if isinstance(node, ast.keyword)}
    named |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for node in nodes:
        if isinstance(node, Function | ast.Lambda) and not (isinstance(node, Function) and _is_watched(node)):
            free = list(takewhile(lambda entry: entry.arg not in named, node.args.args))
            node.args.posonlyargs += free
            del node.args.args[: len(free)]


def _is_watched(node: ast.AST) -> bool:
    """Whether it is a function whose decorator may look at its annotations and its text."""
    # `no_grad` of `@torch.no_grad()`.
    names = (ast.unparse(decorator).partition("(")[0].rpartition(".")[2] for decorator in node.decorator_list)
    return any(name not in BLIND_DECORATORS for name in names)


def _watched(tree: ast.Module) -> list[Function]:
    return [node for node in ast.walk(tree) if isinstance(node, Function) and _is_watched(node)]


def _watched_names(tree: ast.Module) -> set[str]:
    """The variables of watched functions: a kernel's constants are no constants under a second name."""
    inside = (entry for node in _watched(tree) for entry in ast.walk(node))
    names = (getattr(entry, "arg", None) or getattr(entry, "id", None) for entry in inside)
    return {name for name in names if name}


def _watched_hints(tree: ast.Module) -> set[str]:
    """The names in the annotations of watched functions, which Triton's interpreter reads as text."""
    hints = (hint for node in _watched(tree) for hint in annotations_of(node))
    return {entry.id for hint in hints for entry in ast.walk(hint) if isinstance(entry, ast.Name)}


def _shaken(tree: ast.Module) -> ast.Module:
    """The tree without the definitions, methods and imports that nothing in it needs; it is changed in place."""
    units, binding = units_of(tree), defaultdict(list)
    for unit in units:
        for name in unit.binds:
            binding[name].append(unit)
    needed = reached((unit for unit in units if is_main_block(unit.node)), lambda _, name: binding[name])
    for unit in needed:
        dropped = {method.node for method in unit.methods if method not in needed}
        if dropped:
            unit.node.body = [entry for entry in unit.node.body if entry not in dropped] or [ast.Pass()]
    mentioned = set().union(*(unit.uses | unit.hints for unit in needed))
    for node in filter(is_import, tree.body):
        node.names = [alias for alias in node.names if (alias.asname or alias.name).partition(".")[0] in mentioned]
    kept = {unit.node for unit in needed}
    tree.body = [node for node in tree.body if node in kept or (is_import(node) and node.names)]
    return tree


def _used_builtins(tree: ast.Module) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & set(dir(builtins))


def _spelled_classes(tree: ast.Module) -> set[str]:
    """The classes whose names a fingerprint may spell: decorated ones, and those that stand in their fields."""
    decorated = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.decorator_list]
    fields = (entry for node in decorated for entry in node.body if isinstance(entry, ast.AnnAssign))
    in_fields = {name.id for entry in fields for name in ast.walk(entry) if isinstance(name, ast.Name)}
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and (node in decorated or node.name in in_fields)
    }

"""Errors without their sentences: the counted file says where in the readable twin the sentence stands, and the values.

    UserError(f"the window must be at most {limit}, got {window}")  ->  UserError(812, limit, window)
    error: train_gpt_readable.py line 812: 2048: 4096

The sentences of int5_int6 would be a tenth of its counted file. The twin is beside it in every record, runs just as
well, and says them.
"""

import ast

from runtime.errors import UserError
from runtime.source import READABLE_FILE

_NAME = UserError.__name__
# Python writes the arguments of an exception as a tuple; a person wants a line.
_SPELLING = f"""
def __str__(self):
    return "{READABLE_FILE} line " + ": ".join(map(str, self.args))
"""


def without_sentences(tree: ast.Module) -> ast.Module:
    """The tree with the line of every UserError in the place of its sentence; it is changed in place.

    >>> tree = ast.parse("\\n\\nraise UserError(f'at most {limit}, got {len(rows)} of {size:,}')")
    >>> ast.unparse(without_sentences(tree))
    'raise UserError(3, limit, size)'
    """
    return ast.fix_missing_locations(_Terse().visit(tree))


class _Terse(ast.NodeTransformer):
    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        if node.name == _NAME:
            node.body += ast.parse(_SPELLING).body
        return node

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == _NAME:
            node.args = [ast.Constant(node.lineno), *(value for arg in node.args for value in _plain_values(arg))]
        return node


def _plain_values(message: ast.expr) -> list[ast.expr]:
    """The names and attributes in an f-string; what must be computed for a sentence is left to the twin."""
    values = message.values if isinstance(message, ast.JoinedStr) else []
    held = [value.value for value in values if isinstance(value, ast.FormattedValue)]
    return [value for value in held if isinstance(value, ast.Name | ast.Attribute)]

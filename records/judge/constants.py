"""What an expression of a packed script is worth, worked out without running it: literals, text and bytes, decoders.

Nothing of the script is executed. Only the operations below are known, every result is bounded, anything else raises
`OpaqueError` with the line where the judge stopped understanding.
"""

import ast
import binascii
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from records.judge.decoders import DECODERS, MAX_BYTES
from records.judge.source import nodes_of

# What literals and decoders raise when they are given what they do not take.
_MISTAKES = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, TypeError, ValueError),
    *(lzma.LZMAError, zlib.error, binascii.Error),
)


class OpaqueError(Exception):
    """An expression that cannot be worked out; says why."""


class ConstantReader:
    """Works out expressions of one module: `names` is what its simple assignments gave, `files` what lies beside it."""

    def __init__(self, names: Mapping[str, ast.expr], modules: Mapping[str, str], files: Callable[[str], bytes | None]):
        self.names, self.modules, self.files = names, modules, files
        self.opened: list[str] = []
        self._busy: set[str] = set()

    def value(self, node: ast.AST) -> Any:
        """The value of `node`: str, bytes, int, list or dict. Raises OpaqueError."""
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise OpaqueError(f"line {getattr(node, 'lineno', 0)}: {type(node).__name__} is not worked out")
        try:
            result = method(node)
        except _MISTAKES as error:
            raise OpaqueError(f"line {getattr(node, 'lineno', 0)}: {type(error).__name__} {error}"[:200]) from error
        if isinstance(result, (str, bytes, list)) and len(result) > MAX_BYTES:
            raise OpaqueError(f"line {getattr(node, 'lineno', 0)}: more than {MAX_BYTES} bytes")
        return result

    def dotted(self, node: ast.AST) -> str:
        """`L.decompress` as "lzma.decompress", through the module's imports; "" where it is no plain name."""
        if isinstance(node, ast.Attribute):
            return f"{self.dotted(node.value)}.{node.attr}".lstrip(".")
        if isinstance(node, ast.Name):
            return self.modules.get(node.id, node.id)
        if isinstance(node, ast.Call) and self.dotted(node.func) in ("__import__", "importlib.import_module"):
            return node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ""
        return ""

    def _constant(self, node: ast.Constant) -> Any:
        return node.value

    def _list(self, node: ast.List) -> list:
        return [self.value(element) for element in node.elts]

    _tuple = _list

    def _dict(self, node: ast.Dict) -> dict:
        return {self.value(key): self.value(value) for key, value in zip(node.keys, node.values, strict=True) if key}

    def _name(self, node: ast.Name) -> Any:
        if node.id == "__file__":
            return "__file__"
        if node.id not in self.names or node.id in self._busy:
            return self._setting(self.dotted(node), node)
        self._busy.add(node.id)
        try:
            return self.value(self.names[node.id])
        finally:
            self._busy.discard(node.id)

    def _attribute(self, node: ast.Attribute) -> Any:
        return self._setting(self.dotted(node), node)

    def _setting(self, name: str, node: ast.AST) -> int:
        """lzma.FORMAT_RAW and its like."""
        setting = getattr(lzma, name.rpartition(".")[2], None) if name.startswith("lzma.") else None
        if not isinstance(setting, int):
            raise OpaqueError(f"line {node.lineno}: {name or 'a value'} is not known before the script runs")
        return setting

    def _binop(self, node: ast.BinOp) -> Any:
        left, right = self.value(node.left), self.value(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, (ast.BitOr, ast.Sub)) and isinstance(left, int):
            return left | right if isinstance(node.op, ast.BitOr) else left - right
        if isinstance(node.op, ast.Mult) and isinstance(left, int) and isinstance(right, int):
            return left * right
        raise OpaqueError(f"line {node.lineno}: {type(node.op).__name__} is not worked out")

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        if not isinstance(node.op, ast.USub):
            raise OpaqueError(f"line {node.lineno}: {type(node.op).__name__} is not worked out")
        return -self.value(node.operand)

    def _subscript(self, node: ast.Subscript) -> Any:
        held, part = self.value(node.value), node.slice
        if isinstance(part, ast.Slice):
            return held[slice(*(bound and self.value(bound) for bound in (part.lower, part.upper, part.step)))]
        return held[self.value(part)]

    def _call(self, node: ast.Call) -> Any:
        name = self.dotted(node.func)
        known = DECODERS.get(name)
        if known:
            settings = {word.arg: self.value(word.value) for word in node.keywords if word.arg}
            return known(*(self.value(argument) for argument in node.args), **settings)
        if name in ("open", "io.open", "pathlib.Path", "Path"):
            return self._opened(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS:
            return self._method(node)
        raise OpaqueError(f"line {node.lineno}: {name or 'a call'} is not worked out")

    def _opened(self, node: ast.Call) -> bytes:
        """The bytes of a file beside the script; a file opened in text mode is decoded by the method that reads it."""
        name = self.value(node.args[0]) if node.args else ""
        data = self.files(name if isinstance(name, str) else "")
        if data is None:
            raise OpaqueError(f"line {node.lineno}: the file {name!r} is not in the folder")
        if name != "__file__":
            self.opened.append(name)
        mode = self.value(node.args[1]) if len(node.args) > 1 else "r"
        return data if "b" in mode or self.dotted(node.func) != "open" else data.decode("utf-8")

    def _method(self, node: ast.Call) -> Any:
        held = self.value(node.func.value)
        arguments = [self.value(argument) for argument in node.args]
        method = node.func.attr
        if method in ("read", "read_bytes", "read_text"):
            return held.decode("utf-8") if method == "read_text" else held
        if method in ("replace", "join") and len(held) * max(1, len(arguments[-1])) > 64 * MAX_BYTES:
            raise OpaqueError(f"line {node.lineno}: {method} of too much")
        if method in ("decode", "encode") and arguments and arguments[0].lower().replace("_", "-") not in _ENCODINGS:
            raise OpaqueError(f"line {node.lineno}: the encoding {arguments[0]} is not known here")
        return getattr(held, method)(*arguments)


def assigned_names(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Names that the module gives one plain value at its top level."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts):
                pairs = list(zip(target.elts, value.elts, strict=True))
            yield from ((name.id, given) for name, given in pairs if isinstance(name, ast.Name))


def imported_names(tree: ast.AST) -> dict[str, str]:
    """Local name -> dotted name, of every import in `tree`."""
    names = {}
    for node in nodes_of(tree):
        if isinstance(node, ast.Import):
            names.update({alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom) and node.module:
            starred = _STARRED.get(node.module, ()) if node.names[0].name == "*" else ()
            names.update({name: f"{node.module}.{name}" for name in starred})
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


_ENCODINGS = {"utf-8", "utf8", "latin-1", "latin1", "iso-8859-1", "ascii", "utf-16", "utf-16-le", "utf-32"}
_METHODS = {"decode", "encode", "replace", "join", "strip", "split", "read", "read_bytes", "read_text"}
_STARRED = {"base64": ("b85decode", "b64decode", "a85decode"), "lzma": ("decompress",), "zlib": ("decompress",)}

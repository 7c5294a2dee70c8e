"""A file of ours as the bundler sees it: what it defines, what it imports from where, and the rules for both.

Our own code is imported as `from package.module import name` at the top of a file: never `import package.module`, never
relative, with `as` or `*`, and never inside a function or an `if`. So one name is one thing, wherever it stands. And a
module defines; it does nothing when it is imported.
"""

import ast
from dataclasses import dataclass
from pathlib import Path

from compress.shake import Unit, is_import, is_main_block, units_of
from runtime.errors import UserError
from runtime.files import read_bytes


@dataclass(eq=False)
class Module:
    """One file; `own` is imported name -> the file that binds it, `foreign` imported name -> the statement."""

    file: str  # relative to the root, with slashes
    source: str
    tree: ast.Module
    units: list[Unit]
    own: dict[str, str]
    foreign: dict[str, str]

    def binding(self, name: str) -> list[Unit]:
        """The top-level statements that bind `name`; none for what is imported or built in."""
        return [unit for unit in self.units if name in unit.binds]

    def place_of(self, node: ast.AST) -> str:
        """Where a node stands, as errors say it."""
        return f"{self.file} line {node.lineno}"


def read_module(
    root: Path,  # of the repository
    file: str,
    source: str | None = None,  # None: what the file holds
) -> Module:
    """The module in `file`. Raises UserError, with file and line, for a file that breaks a rule or is no Python."""
    if source is None:
        source = read_bytes(root / file, "a source file").decode("utf-8")
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise UserError(f"{file} line {error.lineno}: a source file must be Python, got {error.msg}") from error
    module = Module(file, source, tree, units_of(tree), {}, {})
    _read_imports(root, module)
    _check_statements(module)
    return module


def _read_imports(root: Path, module: Module) -> None:
    top = set(map(id, module.tree.body))
    for node in ast.walk(module.tree):
        if not is_import(node):
            continue
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        ours = getattr(node, "level", 0) > 0 or any(_file_of(root, name) for name in names)
        if ours:
            _check_own_import(module, node, id(node) in top)
            module.own |= {alias.name: _file_of(root, node.module) for alias in node.names}
        elif id(node) in top:
            module.foreign |= {_bound(alias): _statement(node, alias) for alias in node.names}


def _file_of(root: Path, name: str) -> str | None:
    """The file of a module of ours, whether it is there or not; None for a module that is not ours."""
    package = name.partition(".")[0]
    if (root / package / "__init__.py").exists() or (root / f"{package}.py").exists():
        return f"{name.replace('.', '/')}.py"
    return None


def _check_own_import(module: Module, node: ast.Import | ast.ImportFrom, at_top: bool) -> None:
    plain = (
        isinstance(node, ast.ImportFrom)
        and node.level == 0
        and all(alias.name != "*" and alias.asname is None for alias in node.names)
    )
    if not plain or not at_top:
        raise UserError(
            f"{module.place_of(node)}: our own code is imported as `from package.module import name` at the top of a "
            f"file, got `{ast.unparse(node)}`{'' if at_top else ' further in'}"
        )


def _check_statements(module: Module) -> None:
    """Every unit binds something, but for the block of a command, and begins a line of its own."""
    previous = 0
    for node in module.tree.body:
        if node.lineno <= previous:
            raise UserError(f"{module.place_of(node)}: a statement must begin a line, got `{ast.unparse(node)[:60]}`")
        previous = node.end_lineno
    for unit in module.units:
        if not unit.binds and not is_main_block(unit.node):
            raise UserError(
                f"{module.place_of(unit.node)}: a module that can be bundled defines and does nothing else, got "
                f"`{ast.unparse(unit.node)[:60]}`"
            )


def _bound(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


def _statement(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
    """The import of this one name."""
    return ast.unparse(type(node)(**{**dict(ast.iter_fields(node)), "names": [alias]}))

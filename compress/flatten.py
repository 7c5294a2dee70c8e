"""Many files as one readable file: the needed definitions, in an order in which Python can run them.

Private names that meet in it are told apart by the name of their module; a public name that would mean two things is an
error.
"""

import ast
import builtins
import re
from collections import defaultdict
from pathlib import Path

from compress.excerpt import excerpt, module_docstring
from compress.link import Linked
from compress.modules import Module, read_module
from compress.shake import is_bare_string
from runtime.errors import UserError


def flatten(
    root: Path,  # of the repository
    file: str,  # of the entry, which ends in an `if __name__ == "__main__":`
    source: str | None = None,  # None: what the entry's file holds
) -> tuple[str, list[str]]:
    """The flat source, comments and docstrings kept, and the files that it comes from, in its order.

    Raises UserError for a file that breaks a rule of `compress.modules`, for imports that go in a circle, and for a
    name that would mean two things.
    """
    linked = Linked(root, read_module(root, file, source))
    modules = linked.in_order()
    imports = {module: _foreign(linked, module) for module in modules}
    renamed = _told_apart(linked, modules, imports)
    parts = ["\n".join(import_lines({line for found in imports.values() for line in found.values()}))]
    for module in modules:
        text = excerpt(module, linked.needed, linked.gone(module))
        for old, new in renamed[module].items():
            text = re.sub(rf"(?<![\w.]){old}\b", new, text)
        parts.append("\n\n".join(filter(None, [f"# {module.file}", module_docstring(module), text])))
    return "\n\n\n".join(parts) + "\n", [module.file for module in modules]


def import_lines(statements: set[str]) -> list[str]:
    """Import statements of one name each in as few lines, in a fixed order.

    >>> import_lines({"from b import y", "import a", "from b import x"})
    ['import a', 'from b import x, y']
    """
    plain, names = [], defaultdict(list)
    for statement in sorted(statements):
        package, _, name = statement.removeprefix("from ").partition(" import ")
        if name:
            names[package].append(name)
        else:
            plain.append(statement)
    # Python wants what is of the future first.
    future = [f"from __future__ import {', '.join(names.pop('__future__'))}"] if "__future__" in names else []
    return [*future, *plain, *(f"from {package} import {', '.join(found)}" for package, found in names.items())]


def _foreign(linked: Linked, module: Module) -> dict[str, str]:
    """Name -> statement of the imports from elsewhere that the needed parts of a module use."""
    mentioned = linked.mentions(module)
    return {
        name: statement
        for name, statement in module.foreign.items()
        if name in mentioned or statement.startswith("from __future__ ")
    }


def _told_apart(
    linked: Linked,
    modules: list[Module],
    imports: dict[Module, dict[str, str]],
) -> dict[Module, dict[str, str]]:
    """Old -> new private names by module. Raises UserError for a name that cannot be told apart."""
    meanings: dict[str, str] = {}
    renamed: dict[Module, dict[str, str]] = {}
    for module in modules:
        own = {name: f"{module.file} line {unit.node.lineno}" for unit in linked.units(module) for name in unit.binds}
        renamed[module] = {}
        for name, meaning in {**imports[module], **own}.items():
            known = meanings.setdefault(name, "a builtin" if name in own and hasattr(builtins, name) else meaning)
            if known == meaning:
                continue
            if not name.startswith("_") or name not in own or _stands_in_strings(module, name):
                raise UserError(f"{name} would mean two things in one file: {known}, and {meaning}")
            renamed[module][name] = f"{name}_{Path(module.file).stem}"
    return renamed


def _stands_in_strings(module: Module, name: str) -> bool:
    """Whether a string (no docstring), an argument or a keyword of the module has the name: then it must stay."""
    nodes = list(ast.walk(module.tree))
    docstrings = {node.value for node in nodes if is_bare_string(node)}
    texts = (
        node.value if isinstance(node, ast.Constant) else getattr(node, "arg", None)
        for node in nodes
        if node not in docstrings
    )
    return any(isinstance(text, str) and re.search(rf"\b{name}\b", text) for text in texts)

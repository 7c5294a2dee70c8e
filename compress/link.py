"""Names across files: which definitions an entry reaches, and an order in which Python can run them.

A name is looked up in its own module, then in the module that it is imported from, so only what is used is ever opened.
What the entry itself defines takes the place of the same public name elsewhere: so a counted file does without what
only the repository can do.
"""

from pathlib import Path

from compress.modules import Module, read_module
from compress.shake import Unit, is_main_block, reached
from runtime.errors import UserError


class Linked:
    """Every unit that the `if __name__ == "__main__":` of the entry needs, and the module in which it stands."""

    def __init__(self, root: Path, entry: Module) -> None:
        """Reads what is needed. Raises UserError as `read_module` does, and for an import of what is not there."""
        self._root, self._entry = root, entry
        self._opened = {entry.file: entry}
        self._homes: dict[Unit, Module] = dict.fromkeys(entry.units, entry)
        self._in_place = {name for unit in entry.units for name in unit.binds if not name.startswith("_")}
        roots = [unit for unit in entry.units if is_main_block(unit.node)]
        self.needed = reached(roots, lambda unit, name: self._find(self._homes[unit], name))

    def units(self, module: Module) -> list[Unit]:
        """The needed units of a module, its methods apart."""
        return [unit for unit in module.units if unit in self.needed]

    def mentions(self, module: Module) -> set[str]:
        """Every name that the needed units of a module look up, in code or in annotations."""
        parts = (part for unit in self.units(module) for part in (unit, *unit.methods) if part in self.needed)
        return set().union(*(part.uses | part.hints for part in parts))

    def gone(self, module: Module) -> set[str]:
        """The classes that the module names in annotations and that nothing needs."""
        found = {name: self._find(module, name) for name in self.mentions(module)}
        return {name for name, units in found.items() if any(u.is_class and u not in self.needed for u in units)}

    def in_order(self) -> list[Module]:
        """The modules that are needed, each after those whose names it imports. Raises UserError for a circle."""
        order: list[Module] = []
        self._add_after_origins(self._entry, [], order)
        return order

    def _add_after_origins(self, module: Module, way: list[Module], order: list[Module]) -> None:
        if module in way:
            circle = " -> ".join(other.file for other in [*way[way.index(module) :], module])
            raise UserError(f"imports must not go in a circle, got {circle}")
        mentioned = self.mentions(module)
        for name, file in module.own.items():
            origin = self._opened.get(file)
            if name in mentioned - self._in_place and origin not in (None, *order) and self.units(origin):
                self._add_after_origins(origin, [*way, module], order)
        order.append(module)

    def _find(self, module: Module, name: str) -> list[Unit]:
        """The units that bind a name used in a module; none for what is foreign, built in or local."""
        if name in self._in_place and (name in module.own or module.binding(name)):
            return self._entry.binding(name)
        if name not in module.own:
            return module.binding(name)
        found = self._open(module.own[name]).binding(name)
        if not found:
            raise UserError(f"{module.file} imports {name} from {module.own[name]}, which does not define it")
        return found

    def _open(self, file: str) -> Module:
        if file not in self._opened:
            module = self._opened[file] = read_module(self._root, file)
            self._homes |= dict.fromkeys(module.units, module)
        return self._opened[file]

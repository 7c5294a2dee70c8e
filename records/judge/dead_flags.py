"""Flags that promise what the code does not do: read nowhere, folded away, collected and never loaded."""

import ast
import re
from collections.abc import Iterator

from records.judge.finding import Finding
from records.judge.flow import FlowIndex
from records.judge.record import JudgedRecord
from records.judge.rules import found
from records.judge.source import SourceUnit, dotted_name, last_name, nodes_of, own_nodes, target_names, words_of

_AVERAGE = re.compile(
    r"^(swa|ema|lawa|avg|averag)\w*(state|sum|params?|weights?|dict|model|shadow)?$|_(swa|ema|avg)$", re.IGNORECASE
)
_QAT = re.compile(r"qat|quant|fake_?q", re.IGNORECASE)
_UPDATES = {"mul_", "add_", "lerp_", "copy_", "sub_", "div_", "zero_", "append", "update", "clone", "detach", "items"}


def judge_flags(record: JudgedRecord, flows: FlowIndex) -> Iterator[Finding]:
    """Settings that are read from outside and never again."""
    words = {word for unit in record.units for word in _loads(unit)}
    texts = {node.value for unit in record.units for node in unit.strings}
    for unit in record.units:
        unread = [
            (name, node)
            for name, node in _settings(unit)
            if name not in words and name not in texts and not name.startswith("_")
        ]
        if unread:
            names = ", ".join(name for name, _ in unread[:8])
            said = f"{names} {'is' if len(unread) == 1 else 'are'} read from outside and used nowhere"
            why = "settings may be listed by vars() for the log alone"
            yield found("flag-unread", said, unit.at(unread[0][1]), None, "high", why)


def judge_late_qat(record: JudgedRecord, flows: FlowIndex) -> Iterator[Finding]:
    """A class attribute that compiled code read when it was traced, flipped later."""
    for unit in record.units:
        compiled = [call for name, call in unit.calls if name.endswith("compile") and name.startswith("torch")]
        for owner, name, flips in _class_flags(unit):
            if not _QAT.search(name) or not _is_read(owner, name):
                continue
            shadow = _shadow(owner, name)
            if flips and shadow:
                said = f"{owner.name}.{name} is flipped, but every instance has a {name} of its own from line {shadow}"
                yield found("late-qat-folded", said, unit.at(flips[0]), None, "high", "the flag was followed by name")
            elif flips and compiled and not _recompiles(unit, flips[0]):
                said = f"{owner.name}.{name} is flipped after torch.compile may have folded it in"
                yield found("late-qat-folded", said, unit.at(flips[0]), None, "medium", "a guard may recompile")
            elif not flips and not shadow and not _given_from_outside(owner, name):
                said = f"{owner.name}.{name} is read in forward and never switched on"
                yield found("late-qat-folded", said, unit.at(owner), None, "medium", "it may be set by name")


def judge_averages(record: JudgedRecord, flows: FlowIndex) -> Iterator[Finding]:
    """Averages of weights that are collected and never loaded."""
    for unit in record.units:
        for function in unit.functions:
            nodes = list(own_nodes(function))
            updated = {name for node in nodes for name in _updated_average(node)}
            for name in sorted(updated):
                if name in _parameters_and_globals(function, nodes) or _is_used(nodes, name):
                    continue
                line = next(node for node in nodes if isinstance(node, ast.Name) and node.id == name)
                said = f"{name} is collected in {function.name} and never loaded"
                yield found(
                    "average-unused", said, unit.at(line), None, "high", "the name was followed in its function"
                )


def judge_temperature(record: JudgedRecord, flows: FlowIndex) -> Iterator[Finding]:
    """A temperature that is taken and never used."""
    for unit in record.units:
        for function in unit.functions:
            names = [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]
            for name in filter(re.compile(r"^(eval_|logit_)?temp(erature)?$").match, names):
                if not _loaded(function, name) and not _is_stub(function):
                    yield found(
                        "temperature-unused", f"{function.name} takes {name} and never uses it", unit.at(function)
                    )


def _loads(unit: SourceUnit) -> Iterator[str]:
    for node in unit.nodes:
        if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load):
            yield node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg


def _settings(unit: SourceUnit) -> Iterator[tuple[str, ast.AST]]:
    """Names in a class or module that are given what the environment or the command line says."""
    bodies = [unit.tree, *(node for node in unit.nodes if isinstance(node, ast.ClassDef))]
    for body in bodies:
        for node in body.body:
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value and _from_outside(node.value):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    yield from ((name, node) for name in target_names(target))


def _from_outside(value: ast.AST) -> bool:
    return bool(words_of(value) & {"environ", "getenv", "argv"})


def _class_flags(unit: SourceUnit) -> Iterator[tuple[ast.ClassDef, str, list[ast.AST]]]:
    """Class attributes that are False or True, and where they are flipped from outside."""
    assigned: dict[str, list[ast.AST]] = {}
    for node in unit.nodes:
        if isinstance(node, ast.Assign):
            assigned.setdefault(dotted_name(node.targets[0]), []).append(node)
    for owner in (node for node in unit.nodes if isinstance(node, ast.ClassDef)):
        for node in owner.body:
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            value = getattr(node, "value", None)
            if isinstance(target, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, bool):
                flips = assigned.get(f"{owner.name}.{target.id}", [])
                yield owner, target.id, sorted(flips, key=lambda flip: flip.lineno)


def _is_read(owner: ast.ClassDef, name: str) -> bool:
    return any(
        isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Load)
        for node in nodes_of(owner)
    )


def _shadow(owner: ast.ClassDef, name: str) -> int | None:
    """The line that gives every instance an attribute of this name."""
    for node in nodes_of(owner):
        if isinstance(node, ast.Assign) and dotted_name(node.targets[0]) == f"self.{name}":
            return node.lineno
    return None


def _recompiles(unit: SourceUnit, flip: ast.AST) -> bool:
    """Whether the lines after the flip compile again or reset the compiler."""
    after = [name for name, call in unit.calls if 0 <= call.lineno - flip.lineno <= 12]
    return any(name.endswith(("compile", "_dynamo.reset", "reset")) for name in after)


def _given_from_outside(owner: ast.ClassDef, name: str) -> bool:
    """A dataclass field of that name is a setting."""
    return any(words_of(decorator) & {"dataclass", "dataclasses"} for decorator in owner.decorator_list)


def _is_average(name: str) -> bool:
    """swa_state and ema, but not swa_count and ema_decay."""
    return bool(_AVERAGE.match(name)) and not re.search(r"count|decay|start|every|steps?$|enabled|_n$|num", name)


def _updated_average(node: ast.AST) -> Iterator[str]:
    """The average that a statement adds to."""
    if isinstance(node, ast.AugAssign):
        yield from filter(_is_average, target_names(node.target) | _base_names(node.target))
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in _UPDATES - {"items", "clone", "detach"}
    ):
        yield from filter(_is_average, _base_names(node.func.value))


def _base_names(node: ast.AST) -> set[str]:
    """`ema` of ema[name] and of ema[name].mul_(d)."""
    while isinstance(node, (ast.Subscript, ast.Call, ast.Attribute)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def _parameters_and_globals(function: ast.AST, nodes: list[ast.AST]) -> set[str]:
    names = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
    return names | {name for node in nodes if isinstance(node, (ast.Global, ast.Nonlocal)) for name in node.names}


def _is_used(nodes: list[ast.AST], name: str) -> bool:
    """Whether an average flows into anything but itself: a call, a return, another name."""
    for node in nodes:
        if isinstance(node, ast.Call):
            given = (*node.args, *(word.value for word in node.keywords))
            told = last_name(node.func) in ("len", "print", "log") or name in _base_names(node.func)
            used = not told and any(name in words_of(part) for part in given)
        elif isinstance(node, (ast.Return, ast.Yield)):
            used = node.value is not None and name in words_of(node.value)
        elif isinstance(node, ast.Assign):
            own = all(name in _base_names(target) | target_names(target) for target in node.targets)
            used = name in words_of(node.value) and not own
        else:
            used = False
        if used:
            return True
    return False


def _loaded(function: ast.AST, name: str) -> bool:
    return any(
        isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load) for node in nodes_of(function)
    )


def _is_stub(function: ast.AST) -> bool:
    """An abstract method, an overload: nothing is in it."""
    return all(isinstance(node, (ast.Pass, ast.Expr, ast.Raise)) for node in function.body)

"""Where validation text flows in a script: which variables hold it, which functions train on it, in what order.

Names are all that a reader without a model has: a variable holds validation text when it is called so, or when it was
made from one that does. Calls that only measure (eval_..., score_...) end the flow; sizes and shapes are no text.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from records.judge.source import FunctionNode, SourceUnit, bindings, dotted_name, last_name, own_nodes, words_of
from records.judge.validation_names import VALIDATION_NAME, contents_of

_COMMON_METHODS = {"forward", "__call__", "__init__", "step", "get", "update", "append", "add", "run", "main"}
_ROUNDS = 3


@dataclass(eq=False)
class FunctionFlow:
    """A function (or a module's top level) and the names in it that hold validation text, and losses on it."""

    unit: SourceUnit
    node: ast.AST
    given: set[str] = field(default_factory=set)  # parameters that callers give validation text
    held: set[str] = field(default_factory=set)
    losses: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The function's name, "" for the top level."""
        return getattr(self.node, "name", "")

    def holds(self, node: ast.AST) -> bool:
        """Whether an expression holds validation text, or what was made of it."""
        contents = contents_of(node)
        return contents.validation or not self.held.isdisjoint(contents.names)

    def holds_here(self, node: ast.AST) -> bool:
        """As `holds`, but by what each name was bound to last before the line of `node`."""
        waiting, seen = [(node, node.lineno)], set()
        while waiting:
            expression, line = waiting.pop()
            contents = contents_of(expression)
            if contents.validation:
                return True
            for name in {name for name in contents.names & self.held if (name, line) not in seen}:
                seen.add((name, line))
                made = [value for names, value, _ in bindings(self.node) if name in names and value is not expression]
                earlier = [value for value in made if value.lineno <= line]
                if not made:
                    return True
                waiting.append(((earlier or made)[-1], (earlier or made)[-1].lineno))
        return False

    def is_loss(self, node: ast.AST) -> bool:
        """Whether an expression is a loss (or a score, or logits) on validation text."""
        contents = contents_of(node)
        return not self.losses.isdisjoint(contents.names) or any(map(self.takes, contents.losses))

    def takes(self, call: ast.Call) -> bool:
        """Whether a call is given validation text."""
        return any(self.holds(part) for part in (*call.args, *(word.value for word in call.keywords)))

    def follow(self) -> None:
        """Fills `held` and `losses` from what the function is given and what it binds."""
        self.held |= self.given | {name for name in parameters(self.node) if VALIDATION_NAME.match(name)}
        for _ in range(2):
            for names, value, _ in bindings(self.node):
                if self.holds(value):
                    self.held |= names
                if self.is_loss(value):
                    self.losses |= names


class FlowIndex:
    """The flows of all functions of a record, calls between them followed."""

    def __init__(self, units: list[SourceUnit]):
        self.flows = [FunctionFlow(unit, node) for unit in units for node in (unit.tree, *unit.functions)]
        self.by_name: dict[str, list[FunctionFlow]] = {}
        for flow in self.flows:
            self.by_name.setdefault(flow.name, []).append(flow)
        for _ in range(_ROUNDS):
            if not self._follow_once():
                break
        self.trainers = self._trainers()

    def callees(self, call: ast.Call) -> list[FunctionFlow]:
        """The functions that a call may mean, by name."""
        name = last_name(call.func)
        found = [] if name in _COMMON_METHODS or not name else self.by_name.get(name, [])
        return found if len(found) <= 3 else []

    def trains(self, call: ast.Call, flow: FunctionFlow) -> bool:
        """Whether a call hands validation text to a function that trains on it."""
        return any(id(callee) in self.trainers for callee in self.callees(call)) and flow.takes(call)

    def _follow_once(self) -> bool:
        """Follows every function, hands what it passes on to the functions it calls; whether anything is new."""
        new = False
        for flow in self.flows:
            flow.follow()
            for node in own_nodes(flow.node):
                for callee in self.callees(node) if isinstance(node, ast.Call) else ():
                    new |= self._hand(flow, node, callee)
        return new

    def _hand(self, flow: FunctionFlow, call: ast.Call, callee: FunctionFlow) -> bool:
        names = parameters(callee.node)
        if names[:1] in (["self"], ["cls"]):
            names = names[1:]
        pairs = [*zip(names, call.args, strict=False), *((word.arg, word.value) for word in call.keywords if word.arg)]
        given = {name for name, value in pairs if flow.holds(value)} - callee.given
        callee.given |= given
        return bool(given)

    def _trainers(self) -> set[int]:
        """The functions that take optimiser steps on validation text, themselves or through others."""
        found = {id(flow) for flow in self.flows if backwards(flow) and {"step", "grad"} & words_of(flow.node)}
        for _ in range(_ROUNDS):
            more = {
                id(flow)
                for flow in self.flows
                if id(flow) not in found
                and any(
                    isinstance(node, ast.Call) and self._passes_to(flow, node, found) for node in own_nodes(flow.node)
                )
            }
            if not more:
                break
            found |= more
        return found

    def _passes_to(self, flow: FunctionFlow, call: ast.Call, trainers: set[int]) -> bool:
        return any(id(callee) in trainers for callee in self.callees(call)) and flow.takes(call)


def parameters(node: ast.AST) -> list[str]:
    """The parameters of a function in order, none for a module."""
    if not isinstance(node, FunctionNode):
        return []
    arguments = node.args
    return [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def backwards(flow: FunctionFlow) -> list[ast.Call]:
    """The calls of a function that take gradients of a loss on validation text."""
    found = []
    for node in own_nodes(flow.node):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            source = node.func.value if name == "backward" else node.args[0] if name == "grad" and node.args else None
            if source is not None and flow.holds(source) and flow.holds_here(source):
                found.append(node)
    return sorted(found, key=lambda call: call.lineno)


def steps(node: ast.AST) -> Iterator[ast.Call]:
    """The optimiser steps in `node`: calls of .step() that are no schedule's."""
    for part in own_nodes(node):
        is_step = isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr == "step"
        if is_step and not re.search(r"sched|prof", dotted_name(part.func), re.IGNORECASE):
            yield part

"""A script as trees: every text that runs, the payloads of packed scripts among them, and what the rules ask of it."""

import ast
import io
import tokenize
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from records.judge.format_strings import without_format_strings

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, eq=False)
class SourceUnit:
    """One text of Python: a file, or the payload of one ("train_gpt.py#1" is the first that it unpacks)."""

    place: str
    text: str
    tree: ast.Module
    approximate: bool = False  # parsed only after its f-strings were taken out

    def at(self, node: ast.AST) -> str:
        """Where `node` stands, as evidence."""
        return f"{self.place}:{getattr(node, 'lineno', 1)}"

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """Every node, in no particular order."""
        return nodes_of(self.tree)

    @cached_property
    def functions(self) -> tuple[FunctionNode, ...]:
        """Every function and method, inner ones included."""
        return tuple(node for node in self.nodes if isinstance(node, FunctionNode))

    @cached_property
    def calls(self) -> tuple[tuple[str, ast.Call], ...]:
        """Every call with the dotted name of what is called."""
        return tuple((dotted_name(node.func), node) for node in self.nodes if isinstance(node, ast.Call))

    @cached_property
    def words(self) -> frozenset[str]:
        """Every name, attribute, argument and keyword of the text."""
        return words_of(self.tree)

    @cached_property
    def strings(self) -> tuple[ast.Constant, ...]:
        """Every string literal that is no docstring."""
        prose = {id(node.value) for node in self.nodes if isinstance(node, ast.Expr)}
        texts = (node for node in self.nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
        return tuple(node for node in texts if id(node) not in prose)


def parse_source(text: str, place: str) -> SourceUnit:
    """`text` as a tree. Raises SyntaxError with the line for whatever Python cannot parse, hostile texts included."""
    try:
        return SourceUnit(place, text, tree_of(text))
    except SyntaxError as error:
        try:
            return SourceUnit(place, text, tree_of(without_format_strings(text)), approximate=True)
        except SyntaxError:
            raise error from None


def python_text(data: bytes) -> str:
    """The text of a script in the encoding that its first lines declare, whatever bytes it holds.

    >>> python_text(bytes([35, 99, 111, 100, 105, 110, 103, 58, 108, 97, 116, 105, 110, 49, 10, 233]))[-1]
    'é'
    """
    try:
        encoding = tokenize.detect_encoding(io.BytesIO(data).readline)[0]
        text = data.decode(encoding, errors="replace")
    except (SyntaxError, LookupError):
        text = data.decode("utf-8-sig", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def tree_of(text: str) -> ast.Module:
    """`text` parsed. Raises SyntaxError for whatever cannot be; what Python warns of is nobody's business here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (ValueError, RecursionError, MemoryError) as error:
        raise SyntaxError(f"{type(error).__name__}: {error}") from error


def dotted_name(node: ast.AST) -> str:
    """`a.b.c` of names and attributes; what is no name is left out: `f(x).step` is "step"."""
    if isinstance(node, ast.Attribute):
        return f"{dotted_name(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def last_name(node: ast.AST) -> str:
    """The last part of a dotted name.

    >>> last_name(ast.parse("self.optimizer.step", mode="eval").body)
    'step'
    """
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def words_of(node: ast.AST) -> frozenset[str]:
    """Every name and attribute in `node`."""

    def written() -> Iterator[str]:
        fields = ((child, _WORD_FIELDS.get(type(child))) for child in nodes_of(node))
        words = (getattr(child, field) for child, field in fields if field)
        return (word for word in words if word)

    return _remembered(node, "words", written)


def names_of(node: ast.AST) -> frozenset[str]:
    """Every plain variable that is read in `node`."""

    def read() -> Iterator[str]:
        names = (child for child in nodes_of(node) if isinstance(child, ast.Name))
        return (name.id for name in names if isinstance(name.ctx, ast.Load))

    return _remembered(node, "names", read)


def children_of(node: ast.AST) -> tuple[ast.AST, ...]:
    """The nodes directly below `node`, without the marks of operators and contexts; kept on it."""
    held = node.__dict__.get(_CHILDREN)
    if held is None:
        children = (child for child in ast.iter_child_nodes(node) if not isinstance(child, _MARKS))
        held = node.__dict__[_CHILDREN] = tuple(children)
    return held


def nodes_of(node: ast.AST) -> tuple[ast.AST, ...]:
    """`node` and every node below it, breadth first as ast.walk gives them."""
    found = [node]
    for part in found:
        found.extend(children_of(part))
    return tuple(found)


def own_nodes(function: ast.AST) -> tuple[ast.AST, ...]:
    """The nodes of a function without those of the functions inside it."""
    if not hasattr(function, _OWN):
        found, waiting = [], list(children_of(function))
        while waiting:
            node = waiting.pop()
            found.append(node)
            if not isinstance(node, _CLOSED):
                waiting.extend(children_of(node))
        setattr(function, _OWN, tuple(found))
    return getattr(function, _OWN)


def target_names(node: ast.AST) -> set[str]:
    """The plain names that an assignment's target binds."""
    if isinstance(node, (ast.Tuple, ast.List)):
        return {name for element in node.elts for name in target_names(element)}
    return (
        target_names(node.value)
        if isinstance(node, ast.Starred)
        else {node.id}
        if isinstance(node, ast.Name)
        else set()
    )


def bindings(function: ast.AST) -> tuple[tuple[set[str], ast.AST, ast.AST], ...]:
    """Names, value and statement of every assignment and loop in a function, in the order of the text."""
    if not hasattr(function, _BOUND):
        found = [entry for node in own_nodes(function) for entry in _bound_by(node)]
        found.sort(key=lambda entry: getattr(entry[2], "lineno", getattr(entry[1], "lineno", 0)))
        setattr(function, _BOUND, tuple(found))
    return getattr(function, _BOUND)


def _bound_by(node: ast.AST) -> list[tuple[set[str], ast.AST, ast.AST]]:
    if isinstance(node, ast.Assign):
        return [(target_names(target), node.value, node) for target in node.targets]
    if isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)) and node.value:
        return [(target_names(node.target), node.value, node)]
    if isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
        return [(target_names(node.target), node.iter, node)]
    return []


def _remembered(node: ast.AST, kind: str, make: Callable[[], Iterable[str]]) -> frozenset[str]:
    """A set of words about `node`, made once and kept on it: rules ask the same of a large tree many times."""
    place = f"judge_{kind}"
    if not hasattr(node, place):
        setattr(node, place, frozenset(make()))
    return getattr(node, place)


# Attributes of tree nodes that keep what was worked out about them.
_CHILDREN, _OWN, _BOUND = "judge_children", "judge_own_nodes", "judge_bindings"
_MARKS = (ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop)
_WORD_FIELDS = {ast.Name: "id", ast.Attribute: "attr", ast.arg: "arg", ast.keyword: "arg", ast.alias: "name"}
_WORD_FIELDS |= {ast.FunctionDef: "name", ast.AsyncFunctionDef: "name", ast.ClassDef: "name"}
_CLOSED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)

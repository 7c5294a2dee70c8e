"""Methods and private attributes of our own classes under short names; python-minifier leaves every attribute alone.

A name is shortened everywhere in the file or nowhere. It stays as it is where somebody else may know it: single words
(all of them together would save int5_int6 21 bytes), fields of dataclasses (overrides, JSON), what a class with bases
assigns to itself (the names of a model's tensors), what stands in a string, is given by keyword, or is an attribute of
anything that Python, torch or numpy have.
"""

import ast
import builtins
import io
import itertools
import keyword
import string
from collections import Counter
from collections.abc import Iterator

import numpy
import sentencepiece
import torch

from compress.shake import Function

_FOREIGN = (
    *(value for value in vars(builtins).values() if isinstance(value, type)),
    *(io.BufferedReader, io.TextIOWrapper, numpy, numpy.ndarray, sentencepiece.SentencePieceProcessor),
    *(torch, torch.Tensor, torch.nn, torch.nn.Module(), torch.nn.functional, torch.optim.SGD([torch.zeros(1)])),
    *(torch.autograd.Function, torch.cuda, torch.distributed, torch.linalg, torch.library),
)


def shorten_attributes(tree: ast.Module, kept: set[str]) -> None:
    """Renames what is ours in the whole tree, the most frequent shortest; `kept` are names not to touch.

    >>> tree = ast.parse("class A:\\n def total_of(self, x): return self.half_of(x)\\n def half_of(self, x): return x")
    >>> shorten_attributes(tree, kept=set())
    >>> print(ast.unparse(tree).replace("\\n\\n", "\\n"))
    class A:
        def b(self, x):
            return self.a(x)
        def a(self, x):
            return x
    """
    nodes = list(ast.walk(tree))
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    methods = [entry for owner in classes for entry in owner.body if isinstance(entry, Function)]
    used = Counter(node.attr for node in nodes if isinstance(node, ast.Attribute))
    ours = {entry.name for entry in methods} | set().union(*map(_private, classes))
    ours = {name for name in ours if "_" in name and not name.startswith("__")}
    free = sorted(ours - kept - _known_elsewhere(nodes, classes), key=lambda name: (-used[name], name))
    shorter = dict(zip(free, (name for name in _short_names() if name not in used), strict=False))
    for node in nodes:
        if isinstance(node, ast.Attribute):
            node.attr = shorter.get(node.attr, node.attr)
    for entry in methods:
        entry.name = shorter.get(entry.name, entry.name)


def _known_elsewhere(nodes: list[ast.AST], classes: list[ast.ClassDef]) -> set[str]:
    """The names that must stay."""
    known = {name for thing in _FOREIGN for name in dir(thing)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            known.add(node.value)
        elif isinstance(node, ast.keyword | ast.alias):
            known |= {node.arg} if isinstance(node, ast.keyword) else {node.name, node.asname}
    for owner in classes:
        # Fields, and other names of the class itself.
        entries = (
            target
            for entry in owner.body
            for target in ast.walk(entry)
            if isinstance(entry, ast.AnnAssign | ast.Assign)
        )
        known |= {target.id for target in entries if isinstance(target, ast.Name)}
        known |= _assigned(owner) if owner.bases else set()
    return known


def _private(owner: ast.ClassDef) -> set[str]:
    return {name for name in _assigned(owner) if name.startswith("_")}


def _assigned(owner: ast.ClassDef) -> set[str]:
    """What the methods of a class assign to attributes."""
    return {
        node.attr for node in ast.walk(owner) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }


def _short_names() -> Iterator[str]:
    """a, b, ... z, aa, ab, ..."""
    for length in itertools.count(1):
        names = map("".join, itertools.product(string.ascii_lowercase, repeat=length))
        yield from (name for name in names if not keyword.iskeyword(name))

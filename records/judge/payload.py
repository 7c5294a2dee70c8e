"""Packed scripts unwrapped by reading them: exec of LZMA, zlib, bz2, brotli and base85 payloads, one inside another.

Nothing is executed; see constants.py for what is understood. A payload that stays closed is a finding of its own.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass, field

from records.judge.constants import ConstantReader, OpaqueError, assigned_names, imported_names
from records.judge.source import SourceUnit, parse_source, python_text, tree_of, words_of

MAX_LAYERS = 5
MAX_PAYLOADS = 20
# A script of the competition has 200,000 characters; a million take some seconds.
MAX_CHARACTERS = 1_000_000
_EXECUTORS = {"exec", "eval", "builtins.exec", "builtins.eval"}


@dataclass
class Unwrapping:
    """What a script turned out to hold."""

    units: list[SourceUnit] = field(default_factory=list)  # the script itself first
    opened: list[str] = field(default_factory=list)  # files beside it whose contents it runs
    opaque: list[tuple[str, str]] = field(default_factory=list)  # where a payload stays closed, and why
    broken: list[tuple[str, str]] = field(default_factory=list)  # what does not parse, and why


def unwrap(
    data: bytes,  # of the script
    name: str,
    files: Callable[[str], bytes | None],  # the bytes of a file beside the script
) -> Unwrapping:
    """A script and everything it executes, as trees."""
    found = Unwrapping()
    beside = {"__file__": data}
    _unwrap(python_text(data), name, lambda wanted: beside.get(wanted) or files(wanted), found, layer=0)
    return found


def _unwrap(text: str, place: str, files: Callable, found: Unwrapping, layer: int) -> None:
    if sum(len(unit.text) for unit in found.units) + len(text) > MAX_CHARACTERS:
        found.opaque.append((f"{place}:1", f"more than {MAX_CHARACTERS:,} characters of code; not read"))
        return
    try:
        unit = parse_source(text, place)
    except SyntaxError as error:
        found.broken.append((f"{place}:{error.lineno or 1}", str(error.msg)))
        return
    found.units.append(unit)
    reader = ConstantReader(dict(assigned_names(unit.tree)), imported_names(unit.tree), files)
    seen = {held.text for held in found.units}
    for node, executed in _payload_expressions(unit, reader):
        payload = _read(unit, node, executed, reader, found)
        if payload is None or payload in seen or not (executed or _is_code(payload)):
            continue
        found.opened += [name for name in dict.fromkeys(reader.opened) if name not in found.opened]
        if len(found.units) < MAX_PAYLOADS:
            if layer + 1 >= MAX_LAYERS:
                found.opaque.append((unit.at(node), f"more than {MAX_LAYERS} payloads inside each other"))
            else:
                seen.add(payload)
                _unwrap(payload, f"{place.partition('#')[0]}#{len(found.units)}", files, found, layer + 1)


def _payload_expressions(unit: SourceUnit, reader: ConstantReader) -> list[tuple[ast.AST, bool]]:
    """What is executed (True), and what is unpacked and may be code that runs in another way (False)."""
    found = []
    for name, call in unit.calls:
        if name in _EXECUTORS and call.args:
            found.append((call.args[0], True))
        elif reader.dotted(call.func).endswith(".decompress") and call.args:
            found.append((call, False))
    return sorted(found, key=lambda entry: (not entry[1], entry[0].lineno))


def _read(unit: SourceUnit, node: ast.AST, executed: bool, reader: ConstantReader, found: Unwrapping) -> str | None:
    """The text that `node` stands for; None when it is closed, or no text."""
    reader.opened.clear()
    try:
        value = reader.value(node)
        text = value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        text = None
    except OpaqueError as error:
        if executed and _is_packed(node, reader):
            found.opaque.append((unit.at(node), str(error)))
        return None
    return text if isinstance(text, str) else None


def _is_packed(node: ast.AST, reader: ConstantReader) -> bool:
    """Whether an expression, the names it is made of included, decodes something."""
    words = words_of(node)
    for name in list(words):
        words |= words_of(reader.names[name]) if name in reader.names else set()
    return any(word.endswith(("decode", "decompress", "loads", "unhexlify", "fromhex")) for word in words)


def _is_code(text: str) -> bool:
    try:
        tree = tree_of(text)
    except SyntaxError:
        return False
    return sum(isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)) for node in tree.body) > 1


def executed_files(unit: SourceUnit) -> list[tuple[ast.Call, str]]:
    """Calls that run another file: exec of open(...), runpy, imports by path, native libraries."""
    found = []
    for name, call in unit.calls:
        if name in _EXECUTORS and call.args and words_of(call.args[0]) & {"open", "read_text", "read_bytes"}:
            if "__file__" not in words_of(call.args[0]) or "with_name" in words_of(call.args[0]):
                found.append((call, "exec of a file"))
        elif name.startswith("runpy.run_") or name.endswith(("SourceFileLoader", "spec_from_file_location")):
            found.append((call, name))
        elif name.endswith(("CDLL", "cpp_extension.load", "LoadLibrary")) and not _is_of_the_system(call):
            found.append((call, f"native code through {name}"))
    return found


def _is_of_the_system(call: ast.Call) -> bool:
    """CDLL(None) and CDLL("libc.so.6") are what every machine has."""
    library = call.args[0] if call.args else None
    if isinstance(library, ast.Call):
        return "find_library" in words_of(library)
    return isinstance(library, ast.Constant) and (library.value is None or "libc.so" in str(library.value))

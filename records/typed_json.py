"""JSON from outside as typed values: whatever is wrong with it is told as file, field, rule and value."""

import json
import math
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from runtime.errors import UserError, nearest
from runtime.files import read_bytes

_T = TypeVar("_T")
_DATES = {"date": "a date like 2026-11-21", "datetime": "a time like 2026-11-21T23:27:08"}


def read_json(path: Path, what: str) -> Any:
    """The JSON value in `path`; `what` names it in the error. Raises UserError as `parse_json` does, or unreadable."""
    return parse_json(read_bytes(path, what), str(path))


def parse_json(
    data: bytes | str,
    source: str,  # what the error calls it: a path, or a path and a line
) -> Any:
    """The JSON value of `data`; raises UserError when it is no JSON, repeats a field or holds a number like NaN."""
    try:
        tree = json.loads(data, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} must be JSON: {error}") from error
    check_finite(tree, source)
    return tree


def typed(tree: Any, kind: type[_T], source: str) -> _T:
    """`tree` as the msgspec type `kind`; raises UserError naming the field, the rule and the value."""
    try:
        return msgspec.convert(tree, kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise UserError(f"{source}: {_explained(str(error), tree, kind)}") from error


def check_finite(
    tree: Any,  # of dictionaries, lists and numbers
    source: str,
    field: str = "",
) -> None:
    """Raises UserError for the first number that is not finite; JSON has no way to write one."""
    if isinstance(tree, float) and not math.isfinite(tree):
        raise UserError(f"{source}: {field.lstrip('.')} must be a finite number, got {tree}")
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, value in entries:
        check_finite(value, source, f"{field}.{name}")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{repeated} must stand there once, got it {names.count(repeated)} times")
    return fields


def _no_constant(word: str) -> float:
    raise UserError(f"numbers must be finite, got {word}")


def _explained(message: str, tree: Any, kind: type) -> str:
    """msgspec's message as field, rule and value.

    >>> _explained("Expected `int` >= 0 - at `$.bytes`", {"bytes": -3}, dict)
    'bytes must be int >= 0, got -3'
    """
    problem, _, place = message.partition(" - at ")
    path = (re.findall(r"`\$\.?([^`]*)`", place) or [""])[0]
    name = (re.findall(r"field `(.*)`", problem) or [""])[0]
    if problem.startswith("Object missing"):
        return f"{path}{'.' * bool(path)}{name} is missing"
    if problem.startswith("Object contains unknown"):
        known = _fields_at(kind, path)
        return f"{path}{'.' * bool(path)}{name} is no field of it; {nearest(name, known)}"
    rule = problem.removeprefix("Expected ").split(", got ")[0].replace("`", "")
    rule = _DATES.get(rule.removeprefix("Invalid RFC3339 encoded "), rule)
    if "[...]" in path or place.startswith("`key`"):
        return f"every {'key' if place.startswith('`key`') else 'value'} of {path.split('[')[0]} must be {rule}"
    return f"{path or 'the whole'} must be {rule}, got {_value_at(tree, path)!r}"


def _value_at(tree: Any, path: str) -> Any:
    for name, index in re.findall(r"([^.\[\]]+)(?=[.\[]|$)|\[(\d+)\]", path):
        tree = tree[int(index)] if index else tree[name]
    return tree


def _fields_at(kind: Any, path: str) -> list[str]:
    for name in filter(None, re.sub(r"\[.*?\]", "", path).split(".")):
        kind = next(entry.type for entry in msgspec.structs.fields(kind) if entry.name == name)
    return [entry.encode_name for entry in msgspec.structs.fields(kind)]

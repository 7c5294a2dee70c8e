"""`--train.steps 20 --model.dim 64`: changes of a recipe on the command line.

A path names a field of the nested dataclasses, a number an entry of a tuple. The value must have the field's declared
type; "none" is None. Both this and the counted single file use it, which is why it is forty lines of the standard
library and not a package.
"""

import dataclasses
import types
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from runtime.errors import UserError, nearest


def overridden(config: Any, arguments: Sequence[str]) -> Any:
    """`config` with every `--path value` (or `--path=value`) applied in order.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Train:
    ...     steps: int | None = 20
    >>> overridden(Train(), ["--steps", "30"]), overridden(Train(), ["--steps=none"])
    (Train(steps=30), Train(steps=None))
    """
    for path, text in _pairs(arguments):
        if path not in dict(leaves(config)):
            raise UserError(f"unknown override --{path}; {nearest(path, dict(leaves(config)))}")
        config = _replaced(config, path.split("."), text, path)
    return config


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every (path, value) of the config that an override can name, with its present value."""
    if dataclasses.is_dataclass(config):
        entries = [(entry.name, getattr(config, entry.name)) for entry in dataclasses.fields(config)]
    elif isinstance(config, tuple):
        entries = [(str(index), value) for index, value in enumerate(config)]
    else:
        yield prefix, config
        return
    for name, value in entries:
        yield from leaves(value, f"{prefix}.{name}" if prefix else name)


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise UserError(f"overrides are --path value, got {word!r}; for example --train.steps 20")
        path, equals, text = word[2:].partition("=")
        if not equals:
            if not rest:
                raise UserError(f"override --{path} needs a value; for example --train.steps 20")
            text = rest.pop(0)
        yield path, text


def _replaced(config: Any, path: list[str], text: str, whole: str) -> Any:
    head, *rest = path
    if isinstance(config, tuple):
        index = int(head)
        value = _replaced(config[index], rest, text, whole) if rest else _parsed(text, type(config[index]), whole)
        return (*config[:index], value, *config[index + 1 :])
    if rest:
        return dataclasses.replace(config, **{head: _replaced(getattr(config, head), rest, text, whole)})
    return dataclasses.replace(config, **{head: _parsed(text, get_type_hints(type(config))[head], whole)})


def _parsed(text: str, declared: Any, path: str) -> Any:
    """`text` as one of the declared types, the first that takes it."""
    options = get_args(declared) if get_origin(declared) in (Union, types.UnionType) else (declared,)
    for option in options:
        if option is type(None) and text.lower() == "none":
            return None
        if option is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if option is str or (get_origin(option) is Literal and text in get_args(option)):
            return text
        if option in (int, float):
            try:
                return option(text.replace("_", ""))
            except ValueError:
                continue
    kinds = " or ".join(
        "none" if option is type(None) else getattr(option, "__name__", str(option)) for option in options
    )
    raise UserError(f"--{path} must be {kinds}, got {text!r}")

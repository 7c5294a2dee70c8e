"""`--train.steps 20 --model.dim 64`: changes of a recipe on the command line.

A path names a field of the nested dataclasses, a number an entry of a tuple, `*` all of its entries; `.length` repeats
or cuts a tuple: `--model.layers.length 6 --model.layers.*.mlp.hidden 256`. A value must have the field's declared type;
"none" is None, also for a whole part (`--average none`); a type with `from_name` (a Grid) is given by name. It is the
standard library and not a package because the counted single file needs it, and because an error here is one line that
names the nearest path.
"""

import dataclasses
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from runtime.errors import UserError, nearest


def overridden(config: Any, arguments: Sequence[str]) -> Any:
    """`config` with every `--path value` (or `--path=value`) applied in order.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Train:
    ...     steps: int | None = 20
    ...     sizes: tuple[int, ...] = (1, 2)
    >>> overridden(Train(), ["--steps", "30"]), overridden(Train(), ["--steps=none"])
    (Train(steps=30, sizes=(1, 2)), Train(steps=None, sizes=(1, 2)))
    >>> overridden(Train(), ["--sizes.length", "3", "--sizes.1", "7"])
    Train(steps=20, sizes=(1, 7, 1))
    """
    for path, text in override_pairs(arguments):
        parts = path.split(".")
        if parts[-1] == "length" and isinstance(_value_at(config, parts[:-1]), tuple):
            config = _changed(config, parts[:-1], lambda entries, _: _resized(entries, text, path))  # noqa: B023
            continue
        # Only "none" can take the place of a whole part.
        depth = len(parts) if text.lower() == "none" else None
        known = {tuple(leaf.split(".")[:depth]) for leaf, _ in leaves(config)}
        fitting = [leaf for leaf in known if _fits(leaf, parts)]
        if not fitting:
            raise UserError(f"unknown override --{path}; {nearest(path, dict(leaves(config)))}")
        for leaf in fitting:
            config = _changed(config, leaf, lambda _, declared: _parsed(text, declared, path))  # noqa: B023
    return config


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every (path, value) of the config that an override can name, with its present value."""
    entries = _entries(config)
    if entries is None:
        yield prefix, config
        return
    for name, value in entries.items():
        yield from leaves(value, f"{prefix}.{name}" if prefix else name)


def _entries(config: Any) -> dict[str, Any] | None:
    """The parts of a dataclass or tuple by path segment; None for a leaf."""
    if dataclasses.is_dataclass(config) and not hasattr(config, "from_name"):
        return {entry.name: getattr(config, entry.name) for entry in dataclasses.fields(config)}
    return {str(index): value for index, value in enumerate(config)} if isinstance(config, tuple) else None


def _value_at(config: Any, path: list[str]) -> Any:
    for part in path:
        config = (_entries(config) or {}).get(part)
    return config


def _fits(leaf: tuple[str, ...], path: list[str]) -> bool:
    """Whether a path names a leaf, `*` standing for any one segment."""
    return len(leaf) == len(path) and all(part in (own, "*") for own, part in zip(leaf, path, strict=True))


def _resized(entries: tuple, text: str, path: str) -> tuple:
    """`entries` cut or repeated from the start to the length in `text`."""
    length = _parsed(text, int, path)
    if length < 1:
        raise UserError(f"--{path} must be at least 1, got {length}; nearest 1")
    return tuple(entries[index % len(entries)] for index in range(length))


def override_pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(path, text) of every override. Raises UserError for a word that is none, and for one without a value."""
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


def _changed(config: Any, path: Sequence[str], change: Callable[[Any, Any], Any], declared: Any = None) -> Any:
    """`config` with the value at `path` replaced by change(value, declared type)."""
    if not path:
        return change(config, declared)
    head, *rest = path
    if isinstance(config, tuple):
        index = int(head)
        return (*config[:index], _changed(config[index], rest, change, type(config[index])), *config[index + 1 :])
    declared = get_type_hints(type(config))[head]
    return dataclasses.replace(config, **{head: _changed(getattr(config, head), rest, change, declared)})


def _parsed(text: str, declared: Any, path: str) -> Any:
    """`text` as one of the declared types, the first that takes it."""
    options = get_args(declared) if get_origin(declared) in (Union, types.UnionType) else (declared,)
    literals = [word for option in options if get_origin(option) is Literal for word in get_args(option)]
    for option in options:
        if option is type(None) and text.lower() == "none":
            return None
        if option is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if option is str or (get_origin(option) is Literal and text in get_args(option)):
            return text
        if hasattr(option, "from_name") and text not in literals:
            return option.from_name(text)
        if option in (int, float):
            try:
                return option(text.replace("_", ""))
            except ValueError:
                continue
    raise UserError(f"--{path} must be {_in_words(options)}, got {text!r}")


def _in_words(options: Sequence[Any]) -> str:
    """The declared types, and the words of a literal one.

    >>> _in_words((int, type(None), Literal["all"]))
    'int or none or all'
    """
    words = [get_args(kind) if get_origin(kind) is Literal else (getattr(kind, "__name__", kind),) for kind in options]
    return " or ".join("none" if word == "NoneType" else str(word) for group in words for word in group)

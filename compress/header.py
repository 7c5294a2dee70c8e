"""The artifact's header: what the file holds, read from bytes that anybody may have written.

It is canonical JSON (sorted keys, no spaces, ASCII), so the same header is the same bytes, and a header in any other
spelling is refused. Sizes are not written down where they follow from shapes: what is not there cannot be wrong. What
a coder and a kind of these names are is known only once the config has said which recipe to ask (`compress.expected`).

    {"coder": NAME, "config": {...}, "groups": [{"kind": NAME, "names": [...], "shapes": [...], "stored": [...]}, ...]}

`stored` has the encoded length of every stream of the group; the streams follow each other in this order.
"""

import json
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from quantize.groups import group_of
from runtime.errors import UserError

# A model of 132 tensors needs 10 kB. Nesting is bounded by the JSON reader itself.
MAX_HEADER_BYTES = 2**20
# Twice the weights of one bit that 16,000,000 bytes hold: what a file can ask for before anybody knows its shapes.
MAX_NUMBERS = 2**28
MAX_NAME_LENGTH = 200
MAX_DIMENSIONS = 8


@dataclass(frozen=True)
class StoredGroup:
    """Tensors of one group and one kind, whose streams lie together. Raises UserError for values no artifact has."""

    kind: str
    names: list[str]
    shapes: list[list[int]]
    stored: list[int]  # encoded bytes of each stream

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.shapes):
            raise UserError(f"a group must have one shape a tensor, got {len(self.names)} and {len(self.shapes)}")
        for name, shape in zip(self.names, self.shapes, strict=True):
            _check_tensor(name, shape)
        if len({group_of(name) for name in self.names}) > 1:
            raise UserError(f"tensors of one group must differ in numbers only, {self.names[0]} has others beside it")
        if any(type(length) is not int or length < 0 for length in self.stored):
            raise UserError(f"the stream lengths of {self.group} must be numbers of bytes, got {str(self.stored)[:40]}")

    @property
    def group(self) -> str:
        """The name that its tensors share, layer numbers folded."""
        return group_of(self.names[0])

    @property
    def shape_tuples(self) -> list[tuple[int, ...]]:
        """The shapes as tuples."""
        return [tuple(shape) for shape in self.shapes]


@dataclass(frozen=True)
class Header:
    """Everything but the numbers. Raises UserError for a name given twice and for an absurd total."""

    coder: str
    config: dict[str, Any]
    groups: list[StoredGroup]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for name in (name for group in self.groups for name in group.names):
            if name in seen:
                raise UserError(f"a tensor must stand in the artifact once, {name} stands there twice")
            seen.add(name)
        total = sum(map(prod, self.shapes.values()))
        if total > MAX_NUMBERS:
            raise UserError(f"an artifact must hold at most {MAX_NUMBERS:,} numbers, its header says {total:,}")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, by name."""
        return {
            name: shape for group in self.groups for name, shape in zip(group.names, group.shape_tuples, strict=True)
        }


def format_header(header: Header) -> bytes:
    """The header as canonical JSON. Raises UserError for a config that is not JSON and for a header that is too large.

    >>> format_header(Header("raw", {"recipe": "demo"}, []))
    b'{"coder":"raw","config":{"recipe":"demo"},"groups":[]}'
    """
    try:
        text = canonical_json(asdict(header)).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"the config in an artifact must be plain JSON (no NaN, string keys): {error}") from error
    # What could not be read back must not be written.
    parse_header(text)
    return text


def parse_header(text: bytes) -> Header:
    """The header out of its JSON. Raises UserError for anything that `format_header` would not have written."""
    if len(text) > MAX_HEADER_BYTES:
        raise UserError(f"an artifact's header must be at most {MAX_HEADER_BYTES:,} bytes, got {len(text):,}")
    try:
        fields = json.loads(text.decode("ascii"))
        canonical = canonical_json(fields).encode("ascii") == text
    except (ValueError, RecursionError) as error:
        raise UserError(f"an artifact's header must be JSON in ASCII: {str(error)[:80]}") from error
    if not canonical:
        raise UserError("an artifact's header must be canonical JSON: sorted keys, each once, and no spaces")
    _check_fields(fields, {"coder": str, "config": dict, "groups": list}, "the header")
    for group in fields["groups"]:
        _check_fields(group, {"kind": str, "names": list, "shapes": list, "stored": list}, "a group")
    return Header(fields["coder"], fields["config"], [StoredGroup(**group) for group in fields["groups"]])


def canonical_json(value: Any) -> str:
    """JSON with one spelling only: keys sorted, no spaces, ASCII, no NaN.

    >>> canonical_json({"b": [1, 2.5], "a": "é"})
    '{"a":"\\\\u00e9","b":[1,2.5]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _check_fields(value: object, types: dict[str, type], what: str) -> None:
    if not isinstance(value, dict) or {key: type(item) for key, item in value.items()} != types:
        wanted = ", ".join(f"{key} ({kind.__name__})" for key, kind in types.items())
        raise UserError(f"{what} of an artifact must have exactly the fields {wanted}")


def _check_tensor(name: object, shape: object) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_LENGTH or not (name.isascii() and name.isprintable()):
        raise UserError(
            f"tensor names must be 1 to {MAX_NAME_LENGTH} printable ASCII characters, got {str(name)[:40]!r}"
        )
    if not isinstance(shape, list) or any(type(size) is not int or not 0 <= size < 2**31 for size in shape):
        raise UserError(f"the shape of {name} must be a list of sizes from 0 to 2^31 - 1, got {str(shape)[:40]}")
    if len(shape) > MAX_DIMENSIONS:
        raise UserError(f"tensors must have at most {MAX_DIMENSIONS} dimensions, {name} has {len(shape)}")

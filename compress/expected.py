"""What the reader of an artifact knows once its config has named the recipe, and what the header must therefore say.

The names in a header are anybody's; the objects that they are held against are the recipe's own. Nothing is allocated
before everything here agrees.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compress.coder import ZSTD22, Coder
from compress.header import Header, StoredGroup
from compress.kinds import Kind, kind_named
from runtime.errors import UserError


@dataclass(frozen=True)
class Expected:
    """The shapes of a model by name (None: whatever the file says), and how its recipe stores them."""

    shapes: Mapping[str, Sequence[int]] | None = None
    coder: Coder = ZSTD22
    kinds: tuple[Kind, ...] = ()  # beyond the basic ones


def checked_kinds(header: Header, expected: Expected) -> list[Kind]:
    """The kind of every group.

    Raises UserError for another model's header, a coder that is not the recipe's, and an unknown kind.
    """
    if expected.shapes is not None:
        _check_shapes(header.shapes, expected.shapes)
    if header.coder != expected.coder.name:
        raise UserError(f"the artifact must be coded by its recipe's {expected.coder}, got {header.coder[:40]!r}")
    return [kind_of_group(group, expected.kinds) for group in header.groups]


def kind_of_group(group: StoredGroup, kinds: tuple[Kind, ...]) -> Kind:
    """The kind that stores the group. Raises UserError when none has its name, or this one has other streams."""
    kind = kind_named(group.kind, kinds)
    if len(group.stored) != len(kind.labels):
        raise UserError(f"{group.group} must give {len(kind.labels)} stream lengths, got {str(group.stored)[:40]}")
    return kind


def _check_shapes(found: dict[str, tuple[int, ...]], expected: Mapping[str, Sequence[int]]) -> None:
    for name in sorted(found.keys() | expected.keys()):
        has, wants = found.get(name), expected.get(name)
        if wants is None:
            raise UserError(f"the artifact must hold the tensors of its model, {name} {has} is not one of them")
        if has is None:
            raise UserError(f"the artifact must hold every tensor of its model, {name} {tuple(wants)} is missing")
        if has != tuple(wants):
            raise UserError(f"{name} must have the shape {tuple(wants)} of the model, the artifact has {has}")

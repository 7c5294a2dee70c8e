"""The artifact: a model's codes and its config in one string of bytes, and back.

    magic "SXTN" | version u8 | flags u8 | header: encoded length u32, length u32 | header | streams | SHA-256

All integers are little-endian. The header is canonical JSON under zstd (`compress.header`); the streams follow without
gaps, group by group, in the header's order, each encoded on its own, so that every byte belongs to somebody. The hash
covers all that stands before it and is checked first; everything after it is checked as well, because a hash only
proves that a file is what its author wrote. README.md has the format on half a screen.
"""

import hashlib
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from compress.coder import ZSTD22, Coder, decode, encode
from compress.expected import Expected, checked_kinds
from compress.header import MAX_HEADER_BYTES, Header, StoredGroup, format_header, parse_header
from compress.kinds import Kind, Shapes, kind_named, kinds_for
from quantize.grid import Codes
from quantize.groups import group_of
from runtime.errors import UserError

MAGIC = b"SXTN"
FORMAT_VERSION = 1
PREFIX = struct.Struct("<4sBBII")
CHECKSUM_BYTES = hashlib.sha256().digest_size
# The header names the coder of the streams, so its own cannot depend on it.
HEADER_CODER = ZSTD22


@dataclass(frozen=True)
class Layout:
    """An artifact whose bytes have been accounted for, but not decoded."""

    header: Header
    header_bytes: int  # prefix included
    streams: list[list[memoryview]]  # encoded, by group


def pack(
    codes: Codes,
    *,
    config: dict[str, Any],  # JSON: what the reader needs to build the model
    coder: Coder = ZSTD22,
    kinds: tuple[Kind, ...] = (),  # storage kinds beyond the basic ones, tried before them
) -> bytes:
    """The artifact. The same arguments give the same bytes, whatever the order of the dictionaries.

    Tensors that several of `kinds` take are stored in the smallest form. Raises UserError for tensors that no storage
    kind takes, and a config that is not JSON.

    >>> import torch
    >>> config, codes = unpack(pack({"gain": torch.ones(3)}, config={"recipe": "demo"}))
    >>> config, codes["gain"]
    ({'recipe': 'demo'}, tensor([1., 1., 1.]))
    """
    groups: list[StoredGroup] = []
    streams: list[bytes] = []
    for fitting, names in _grouped(codes, kinds):
        tensors = [codes[name] for name in names]
        shapes = [tuple(tensor.shape) for tensor in tensors]
        forms = {kind: _encoded(kind_named(kind, kinds), tensors, shapes, coder) for kind in fitting}
        kind, encoded = min(forms.items(), key=lambda form: sum(map(len, form[1])))
        groups.append(StoredGroup(kind, names, [list(shape) for shape in shapes], [*map(len, encoded)]))
        streams += encoded
    text = format_header(Header(coder.name, config, groups))
    header = encode(text, HEADER_CODER)
    body = b"".join([PREFIX.pack(MAGIC, FORMAT_VERSION, 0, len(header), len(text)), header, *streams])
    return body + hashlib.sha256(body).digest()


def unpack(
    data: bytes,
    expected: Callable[[dict[str, Any]], Expected] = lambda config: Expected(),  # by the config in the header
) -> tuple[dict[str, Any], Codes]:
    """The config and the codes of an artifact.

    The header is held against `expected(config)` before anything is allocated. Raises UserError for bytes that are
    damaged, not an artifact, or not this model's.
    """
    layout = read_layout(data)
    wanted = expected(layout.header.config)
    kinds = checked_kinds(layout.header, wanted)
    codes: Codes = {}
    for group, kind, streams in zip(layout.header.groups, kinds, layout.streams, strict=True):
        pairs = zip(streams, kind.sizes(group.shape_tuples), strict=True)
        decoded = [bytes(stream) if size is None else decode(stream, wanted.coder, size) for stream, size in pairs]
        codes |= zip(group.names, kind.unpack(decoded, group.shape_tuples), strict=True)
    return layout.header.config, {name: codes[name] for name in sorted(codes)}


def read_config(data: bytes) -> dict[str, Any]:
    """The config of an artifact, with its hash checked and nothing decoded. Raises UserError as `unpack` does."""
    return read_layout(data).header.config


def read_layout(data: bytes) -> Layout:
    """Where everything lies. Raises UserError unless every byte is accounted for."""
    body = _checked_body(data)
    _, version, flags, encoded_length, length = PREFIX.unpack_from(body)
    if (version, flags) != (FORMAT_VERSION, 0):
        raise UserError(
            f"this reads artifacts of version {FORMAT_VERSION} without flags, got version {version}, flags {flags}"
        )
    header_bytes = PREFIX.size + encoded_length
    if length > MAX_HEADER_BYTES or header_bytes > len(body):
        raise UserError(
            f"an artifact's header must fit the file and decode to at most {MAX_HEADER_BYTES:,} bytes, "
            f"got {encoded_length:,} bytes for {length:,} in a file of {len(data):,}"
        )
    header = parse_header(decode(body[PREFIX.size : header_bytes], HEADER_CODER, length))
    stored = sum(sum(group.stored) for group in header.groups)
    if header_bytes + stored != len(body):
        raise UserError(
            f"the streams of an artifact must fill it, got {stored:,} bytes for {len(body) - header_bytes:,}"
        )
    return Layout(header, header_bytes, list(_cut_streams(body[header_bytes:], header.groups)))


def _checked_body(data: bytes) -> memoryview:
    """All but the hash, which must be right."""
    if bytes(data[: len(MAGIC)]) != MAGIC or len(data) < PREFIX.size + CHECKSUM_BYTES:
        raise UserError(f"an artifact must begin with {MAGIC!r}, got {len(data):,} bytes of something else")
    view = memoryview(data)
    body, checksum = view[:-CHECKSUM_BYTES], view[-CHECKSUM_BYTES:]
    digest = hashlib.sha256(body).digest()
    if digest != checksum:
        raise UserError(
            f"an artifact must end in the SHA-256 of its other bytes, {digest.hex()[:16]}..., got "
            f"{checksum.hex()[:16]}...: these {len(data):,} bytes are damaged, cut short or extended"
        )
    return body


def _grouped(codes: Codes, kinds: tuple[Kind, ...]) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """(names of the kinds that can store it, names of its tensors) of every group, in the order of the file."""
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for name in sorted(codes):
        groups[group_of(name), kinds_for(name, codes[name], kinds)].append(name)
    for (_, fitting), names in sorted(groups.items()):
        yield fitting, names


def _encoded(kind: Kind, tensors: list, shapes: Shapes, coder: Coder) -> list[bytes]:
    """The streams of one group as they are stored."""
    pairs = zip(kind.pack(tensors), kind.sizes(shapes), strict=True)
    return [stream if size is None else encode(stream, coder) for stream, size in pairs]


def _cut_streams(body: memoryview, groups: list[StoredGroup]) -> Iterator[list[memoryview]]:
    for group in groups:
        streams = []
        for length in group.stored:
            streams.append(body[:length])
            body = body[length:]
        yield streams

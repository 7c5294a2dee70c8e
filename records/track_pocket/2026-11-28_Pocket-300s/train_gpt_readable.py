"""Recipe pocket of Sixteen as one file: the source of the counted train_gpt.py before it is minified.

Made by `python -m compress bundle pocket`; every part names the file of the repository that it is from.
"""

import atexit
import ctypes
import dataclasses
import difflib
import hashlib
import json
import lzma
import math
import numpy as np
import os
import re
import signal
import struct
import sys
import time
import torch
import torch.distributed as dist
import torch.nn.functional as F
import types
import warnings
import zstandard
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from constriction import stream
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache, partial
from itertools import accumulate, groupby, pairwise
from math import gcd, prod
from pathlib import Path
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from sentencepiece import SentencePieceProcessor
from torch import Tensor, empty, nn, ones
from torch.autograd.function import once_differentiable
from torch.utils.hooks import RemovableHandle
from types import FrameType
from typing import Any, BinaryIO, ClassVar, Literal, NamedTuple, NoReturn, Self, Union, get_args, get_origin, get_type_hints


# runtime/errors.py

"""The one exception a user is meant to read: the rule, the value, the nearest right one."""

class UserError(Exception):
    """A mistake in what the user gave; the message is one line and every command exits with code 2 on it."""

    exit_code = 2


def nearest(word: str, candidates: Iterable[str], count: int = 3) -> str:
    """Names the candidates closest to `word`, for the end of an error message.

    >>> nearest("int5_int", ["baseline", "demo", "int5_int6"])
    'nearest: int5_int6'
    >>> nearest("zzz", ["baseline", "demo"])
    'one of: baseline, demo'
    """
    known = sorted(set(candidates))
    close = difflib.get_close_matches(word, known, n=count, cutoff=0.4)
    return f"nearest: {', '.join(close)}" if close else f"one of: {', '.join(known)}"


def check_positive(name: str, value: int) -> None:
    """Raises UserError unless value is 1 or more.

    >>> check_positive("heads", 0)
    Traceback (most recent call last):
    runtime.errors.UserError: heads must be at least 1, got 0; nearest 1
    """
    if value < 1:
        raise UserError(f"{name} must be at least 1, got {value}; nearest 1")


def nearest_multiple(value: int, step: int) -> int:
    """The multiple of `step` closest to `value`, at least one `step`.

    >>> nearest_multiple(500_000, 16_384)
    507904
    """
    return max(1, round(value / step)) * step


# compress/coder.py

"""General entropy coders; they know bytes and nothing of what the bytes mean.

Every coder is a value: a name and a pair of functions. `encode` is a pure function of its input: no threads, no time
stamps. `decode` is told how many bytes must come out, allocates no more than those (and LZMA its window of 8 MiB), and
raises UserError for anything else: data that is damaged, ends early, goes on too long, or would decode to another
length. A recipe holds the coder that it uses.
"""

ZSTD_LEVEL = 22
ZSTD_MAX_WINDOW = 2**27
# A zstd block takes at least four bytes and decodes to at most 128 KiB, so no honest frame expands further than this.
ZSTD_MAX_EXPANSION = 2**15

# No container of its own: the artifact has lengths and a hash already. The dictionary bounds the memory of both sides.
LZMA_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 2**23, "lc": 0, "pb": 0}]


@dataclass(frozen=True, repr=False)
class Coder:
    """One coder: its two halves; `decode(data, size)` raises UserError when `data` is not `size` bytes encoded.

    Its text is its name: functions have addresses, and fingerprints are made of the text of a recipe.

    >>> LZMA
    lzma
    """

    name: str
    encode: Callable[[bytes], bytes]
    decode: Callable[[bytes | memoryview, int], bytes]

    @staticmethod
    def from_name(name: str) -> "Coder":
        """What `--pack.coder lzma` means on the command line.

        >>> Coder.from_name("zstd")
        Traceback (most recent call last):
        runtime.errors.UserError: unknown coder 'zstd'; nearest: zstd22
        """
        known = {coder.name: coder for coder in (ZSTD22, LZMA, RAW)}
        if name not in known:
            raise UserError(f"unknown coder {name[:40]!r}; {nearest(name[:40], known)}")
        return known[name]

    def __repr__(self) -> str:
        return self.name


def encode(data: bytes, coder: Coder) -> bytes:
    """The data in its coded form: the same bytes for the same data, always.

    >>> len(encode(bytes(100_000), ZSTD22)), encode(b"as it is", RAW)
    (21, b'as it is')
    """
    # Nothing costs nothing; and zstd does not look beyond the header of a frame that declares no content.
    return coder.encode(data) if data else b""


def decode(
    data: bytes | memoryview,
    coder: Coder,
    size: int,  # bytes that must come out
) -> bytes:
    """What `encode` was given. Raises UserError for data that do not decode to `size` bytes.

    >>> decode(encode(b"one two one two", LZMA), LZMA, 15)
    b'one two one two'
    """
    if size == 0 and len(data) > 0:
        raise wrong_size(coder.name, 0, f"{len(data)} encoded")
    return coder.decode(data, size) if size else b""


def wrong_size(coder: str, size: int, got: int | str) -> UserError:
    """The error for data that decode to another number of bytes."""
    return UserError(f"{coder} data must decode to {size} bytes and end there, got {got} bytes")


def _encode_zstd(data: bytes) -> bytes:
    # threads=0 and threads=1 write different bytes, and so do compress() and compressobj(): one way for good.
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL, threads=0).compress(data)


def _decode_zstd(data: bytes | memoryview, size: int) -> bytes:
    decoder = zstandard.ZstdDecompressor(max_window_size=ZSTD_MAX_WINDOW)
    try:
        # decompress() ignores max_output_size when the frame declares a size, and believes the frame.
        declared = zstandard.frame_content_size(data)
        if declared != size or size > len(data) * ZSTD_MAX_EXPANSION:
            raise wrong_size("zstd22", size, declared if declared >= 0 else "an unknown number of")
        return decoder.decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise UserError(f"zstd22 data must be one whole frame of {size} bytes: {error}") from error


def _encode_lzma(data: bytes) -> bytes:
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=LZMA_FILTERS)


def _decode_lzma(data: bytes | memoryview, size: int) -> bytes:
    decoder = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=LZMA_FILTERS)
    try:
        # One byte more than is wanted shows a stream that would go on; its end marker must follow at once.
        decoded = decoder.decompress(data, max_length=size + 1)
    except lzma.LZMAError as error:
        raise UserError(f"lzma data must be one whole stream of {size} bytes: {error}") from error
    if len(decoded) != size or not decoder.eof or decoder.unused_data:
        raise wrong_size("lzma", size, len(decoded))
    return decoded


def _decode_raw(data: bytes | memoryview, size: int) -> bytes:
    if len(data) != size:
        raise wrong_size("raw", size, len(data))
    return bytes(data)


ZSTD22 = Coder("zstd22", _encode_zstd, _decode_zstd)
LZMA = Coder("lzma", _encode_lzma, _decode_lzma)
RAW = Coder("raw", bytes, _decode_raw)


# quantize/groups.py

"""Tensors that do the same work in different layers form a group: one line of a table, one stream of the artifact."""

def group_of(name: str) -> str:
    """A tensor's name with the layer number folded away.

    >>> group_of("layers.3.mlp.up.weight")
    'layers.*.mlp.up.weight'
    >>> group_of("embed.tokens.weight")
    'embed.tokens.weight'
    """
    return ".".join("*" if part.isdecimal() else part for part in name.split("."))


# compress/header.py

"""The artifact's header: what the file holds, read from bytes that anybody may have written.

It is canonical JSON (sorted keys, no spaces, ASCII), so the same header is the same bytes, and a header in any other
spelling is refused. Sizes are not written down where they follow from shapes: what is not there cannot be wrong. What
a coder and a kind of these names are is known only once the config has said which recipe to ask (`compress.expected`).

    {"coder": NAME, "config": {...}, "groups": [{"kind": NAME, "names": [...], "shapes": [...], "stored": [...]}, ...]}

`stored` has the encoded length of every stream of the group; the streams follow each other in this order.
"""

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


# quantize/grid.py

"""Grids of small integers, and the codes that a weight becomes on one of them.

A weight is stored as an integer q of its grid and a scale s: w is close to s * q. The shape of the scale says which
weights share one: [] the whole tensor, [rows] each row, [1, cols] each column, [blocks, 1] every 256 weights in row
order, the last block as many as are left. The codes of a model, `Codes`, are all that later stages know of
quantisation: a `Coded` tensor holds integers, scale and grid; a plain tensor (fp16 or fp32) is passed through as it is.

The ranges are those of parameter-golf's pull requests #162, #180 and #465: `clip` is the integer on which the largest
weight of a row falls, so the one code beyond it, `lowest` of int4 to int7, is never reached by a row-maximum scale.
The ternary grid is that of BitNet b1.58, arXiv 2402.17764.
"""

@dataclass(frozen=True)
class Grid:
    """The integers from `lowest` to `highest`, of which ±`clip` is what the scale rules aim at.

    >>> INT5.lowest, INT5.highest, INT5.clip, INT5.bits
    (-16, 15, 15, 5)
    """

    name: str
    lowest: int
    highest: int
    clip: int

    def __post_init__(self) -> None:
        if not -128 <= self.lowest <= -self.clip < 0 < self.clip <= self.highest <= 127:
            raise UserError(
                f"a grid must hold -clip and clip and fit eight bits (-128 to 127), got {self}; the widest is {INT8}"
            )

    @staticmethod
    def from_name(name: str) -> "Grid":
        """What `--pack.plan.1.store int6` means on the command line; `grid_named` under the name that overrides use."""
        return grid_named(name)

    @property
    def bits(self) -> int:
        """Bits of the narrowest integer that holds every code."""
        return (self.highest - self.lowest).bit_length()

    def rounder(self, values: Tensor) -> Callable[[Tensor], Tensor]:
        """What rounds numbers in units of the scale to codes, still as floats; `values` are all there will be, about.

        Here each goes to the nearest code by itself, ties to the even one; a grid with a memory overrides this.
        """
        return self.nearest

    def nearest(self, values: Tensor) -> Tensor:
        return values.round().clamp(self.lowest, self.highest)

    def check(self, integers: Tensor) -> None:
        """Raises UserError for integers that are no codes of this grid."""
        low, high = map(int, integers.aminmax()) if integers.numel() else (0, 0)
        if low < self.lowest or high > self.highest:
            raise UserError(f"codes on {self.name} must lie in {self.lowest} to {self.highest}, got {low} to {high}")


TERNARY = Grid("ternary", lowest=-1, highest=1, clip=1)
INT4 = Grid("int4", lowest=-8, highest=7, clip=7)
INT5 = Grid("int5", lowest=-16, highest=15, clip=15)
INT6 = Grid("int6", lowest=-32, highest=31, clip=31)
INT7 = Grid("int7", lowest=-64, highest=63, clip=63)
INT8 = Grid("int8", lowest=-127, highest=127, clip=127)
BLOCK = 256  # weights that share a scale of shape [blocks, 1]
GRIDS = {grid.name: grid for grid in (TERNARY, INT4, INT5, INT6, INT7, INT8)}


@dataclass(frozen=True, eq=False)
class Coded:
    """A tensor on a grid. Raises UserError when dtypes, shapes or integers do not fit each other."""

    integers: Tensor  # int8, the shape of the weight
    scale: Tensor  # fp16: [], [rows] (the first dimension), [1, cols] of a matrix, or [blocks, 1]
    grid: Grid

    def __post_init__(self) -> None:
        dtypes, shape = (self.integers.dtype, self.scale.dtype), self.integers.shape
        if dtypes != (torch.int8, torch.float16):
            raise UserError(f"codes must be int8 with an fp16 scale, got {dtypes[0]} and {dtypes[1]}")
        if self.scale.shape not in scale_shapes(shape).values():
            allowed = ", ".join(f"{list(one)} a {name}" for name, one in scale_shapes(shape).items())
            raise UserError(
                f"the scale of codes {list(shape)} must have one of the shapes {allowed}; got {list(self.scale.shape)}"
            )
        self.grid.check(self.integers)

    @property
    def shape(self) -> torch.Size:
        """The shape of the weight."""
        return self.integers.shape


Codes = dict[str, Coded | Tensor]


def grid_named(name: str) -> Grid:
    """The grid of that name.

    >>> grid_named("int6").clip
    31
    >>> grid_named("int9")
    Traceback (most recent call last):
    runtime.errors.UserError: unknown grid 'int9'; nearest: int8, int7, int6
    """
    if name not in GRIDS:
        raise UserError(f"unknown grid {name!r}; {nearest(name, GRIDS)}")
    return GRIDS[name]


def scale_shapes(shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The shapes that the scale of a tensor of this shape may have, by what shares one number.

    >>> scale_shapes((4, 192))
    {'tensor': (), 'row': (4,), 'column': (1, 192), 'block': (3, 1)}
    """
    rows = {"row": tuple(shape[:1])} if len(shape) else {}
    columns = {"column": (1, shape[1])} if len(shape) == 2 else {}
    return {"tensor": (), **rows, **columns, "block": (-(-prod(shape) // BLOCK), 1)}


def nearest_codes(weight: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """The integers that weight / scale becomes on the grid, still as fp32."""
    values = weight.float() / spread_scale(scale, weight)
    return grid.rounder(values)(values)


def spread_scale(scale: Tensor, weight: Tensor) -> Tensor:
    """A scale in fp32, shaped so that it multiplies a weight [rows, ...] number by number."""
    if scale.ndim < 2:
        return scale.float().reshape(scale.shape + (1,) * (weight.ndim - scale.ndim))
    if scale.shape[0] == 1:
        return scale.float()
    return scale.float().expand(-1, BLOCK).reshape(-1)[: weight.numel()].view(weight.shape)


def round_to_grid(weight: Tensor, scale: Tensor, grid: Grid) -> Coded:
    """A weight (any shape, finite) on the grid: q = clamp(round(weight / scale)), scale in fp16 as it will be stored.

    >>> round_to_grid(torch.tensor([[0.26, -0.75, 9.0]]), torch.tensor([0.5]).half(), INT4).integers.tolist()
    [[1, -2, 7]]
    """
    return Coded(nearest_codes(weight, scale, grid).to(torch.int8), scale, grid)


def dequantize_coded(coded: Coded) -> Tensor:
    """scale * integers in fp32, the shape of the integers."""
    return coded.integers.float() * spread_scale(coded.scale, coded.integers)


def dequantize(codes: Codes) -> dict[str, Tensor]:
    """Every tensor of the codes as a new fp32 tensor, under its name: what the model computes with."""
    return {
        name: dequantize_coded(tensor) if isinstance(tensor, Coded) else tensor.to(torch.float32, copy=True)
        for name, tensor in codes.items()
    }


# compress/kinds.py

"""Storage kinds: how tensors of one sort become streams of bytes, and back.

A kind is a value with a name, which stands in the artifact's header, and a pair `pack`/`unpack` over the tensors of one
group at once. A stream is what a coder is given, so numbers with different statistics go into different streams; one
that the kind has entropy-coded itself has the size None and is stored as it is. The basic kinds of this file are known
to every reader; others are objects of the recipe that uses them.

Floats are split into byte planes, one stream each, the most significant first: sign and exponent shrink, the low
mantissa does not, and side by side they spoil each other (a 512 x 128 fp16 matrix of Gaussian numbers under zstd-22:
120,558 bytes interleaved, 120,460 as planes in one stream, 110,799 in two).
"""

Shapes = list[tuple[int, ...]]
LAYOUTS = "row", "tensor", "column", "block"


@dataclass(frozen=True)
class FloatKind:
    """fp16 or fp32 as they are, bit for bit: -0.0, infinities and NaNs included."""

    name: str
    dtype: torch.dtype

    @property
    def labels(self) -> tuple[str, ...]:
        """What each stream is booked under in the ledger."""
        return ("data",) * self.dtype.itemsize

    def takes(self, tensor: Coded | Tensor) -> bool:
        """Whether a tensor is of this kind."""
        return isinstance(tensor, Tensor) and tensor.dtype == self.dtype

    def sizes(self, shapes: Shapes) -> list[int | None]:
        """Bytes of each stream before coding."""
        return [sum(map(prod, shapes))] * self.dtype.itemsize

    def pack(self, tensors: list[Tensor]) -> list[bytes]:
        """One stream for each byte of the numbers, the most significant first."""
        return split_planes(torch.cat([tensor.flatten() for tensor in tensors]))

    def unpack(self, streams: list[bytes], shapes: Shapes) -> list[Tensor]:
        """The tensors, in the order they were packed in."""
        return cut_numbers(join_planes(streams, self.dtype), shapes)


@dataclass(frozen=True)
class GridKind:
    """Integers of a grid as signed bytes, and their fp16 scales as two planes.

    `layout` says what shares a scale, in the words of `scale_shapes`. Other ways to store integers, or scales, make
    their streams out of these and these out of theirs.
    """

    grid: Grid
    layout: str = "row"

    # What each stream is booked under in the ledger.
    labels = "data", "scales", "scales"
    method = ""

    @property
    def name(self) -> str:
        """The kind's name in the header.

        >>> GridKind(GRIDS["int6"]).name, GridKind(GRIDS["int6"], "column").name
        ('int6', 'int6-column')
        """
        return f"{self.grid.name}{self.method}-{self.layout}".removesuffix("-row")

    def takes(self, tensor: Coded | Tensor) -> bool:
        """Whether a tensor is of this kind."""
        return (
            isinstance(tensor, Coded)
            and tensor.grid == self.grid
            and tensor.scale.shape == scale_shapes(tensor.shape).get(self.layout)
        )

    def sizes(self, shapes: Shapes) -> list[int | None]:
        """Bytes of each stream before coding; None for one that is not coded again."""
        scales = sum(map(prod, self._scale_shapes(shapes)))
        return [sum(map(prod, shapes)), scales, scales]

    def pack(self, tensors: list[Coded]) -> list[bytes]:
        """The integers, row by row, and the planes of the scales."""
        integers = torch.cat([coded.integers.flatten() for coded in tensors])
        return [integers.numpy().tobytes(), *split_planes(torch.cat([coded.scale.flatten() for coded in tensors]))]

    def unpack(self, streams: list[bytes], shapes: Shapes) -> list[Coded]:
        """The tensors, in the order they were packed in. Raises UserError for streams that `pack` does not write."""
        integers = cut_numbers(join_planes(streams[:1], torch.int8), shapes)
        scales = cut_numbers(join_planes(streams[1:], torch.float16), self._scale_shapes(shapes))
        return [Coded(*pair, self.grid) for pair in zip(integers, scales, strict=True)]

    def _scale_shapes(self, shapes: Shapes) -> Shapes:
        # A tensor without rows or columns, which only a forged header puts here, is read as if it had one scale.
        return [scale_shapes(shape).get(self.layout, ()) for shape in shapes]


Kind = FloatKind | GridKind
BASIC_KINDS = (
    FloatKind("fp16", torch.float16),
    FloatKind("fp32", torch.float32),
    *(GridKind(grid, layout) for layout in LAYOUTS for grid in GRIDS.values()),
)


def kind_named(name: str, kinds: tuple[Kind, ...]) -> Kind:
    """The kind of that name, among `kinds` and the basic ones. Raises UserError, with the nearest, if there is none."""
    known = {kind.name: kind for kind in (*BASIC_KINDS, *kinds)}
    if name not in known:
        raise UserError(f"unknown storage kind {name[:40]!r}; {nearest(name[:40], known)}")
    return known[name]


def kinds_for(name: str, tensor: Coded | Tensor, kinds: tuple[Kind, ...]) -> tuple[str, ...]:
    """The names of those of `kinds` that can store this tensor, else of the basic one that does.

    Raises UserError, with the tensor's `name`, if there is none.

    >>> kinds_for("gain", torch.ones(3), ())
    ('fp32',)
    """
    fitting, basic = (tuple(kind.name for kind in some if kind.takes(tensor)) for some in (kinds, BASIC_KINDS))
    if not fitting + basic:
        what = tensor.grid if isinstance(tensor, Coded) else tensor.dtype
        raise UserError(f"a stored tensor must be coded on a known grid, or fp16, or fp32; {name} is {what}")
    return fitting or basic[:1]


def split_planes(numbers: Tensor) -> list[bytes]:
    """The bytes of the numbers ([n]) by significance, the highest first: one string of n bytes for each.

    >>> [plane.hex() for plane in split_planes(torch.tensor([1.0, -2.0]).half())]
    ['3cc0', '0000']
    """
    little_endian = numbers.numpy().astype(numbers.numpy().dtype.newbyteorder("<"), copy=False)
    planes = little_endian.view(np.uint8).reshape(len(numbers), numbers.itemsize).T
    return [plane.tobytes() for plane in planes[::-1]]


def join_planes(planes: list[bytes], dtype: torch.dtype) -> Tensor:
    """The numbers, [n], out of their planes, the highest first.

    >>> join_planes([bytes.fromhex("3cc0"), bytes(2)], torch.float16).tolist()
    [1.0, -2.0]
    """
    columns = [np.frombuffer(plane, np.uint8) for plane in reversed(planes)]
    numpy_dtype = torch.empty(0, dtype=dtype).numpy().dtype
    little_endian = np.stack(columns, axis=1).reshape(-1).view(numpy_dtype.newbyteorder("<"))
    return torch.from_numpy(little_endian.astype(numpy_dtype, copy=False))


def cut_numbers(numbers: Tensor, shapes: Shapes) -> list[Tensor]:
    """Consecutive pieces of `numbers` in the given shapes, each with memory of its own."""
    bounds = accumulate(map(prod, shapes), initial=0)
    pieces = [numbers[begin:end].clone() for begin, end in pairwise(bounds)]
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]


# compress/expected.py

"""What the reader of an artifact knows once its config has named the recipe, and what the header must therefore say.

The names in a header are anybody's; the objects that they are held against are the recipe's own. Nothing is allocated
before everything here agrees.
"""

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


# compress/container.py

"""The artifact: a model's codes and its config in one string of bytes, and back.

    magic "SXTN" | version u8 | flags u8 | header: encoded length u32, length u32 | header | streams | SHA-256

All integers are little-endian. The header is canonical JSON under zstd (`compress.header`); the streams follow without
gaps, group by group, in the header's order, each encoded on its own, so that every byte belongs to somebody. The hash
covers all that stands before it and is checked first; everything after it is checked as well, because a hash only
proves that a file is what its author wrote. README.md has the format on half a screen.
"""

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


# compress/ledger.py

"""Who costs how many bytes: every byte of the artifact and of the code on one entry, and the sum against the cap.

The competition counts decimal bytes, code and compressed model together, and at most 16,000,000 of them.
"""

BUDGET = 16_000_000


@dataclass(frozen=True)
class LedgerEntry:
    """The tensors of one group and kind: what their numbers and what their scales cost, in bytes."""

    group: str
    kind: str
    tensors: int
    elements: int
    data: int
    scales: int

    @property
    def name(self) -> str:
        """Group and kind, as tables and errors call it."""
        return f"{self.group} {self.kind}"

    @property
    def total(self) -> int:
        """Data and scales."""
        return self.data + self.scales


@dataclass(frozen=True)
class Ledger:
    """Bytes of a submission; they add up to the file of the model and the files of the code, exactly."""

    entries: tuple[LedgerEntry, ...]
    header: int
    checksum: int
    code: dict[str, int]  # by file name
    budget: int = BUDGET

    @property
    def model_total(self) -> int:
        """Bytes of the artifact."""
        return sum(entry.total for entry in self.entries) + self.header + self.checksum

    @property
    def code_total(self) -> int:
        """Bytes of all code files."""
        return sum(self.code.values())

    @property
    def total(self) -> int:
        """What the competition counts."""
        return self.model_total + self.code_total

    @property
    def headroom(self) -> int:
        """Bytes left under the budget; negative when over it."""
        return self.budget - self.total

    @property
    def totals(self) -> dict[str, int]:
        """The four sums by name, as they stand in the JSON."""
        return {name: getattr(self, name) for name in ("model_total", "code_total", "total", "headroom")}

    def to_json(self) -> dict[str, Any]:
        """A dictionary for a JSON file, the sums included for those who read it elsewhere."""
        return {**asdict(self), "entries": [asdict(entry) for entry in self.entries], **self.totals}

    def table(self) -> str:
        """The ledger as lines of text, with the share of the total beside every number of bytes."""
        rows = [("entry", "elements", "data", "scales", "bytes", "share")]
        for entry in self.entries:
            details = f"{entry.elements:,}", f"{entry.data:,}", f"{entry.scales:,}"
            rows.append((entry.name, *details, *self._cost(entry.total)))
        rest = {"header": self.header, "checksum": self.checksum, **self.code}
        sums = {"model": self.model_total, "code": self.code_total, "total": self.total}
        rows += [(name, "", "", "", *self._cost(size)) for name, size in [*rest.items(), *sums.items()]]
        return _aligned([*rows, (f"left of {self.budget:,}", "", "", "", f"{self.headroom:,}", "")])

    def _cost(self, size: int) -> tuple[str, str]:
        return f"{size:,}", f"{100 * size / max(self.total, 1):.1f}%"


def build_ledger(
    artifact: bytes,
    code_files: dict[str, int],  # bytes by file name
    budget: int = BUDGET,
    kinds: tuple[Kind, ...] = (),  # storage kinds of the recipe, beyond the basic ones
) -> Ledger:
    """The ledger of an artifact and its code. Raises UserError for bytes that are no whole artifact."""
    layout = read_layout(artifact)
    entries = _entries(layout, kinds)
    return Ledger(entries, layout.header_bytes, CHECKSUM_BYTES, dict(sorted(code_files.items())), budget)


def check_budget(ledger: Ledger) -> None:
    """Raises UserError when the total is over the budget, with the excess and the three largest entries."""
    if ledger.headroom >= 0:
        return
    costs = {entry.name: entry.total for entry in ledger.entries} | ledger.code
    largest = sorted(costs.items(), key=lambda cost: -cost[1])[:3]
    raise UserError(
        f"a submission must take at most {ledger.budget:,} bytes, got {ledger.total:,}: {-ledger.headroom:,} too many; "
        f"largest: {', '.join(f'{name} {size:,}' for name, size in largest)}"
    )


def _entries(layout: Layout, kinds: tuple[Kind, ...]) -> tuple[LedgerEntry, ...]:
    entries = []
    for group in layout.header.groups:
        costs = {"data": 0, "scales": 0}
        for label, size in zip(kind_of_group(group, kinds).labels, group.stored, strict=True):
            costs[label] += size
        elements = sum(prod(shape) for shape in group.shapes)
        entries.append(LedgerEntry(group.group, group.kind, len(group.names), elements, **costs))
    return tuple(entries)


def _aligned(rows: list[tuple[str, ...]]) -> str:
    """Columns as wide as their widest cell, two spaces apart, the first one flush left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


# eval/score.py

"""The score: nats, bytes and tokens, which add up over windows, ranks and shards.

bits per byte = nats / ln 2 / bytes. The byte is the same for every tokenizer, the token is not.
"""

@dataclass(frozen=True)
class Score:
    """What a model paid for a text.

    >>> Score(nats=math.log(2) * 12, bytes=6, tokens=3) + Score(nats=0.0, bytes=6, tokens=1)
    Score(nats=8.317766166719343, bytes=12, tokens=4)
    >>> round((Score(math.log(2) * 12, 6, 3)).bpb, 6)
    2.0
    """

    nats: float = 0.0
    bytes: int = 0
    tokens: int = 0

    def __add__(self, other: "Score") -> "Score":
        return Score(self.nats + other.nats, self.bytes + other.bytes, self.tokens + other.tokens)

    @property
    def loss(self) -> float:
        """Nats per token, the competition's val_loss."""
        return self.nats / self.tokens

    @property
    def bpb(self) -> float:
        """Bits per byte, the competition's val_bpb."""
        return self.nats / math.log(2) / self.bytes

    @property
    def implied_bytes(self) -> float:
        """Bytes that the two published figures imply, val_loss / ln 2 * tokens / val_bpb: the check on a byte table."""
        return self.loss / math.log(2) * self.tokens / self.bpb


# data/shards.py

"""The competition's token shards: a header of 256 little-endian int32, then the token ids as little-endian uint16.

    header[0] = 20240520 (magic)   header[1] = 1 (version)   header[2] = number of tokens   the rest 0
    size of the file = 1024 + 2 x number of tokens, exactly [1]

[1] openai/parameter-golf, the organisers' train_gpt.py.
"""

SHARD_MAGIC = 20240520
SHARD_VERSION = 1
SHARD_HEADER_BYTES = 1024
# Anchored at the number: `fineweb_val_bytes_000000.bin` is the byte side-car of a shard and no shard.
SHARD_NAME = re.compile(r".+_(train|val)_(\d+)\.bin")


def open_shard(path: str | Path) -> np.memmap:
    """The token ids of a shard, memory-mapped and read-only: uint16 [number of tokens].

    Raises UserError when the file is missing, foreign (magic, version) or not of the size that its header says.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            header = file.read(SHARD_HEADER_BYTES)
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"the shard cannot be read: {path}: {error.strerror}") from error
    if len(header) < SHARD_HEADER_BYTES:
        raise UserError(f"{path} is no shard: the header takes {SHARD_HEADER_BYTES} bytes, the file has {size}")
    magic, version, num_tokens = (int(number) for number in np.frombuffer(header, dtype="<i4", count=3))
    if (magic, version) != (SHARD_MAGIC, SHARD_VERSION):
        raise UserError(
            f"{path} is no shard: it must start with {SHARD_MAGIC} and version {SHARD_VERSION}, "
            f"got {magic} and {version}"
        )
    expected = SHARD_HEADER_BYTES + 2 * num_tokens
    if num_tokens < 1 or size != expected:
        fault = "holds no token" if num_tokens < 1 else "is truncated" if size < expected else "is too long"
        raise UserError(f"{path} {fault}: {num_tokens} tokens take 1024 + 2 x {num_tokens} bytes, the file has {size}")
    return np.memmap(path, dtype="<u2", mode="r", offset=SHARD_HEADER_BYTES, shape=(num_tokens,))


def find_shards(folder: str | Path, split: str) -> list[Path]:
    """The shards of `split` ("train" or "val") in `folder`, sorted by name. Raises UserError when there are none."""
    shards = [path for path in Path(folder).glob("*.bin") if split_in_name(path) == split]
    if not shards:
        raise UserError(f"a data set needs {split} shards (*_{split}_000000.bin), found none in {folder}")
    return sorted(shards)


def split_in_name(path: Path) -> str | None:
    """Which split a shard's name says it belongs to; None for a file that is no shard."""
    match = SHARD_NAME.fullmatch(path.name)
    return match.group(1) if match else None


def read_tokens(paths: Sequence[str | Path], vocab_size: int) -> Tensor:
    """All tokens of the shards in the order given, int64 [number of tokens]; for validation streams.

    Raises UserError for a bad shard, and for an id that is not below `vocab_size`, with its file and position.
    """
    shards = [open_shard(path) for path in paths]
    tokens = torch.empty(sum(len(shard) for shard in shards), dtype=torch.int64)
    start = 0
    for path, shard in zip(paths, shards, strict=True):
        check_ids(shard, vocab_size, path)
        tokens[start : start + len(shard)] = torch.from_numpy(shard.astype(np.int64))
        start += len(shard)
    return tokens


def check_ids(
    ids: np.ndarray,  # [number of ids], at least one
    vocab_size: int,
    path: str | Path,
    position: int = 0,  # of ids[0] in the shard
) -> None:
    """Raises UserError when an id of the shard at `path` lies beyond the vocabulary."""
    if int(ids.max()) >= vocab_size:
        first = int((ids >= vocab_size).argmax())
        raise UserError(
            f"token ids must be below the vocabulary of {vocab_size}, got {int(ids[first])} at position "
            f"{position + first} of {path}; are shards and tokenizer from the same data set?"
        )


# data/stream.py

"""The tokens of a split as one endless stream over its sorted shards, memory-mapped and read where asked."""

class TokenStream:
    """`read(start, count)` costs what it returns; after the last token comes the first again."""

    def __init__(self, paths: Sequence[str | Path], vocab_size: int) -> None:
        """Maps the shards in stream order. Raises UserError for none, or a bad one."""
        if not paths:
            raise UserError("the loader needs at least one shard, got none")
        self._paths = list(paths)
        self._vocab_size = vocab_size
        self._shards = [open_shard(path) for path in paths]
        # starts[i] is where shard i begins in the stream; the last entry is the stream's length.
        self._starts = np.concatenate([[0], np.cumsum([len(shard) for shard in self._shards])])
        self.length = int(self._starts[-1])

    def read(self, start: int, count: int) -> Tensor:
        """[count] int64 ids from `start` modulo the length. Raises UserError for an id beyond the vocabulary."""
        ids = np.empty(count, dtype=np.int64)
        filled = 0
        while filled < count:
            place = (start + filled) % self.length
            index = int(np.searchsorted(self._starts, place, side="right")) - 1
            offset = place - int(self._starts[index])
            part = self._shards[index][offset : offset + count - filled]
            check_ids(part, self._vocab_size, self._paths[index], offset)
            ids[filled : filled + len(part)] = part
            filled += len(part)
        return torch.from_numpy(ids)

    def check_same(self, stream_tokens: int) -> None:
        """Raises UserError when a checkpoint's stream had another length than this one."""
        if stream_tokens != self.length:
            raise UserError(
                f"the checkpoint's data must be the loader's: its stream has {stream_tokens} tokens, "
                f"the shards have {self.length}"
            )


# data/loader.py

"""Training batches in the competition's order: one endless stream over the sorted shards, cut into the ranks' slices.

One call takes world_size x (tokens_per_slice + 1) contiguous tokens; rank r takes the r-th slice of them,
x = slice[:-1], y = slice[1:]. No shuffling, and windows cross documents [1]. So 8 ranks calling once and 1 rank calling
8 times see the same slices in the same order.

[1] openai/parameter-golf, the organisers' train_gpt.py.
"""

class SequentialLoader:
    """Endless batches of one rank; reads only the bytes it returns, and its whole state is a position in the stream."""

    def __init__(
        self,
        paths: Sequence[str | Path],  # the shards in stream order
        *,
        window: int,  # tokens a row
        tokens_per_slice: int,  # tokens a call and rank, a multiple of `window`
        rank: int,
        world_size: int,
        vocab_size: int,
    ) -> None:
        """Maps the shards. Raises UserError for sizes that do not divide, a rank outside the world, or a bad shard."""
        check_slices(window, tokens_per_slice, rank, world_size)
        self.window = window
        self.tokens_per_slice = tokens_per_slice
        self.rank = rank
        self.world_size = world_size
        self._stream = TokenStream(paths, vocab_size)
        # Both count over all ranks and never wrap; where a batch begins is the position modulo the stream's length.
        self.position = 0
        self.tokens = 0

    def next(self) -> tuple[Tensor, Tensor]:
        """The next x and y of this rank, int64 on the CPU, each [tokens_per_slice // window, window].

        The two share memory. Raises UserError for a token id beyond the vocabulary.
        """
        span = self.tokens_per_slice + 1
        ids = self._stream.read(self.position + self.rank * span, span)
        self.position += self.world_size * span
        self.tokens += self.world_size * self.tokens_per_slice
        return ids[:-1].view(-1, self.window), ids[1:].view(-1, self.window)

    def state_dict(self) -> dict[str, int]:
        """Where the stream stands, for all ranks alike: position, target tokens seen, epoch, length of the stream."""
        return {
            "position": self.position,
            "tokens": self.tokens,
            "epoch": self.position // self._stream.length,
            "stream_tokens": self._stream.length,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from a `state_dict`, of any world size. Raises UserError when it is of another stream."""
        self._stream.check_same(state["stream_tokens"])
        self.position = state["position"]
        self.tokens = state["tokens"]


def check_slices(window: int, tokens_per_slice: int, rank: int, world_size: int) -> None:
    """Raises UserError for sizes that do not divide or a rank outside the world."""
    if window < 1:
        raise UserError(f"a window holds at least 1 token, got {window}; nearest 1")
    if tokens_per_slice < 1 or tokens_per_slice % window:
        raise UserError(
            f"tokens a slice must be a multiple of the window = {window}, got {tokens_per_slice}; "
            f"nearest {nearest_multiple(tokens_per_slice, window)}"
        )
    if not 0 <= rank < world_size:
        closest = min(max(rank, 0), world_size - 1)
        raise UserError(f"a rank lies in 0..{world_size - 1} for {world_size} ranks, got {rank}; nearest {closest}")


# data/coprime.py

"""Training batches that mix the whole corpus: every row is a window from somewhere else.

The stream is cut into M = length // window windows. Row n is window (n P) mod M with P coprime to M and near the golden
section of M, so that neighbouring rows lie far apart, each window comes once an epoch, and there is nothing to store.
Every epoch shifts the cuts. Small batches need this: contiguous tokens of a step are all of one document [1].

[1] Parameter Golf pull request 1060 (coprime strides).
"""

GOLDEN = (5**0.5 - 1) / 2


class CoprimeLoader:
    """The same contract as `SequentialLoader`: 1 rank calling 8 times sees the slices of 8 ranks calling once."""

    def __init__(
        self,
        paths: Sequence[str | Path],  # the shards in stream order
        *,
        window: int,  # tokens a row
        tokens_per_slice: int,  # tokens a call and rank, a multiple of `window`
        rank: int,
        world_size: int,
        vocab_size: int,
    ) -> None:
        """Maps the shards. Raises UserError as `SequentialLoader` does, and for a stream shorter than one window."""
        check_slices(window, tokens_per_slice, rank, world_size)
        self.window, self.rank, self.world_size = window, rank, world_size
        self.tokens_per_slice = tokens_per_slice
        self._stream = TokenStream(paths, vocab_size)
        self._num_windows = self._stream.length // window
        if not self._num_windows:
            raise UserError(
                f"the training split must hold one window of {window} tokens, got {self._stream.length}; "
                f"nearest window {self._stream.length}"
            )
        self._stride = coprime_stride(self._num_windows)
        # Rows taken by all ranks since the start of training.
        self.rows = 0

    def next(self) -> tuple[Tensor, Tensor]:
        """The next x and y of this rank, int64 on the CPU, each [tokens_per_slice // window, window]."""
        count = self.tokens_per_slice // self.window
        first = self.rows + self.rank * count
        rows = torch.stack([self._stream.read(self._start(n), self.window + 1) for n in range(first, first + count)])
        self.rows += self.world_size * count
        return rows[:, :-1], rows[:, 1:]

    def state_dict(self) -> dict[str, int]:
        """Where training stands, for all ranks alike."""
        return {"rows": self.rows, "stream_tokens": self._stream.length}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from a `state_dict`, of any world size. Raises UserError when it is of another stream."""
        self._stream.check_same(state["stream_tokens"])
        self.rows = state["rows"]

    def _start(self, row: int) -> int:
        epoch, place = divmod(row, self._num_windows)
        shift = int(epoch * GOLDEN * self.window) % self.window
        return place * self._stride % self._num_windows * self.window + shift


def coprime_stride(count: int) -> int:
    """The number coprime to `count` that is nearest to its golden section.

    >>> coprime_stride(100), coprime_stride(2), coprime_stride(1)
    (61, 1, 1)
    """
    near = max(1, round(count * GOLDEN))
    return next(
        stride
        for distance in range(count)
        for stride in (near - distance, near + distance)
        if stride > 0 and gcd(stride, count) == 1
    )


# optim/average.py

"""Averages of the weights along the run, in fp32: equal snapshots (SWA) or an exponential shadow (EMA).

1. Izmailov et al. 2018, arXiv 1803.05407 (SWA).  2. Polyak and Juditsky 1992 (averaging of iterates).
"""

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class EMAConfig:
    """shadow <- decay * shadow + (1 - decay) * weights after every step; the first steps use a faster decay.

    With `decay` d the shadow at step t uses min(d, (1 + t) / (10 + t)), so that short runs are not held at their start.
    """

    decay: float = 0.997

    def build(self, weights: Weights) -> "EMA":
        return EMA(self, weights)


class EMA:
    """The exponential shadow. `count` is the number of updates."""

    def __init__(self, config: EMAConfig, weights: Weights) -> None:
        self._config = config
        self._shadow = {name: weight.detach().clone() for name, weight in weights.items()}
        self.count = 0

    @torch.no_grad()
    def update(self, weights: Weights, step: int, multiplier: float) -> None:
        """Called after every step; `step` and `multiplier` are SWA's."""
        decay = min(self._config.decay, (1 + self.count) / (10 + self.count))
        torch._foreach_lerp_(list(self._shadow.values()), [weights[name] for name in self._shadow], 1 - decay)
        self.count += 1

    def averaged(self, weights: Weights) -> Weights:
        return {name: shadow.clone() for name, shadow in self._shadow.items()}

    def state_dict(self) -> tuple[Weights, dict]:
        return self._shadow, {"count": self.count}

    def load_state_dict(self, tensors: Weights, facts: dict) -> None:
        for name, shadow in self._shadow.items():
            shadow.copy_(tensors[name])
        self.count = facts["count"]


# ops/newton_schulz/reference.py

"""Newton-Schulz orthogonalisation as the papers write it: one matrix, one dtype, five lines.

With G = U S Vᵀ the iteration X <- aX + (bA + cA²)X, A = XXᵀ, drives the singular values of G / |G| towards one and
leaves U and V as they are. The quintic trades exactness for speed: after five steps the values lie near [0.7, 1.2].

1. Jordan et al. 2024, Muon.  2. Bernstein and Newhouse 2024, arXiv 2409.20325.
"""

# a, b, c of the quintic.
QUINTIC = (3.4445, -4.7750, 2.0315)


# ops/newton_schulz/batched.py

"""Newton-Schulz over a stack of matrices of one shape: three batched products a step instead of many small ones."""

def newton_schulz(
    G: Tensor,  # [n, rows, cols]
    steps: int = 5,
    dtype: torch.dtype = torch.bfloat16,  # what the products run in
) -> Tensor:  # [n, rows, cols] in `dtype`
    """The nearly orthogonal factor of every matrix in the stack; a zero matrix stays zero."""
    a, b, c = QUINTIC
    tall = G.shape[-2] > G.shape[-1]
    X = G.to(dtype)
    X = X / (X.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    # The Gram matrix is taken on the short side.
    X = X.mT if tall else X
    for _ in range(steps):
        A = X @ X.mT
        X = torch.baddbmm(X, torch.baddbmm(A, A, A, beta=b, alpha=c), X, beta=a)
    return X.mT if tall else X


# runtime/peak.py

"""What the device can do at best: the measured rate of a large matrix product, the yardstick for "share of peak"."""

def matmul_peak(
    device: torch.device,
    dtype: torch.dtype,
    size: int | None = None,  # edge of the square matrices; 1024 on a CPU, 8192 on a GPU
    repeats: int = 5,
) -> float:
    """The best of `repeats` square matrix products, in floating-point operations a second."""
    cuda = device.type == "cuda"
    size = size or (8192 if cuda else 1024)
    a = torch.randn(size, size, device=device, generator=torch.Generator(device).manual_seed(0)).to(dtype)
    wait = torch.cuda.synchronize if cuda else (lambda: None)
    best = float("inf")
    for _ in range(repeats + 1):
        wait()
        start = time.perf_counter()
        a @ a
        wait()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


# runtime/machine.py

"""The machine a run stands on: its ranks, its device, the dtype it computes in, and its collectives.

torchrun is the distributed engine; this file only reads what it says. NCCL joins CUDA ranks, gloo joins CPU ranks, and
every collective is the identity on one rank, so that one rank and many take the same path.
"""

# A CPU computes in bf16 only where that is clearly the faster product: some CPUs list AVX512-BF16 and are slower in it.
BF16_ADVANTAGE = 1.2


@dataclass(frozen=True)
class Machine:
    """One rank's view of the machine; `peak_flops` and `fp32_peak_flops` are matrix product rates, as measured.

    They are those of a rank's device, the fastest rank's on all ranks; `peak_flops`, the yardstick, is of bf16.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")
    compute_dtype: torch.dtype = torch.float32
    peak_flops: float | None = None
    fp32_peak_flops: float | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    def computing_in(self, dtype: str | None) -> "Machine":
        """The same machine with this compute dtype ("bf16", "fp32"; None: its own)."""
        return replace(self, compute_dtype=_DTYPES[dtype]) if dtype else self

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sums `tensor` over the ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
        return tensor

    def max_(self, tensor: Tensor) -> Tensor:
        """The largest over the ranks, in place, elementwise."""
        if self.world_size > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor

    def gather(self, shard: Tensor) -> Tensor:
        """Concatenates each rank's `shard` [n, ...] in the order of the ranks: [world_size * n, ...]."""
        if self.world_size == 1:
            return shard
        whole = shard.new_empty((self.world_size * shard.shape[0], *shard.shape[1:]))
        dist.all_gather_into_tensor(whole, shard.contiguous())
        return whole

    def barrier(self) -> None:
        """Waits until every rank is here."""
        if self.world_size > 1:
            dist.barrier()

    def synchronize(self) -> None:
        """Waits until the device has done what was asked of it."""
        if self.on_cuda:
            torch.cuda.synchronize(self.device)


def start_machine(compute_dtype: str | None = None) -> Machine:
    """Reads torchrun's environment, joins the ranks and measures what this device computes fastest in.

    `compute_dtype` ("bf16", "fp32") overrules the choice; a resumed run passes the one it started with.
    """
    rank, local_rank, world_size = (int(os.environ.get(name, default)) for name, default in _TORCHRUN)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    else:
        _keep_freed_memory()
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(minutes=10))
        atexit.register(_leave)
    machine = Machine(rank, local_rank, world_size, device)
    return _with_dtype(machine, compute_dtype)


_TORCHRUN = (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"))
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def dtype_name(dtype: torch.dtype) -> str:
    """ "bf16" or "fp32", the names that recipes and checkpoints use."""
    return next(name for name, known in _DTYPES.items() if known is dtype)


def _with_dtype(machine: Machine, chosen: str | None) -> Machine:
    peaks = [matmul_peak(machine.device, dtype) for dtype in _DTYPES.values()]
    # Ranks must agree: the fastest rank's measurements decide for all of them.
    bf16, fp32 = machine.max_(torch.tensor(peaks, dtype=torch.float64, device=machine.device)).tolist()
    fastest = "bf16" if machine.on_cuda or bf16 > BF16_ADVANTAGE * fp32 else "fp32"
    return replace(machine, peak_flops=bf16, fp32_peak_flops=fp32).computing_in(chosen or fastest)


def _keep_freed_memory() -> None:
    """Tells glibc to keep freed memory: the activations of each step then reuse warm pages.

    By default every tensor over 128 KiB is mapped anew and its pages are faulted in again, which costs more than the
    elementwise operation that fills it.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_top_pad, 64 * 2**20)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """Ends the process with this exit code; a rank on the CPU ends at once.

    Gloo's threads abort a rank now and then ("terminate called without an active exception") when it takes itself apart
    while its peers go too: once in six runs of two ranks on two busy cores.
    """
    if dist.is_initialized() and not torch.cuda.is_available():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


# optim/muon.py

"""Muon: momentum whose matrices are orthogonalised before they move the weights.

m <- μ m + g;  u = NewtonSchulz(g + μ m) sqrt(max(1, rows / cols));  p <- p (1 - lr wd) - lr u

Matrices of one shape form a stack; each rank orthogonalises its share of every stack and the shares are gathered, which
on one rank is the whole stack and no communication. Momentum is kept in full on every rank, so that a checkpoint does
not depend on how many ranks wrote it.

1. Jordan et al. 2024, Muon.  2. Loshchilov and Hutter 2019, arXiv 1711.05101 (decoupled weight decay).
"""

class Muon(torch.optim.Optimizer):
    """Steps 2-D parameters; a schedule may change a group's `lr`, `momentum` and `weight_decay` at any step."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        *,
        machine: Machine,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        steps: int = 5,  # of Newton-Schulz
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._machine = machine
        self._steps = steps

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            directions = self._nesterov(params, group["momentum"])
            for shape in sorted({p.shape for p in params}):
                members = [i for i, p in enumerate(params) if p.shape == shape]
                updates = self._orthogonalise([directions[i] for i in members])
                scale = math.sqrt(max(1.0, shape[0] / shape[1]))
                stack = [params[i] for i in members]
                torch._foreach_mul_(stack, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(stack, updates, alpha=-group["lr"] * scale)

    def _nesterov(self, params: list[Tensor], momentum: float) -> list[Tensor]:
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum"] for p in params]
        grads = [p.grad for p in params]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, grads)
        return torch._foreach_add(grads, buffers, alpha=momentum)

    def _orthogonalise(self, directions: list[Tensor]) -> list[Tensor]:
        """This rank's share of the stack, orthogonalised, then everybody's: fp32, in the order of `directions`."""
        rank, world_size = self._machine.rank, self._machine.world_size
        share = math.ceil(len(directions) / world_size)
        own = directions[rank * share : (rank + 1) * share]
        # Ranks send shares of one size: the last ones are filled up with zero matrices, which stay zero.
        own = own + [torch.zeros_like(directions[0])] * (share - len(own))
        updates = newton_schulz(torch.stack(own), self._steps, self._machine.compute_dtype)
        return list(self._machine.gather(updates).float().unbind()[: len(directions)])


# optim/schedule.py

"""How fast, when: learning rates that know how much of the budget is left, and Muon's momentum warm-up.

A budget is a number of steps, a number of training seconds, or both; what runs out first ends the run. The multiplier
of the learning rates is 1 until the warm-down and falls linearly to 0 at the end of the budget, or follows a cosine.

1. Loshchilov and Hutter 2017, SGDR, arXiv 1608.03983 (cosine).
"""

@dataclass(frozen=True)
class Progress:
    """Where a run stands before a step: steps and training seconds done, and the limit of each (None: none).

    `last_step` is how long the last step took; a step that would end beyond the limit is not begun.
    """

    step: int
    seconds: float
    max_steps: int | None
    max_seconds: float | None
    last_step: float = 0.0

    @property
    def out_of_steps(self) -> bool:
        return self.max_steps is not None and self.step >= self.max_steps

    @property
    def out_of_time(self) -> bool:
        expected = max(self.last_step, self.seconds / max(1, self.step))
        return self.max_seconds is not None and self.seconds + expected > self.max_seconds

    @property
    def finished(self) -> bool:
        return self.out_of_steps or self.out_of_time

    @property
    def fraction(self) -> float:
        """The share of the budget that is used, 0 to 1."""
        by_steps = self.step / self.max_steps if self.max_steps else 0.0
        by_seconds = self.seconds / self.max_seconds if self.max_seconds else 0.0
        return min(1.0, max(by_steps, by_seconds))

    @property
    def steps_left(self) -> float:
        """Steps until the budget ends, by the average step so far where the clock decides."""
        left = float("inf")
        if self.max_steps is not None:
            left = self.max_steps - self.step
        if self.max_seconds is not None and self.step:
            left = min(left, (self.max_seconds - self.seconds) / (self.seconds / self.step))
        return max(0.0, left)


@dataclass(frozen=True)
class WarmdownSteps:
    """Linear to zero over the last `steps` steps, in seconds of an average step where the clock is the limit."""

    steps: int = 3000

    def multiplier(self, progress: Progress) -> float:
        return min(1.0, progress.steps_left / self.steps)


@dataclass(frozen=True)
class WarmdownFraction:
    """Linear to zero over the last `fraction` of the budget, whatever its length: for runs of any size."""

    fraction: float = 0.4

    def multiplier(self, progress: Progress) -> float:
        return min(1.0, (1.0 - progress.fraction) / self.fraction)


def warmed_momentum(step: int, start: float, end: float, warmup_steps: int) -> float:
    """Muon's momentum at `step`: linear from `start` to `end` over `warmup_steps`.

    >>> [round(warmed_momentum(step, 0.92, 0.99, 100), 3) for step in (0, 50, 100, 500)]
    [0.92, 0.955, 0.99, 0.99]
    """
    share = min(1.0, step / warmup_steps) if warmup_steps else 1.0
    return (1 - share) * start + share * end


# optim/groups.py

"""Which parameter is moved by what: ordered rules, first match wins, printed as a table at the start of every run."""

# (group, pattern searched in the parameter's name). Matrices and tables end in ".weight", control vectors do not.
ROUTES = (
    ("embedding", r"^embed\.(tokens|bigram\.table)\.weight$"),
    ("matrix", r"\.weight$"),
    # The logarithms of time constants: pulling them to 0 means something else than small weights.
    ("undecayed", r"\.(decay_log|step_bias)$"),
    ("scalar", r""),
)


@dataclass(frozen=True)
class OptimConfig:
    """Learning rates a group, the two optimisers' settings, clipping (None: off) and the schedule of the rates."""

    matrix_optimizer: Literal["muon", "adamw"] = "muon"
    matrix_lr: float = 0.02
    embedding_lr: float = 0.03
    scalar_lr: float = 0.02
    momentum: float = 0.99
    momentum_start: float = 0.92
    momentum_warmup_steps: int = 1500
    muon_weight_decay: float = 0.04
    adam_weight_decay: float = 0.01
    adam_betas: tuple[float, float] = (0.9, 0.95)
    adam_eps: float = 1e-8
    grad_clip: float | None = 0.3
    warmdown: WarmdownSteps | WarmdownFraction = field(default_factory=WarmdownSteps)


def route(name: str) -> str:
    """The group of the parameter `name`.

    >>> route("layers.3.attention.query.weight"), route("embed.tokens.weight"), route("layers.3.resid_mix")
    ('matrix', 'embedding', 'scalar')
    """
    return next(group for group, pattern in ROUTES if re.search(pattern, name))


class Optimizers:
    """Muon for matrices (or AdamW, as the config says) and AdamW for the rest, scheduled, stepped and saved as one.

    `groups` maps a group's name to its parameters by name; `routes_table()` is what the log prints.
    """

    def __init__(self, model: nn.Module, config: OptimConfig, machine: Machine) -> None:
        self._config = config
        self.groups: dict[str, dict[str, Tensor]] = {group: {} for group, _ in ROUTES}
        for name, parameter in model.named_parameters():
            self.groups[route(name)][name] = parameter
        by_muon = {"matrix"} if config.matrix_optimizer == "muon" else set()
        adam = [self._settings(group) for group in self.groups if self.groups[group] and group not in by_muon]
        self._optimizers: list[torch.optim.Optimizer] = [
            Muon([self._settings(group)], momentum=config.momentum_start, machine=machine) for group in by_muon
        ]
        self._optimizers.append(torch.optim.AdamW(adam, betas=config.adam_betas, eps=config.adam_eps, fused=True))
        self._names = {p: name for members in self.groups.values() for name, p in members.items()}

    def _settings(self, group: str) -> dict[str, Any]:
        """The parameter group of that name, as its optimiser takes it."""
        config = self._config
        rates = {"matrix": config.matrix_lr, "embedding": config.embedding_lr}
        decays = {
            "undecayed": 0.0,
            **({"matrix": config.muon_weight_decay} if config.matrix_optimizer == "muon" else {}),
        }
        rate = rates.get(group, config.scalar_lr)
        return {
            "params": list(self.groups[group].values()),
            "name": group,
            "lr": rate,
            "base_lr": rate,
            "weight_decay": decays.get(group, config.adam_weight_decay),
        }

    def clip(self) -> Tensor:
        """Scales the gradients so that their global norm is at most `grad_clip`; returns the norm before, 0-d."""
        grads = [p.grad for p in self._names if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        if self._config.grad_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(list(self._names), self._config.grad_clip, norm)
        return norm

    def step(self, step: int, multiplier: float) -> None:
        """One update with every learning rate times `multiplier`; `step` counts from 0 and sets Muon's momentum."""
        config = self._config
        momentum = warmed_momentum(step, config.momentum_start, config.momentum, config.momentum_warmup_steps)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group |= {"lr": group["base_lr"] * multiplier, "momentum": momentum}
            optimizer.step()

    def zero_grad(self) -> None:
        for p in self._names:
            p.grad = None

    def not_finite(self) -> str:
        """Names the groups whose weights or gradients hold a value that is not finite, and where."""
        found = []
        for group, members in self.groups.items():
            for kind, tensors in (("weights", members), ("gradients", {n: p.grad for n, p in members.items()})):
                bad = [n for n, t in tensors.items() if t is not None and not torch.isfinite(t).all()]
                if bad:
                    found.append(f"{group} {kind} ({bad[0]}{f' and {len(bad) - 1} more' if len(bad) > 1 else ''})")
        return ", ".join(found) or "no group: the loss alone"

    def state_dict(self) -> dict[str, Tensor]:
        """Every state tensor as `parameter name:key`, flat, for a checkpoint."""
        return {
            f"{self._names[p]}:{key}": value
            for optimizer in self._optimizers
            for p, state in optimizer.state.items()
            for key, value in state.items()
        }

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Restores what `state_dict` gave; an empty dict is the state before the first step."""
        for optimizer in self._optimizers:
            optimizer.state.clear()
            for group in optimizer.param_groups:
                for p in group["params"]:
                    prefix = f"{self._names[p]}:"
                    for key, value in tensors.items():
                        if key.startswith(prefix):
                            optimizer.state[p][key[len(prefix) :]] = value.to(p.device, copy=True)


def accumulation_steps(num_slices: int, world_size: int) -> int:
    """How many slices of the global batch each rank runs in a step. Raises UserError when they do not divide.

    >>> accumulation_steps(8, 2)
    4
    """
    if num_slices % world_size:
        fitting = [n for n in range(1, num_slices + 1) if num_slices % n == 0]
        raise UserError(
            f"the ranks must divide the slices of a step: {world_size} ranks, {num_slices} slices; "
            f"nearest number of ranks {min(fitting, key=lambda n: abs(n - world_size))}"
        )
    return num_slices // world_size


# runtime/files.py

"""Files that are either the old one or the new one, never half of each: temporary name, fsync, rename."""

@contextmanager
def atomic_writer(path: str | Path) -> Iterator[BinaryIO]:
    """Yields a binary file that takes the name `path` only once it is whole and on disk.

    Raises UserError when the disk is full or the place cannot be written; an earlier file of that name stays as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        _remove_if_there(temporary)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Replaces `path` by `data` in one step. Raises UserError as `atomic_writer` does."""
    with atomic_writer(path) as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    """Replaces `path` by `text` in UTF-8 in one step. Raises UserError as `atomic_writer` does."""
    write_bytes(path, text.encode("utf-8"))


def read_bytes(path: str | Path, what: str) -> bytes:
    """The bytes of `path`; `what` says in the error what the file should have been ("the packed model").

    Raises UserError when it is missing or unreadable.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{what} cannot be read: {path}: {error.strerror}") from error


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file as 64 hexadecimal digits, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unwritable(path: str | Path, error: OSError) -> UserError:
    """The message for a place that cannot be written: a full disk, a missing permission, a folder in the way."""
    return UserError(f"cannot write {path}: {error.strerror or error}; what was there before is untouched")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_if_there(path: Path) -> None:
    # A folder without write permission never held the temporary file.
    with suppress(OSError):
        path.unlink(missing_ok=True)


# runtime/checkpoint.py

"""Checkpoints: one safetensors file, tensors by name and one metadata key of canonical JSON; no pickle.

The file is written under a temporary name, synced and renamed: a run killed at any moment finds the old one or the new.
"""

# More than one metadata key gives a file whose bytes differ from save to save (safetensors issue 386).
_METADATA_KEY = "sixteen"


def save_checkpoint(path: str | Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Replaces `path` by `tensors` (any dtype; moved to the CPU) and the JSON-able `facts`."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    metadata = {_METADATA_KEY: json.dumps(facts, sort_keys=True, separators=(",", ":"))}
    write_bytes(path, save(held, metadata=metadata))


def load_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_checkpoint` wrote: (tensors, facts). Raises UserError when the file is not a checkpoint of ours."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _facts(file)  # noqa: SIM118


def checkpoint_facts(path: str | Path) -> dict[str, Any]:
    """The facts alone, without reading a tensor. Raises UserError as `load_checkpoint` does."""
    with _opened(path) as file:
        return _facts(file)


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no checkpoint of this pipeline ({error}); remove it or name another run") from error


def _facts(file: Any) -> dict[str, Any]:
    return json.loads(file.metadata()[_METADATA_KEY])


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names every tensor `prefix.name`, so that several parts share one file."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `prefixed`: the tensors under `prefix`, the prefix taken off."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's random generators on the CPU and on `device`."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Sets the generators back to what `random_state` saw."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


# runtime/clock.py

"""The training clock: it runs while the model trains and stands still for validation, checks and set-up."""

class TrainingClock:
    """Seconds of training, device work included; `pause` before anything that does not count, `start` after it."""

    def __init__(self, machine: Machine, elapsed: float = 0.0) -> None:
        self._machine = machine
        self._banked = elapsed
        self._since: float | None = None

    def start(self) -> None:
        self._machine.synchronize()
        self._since = time.perf_counter()

    def pause(self) -> None:
        self._machine.synchronize()
        self._banked = self.seconds()
        self._since = None

    def seconds(self) -> float:
        """Training seconds until now, a resumed run's earlier ones included."""
        running = time.perf_counter() - self._since if self._since is not None else 0.0
        return self._banked + running


# runtime/signals.py

"""SIGTERM as a request: the step is finished and a checkpoint written before the process goes."""

class TerminationRequest:
    """True once SIGTERM came. torchrun and batch schedulers send it before they kill."""

    # The exit code of a run that stopped on request and can be resumed (BSD's EX_TEMPFAIL).
    EXIT_CODE = 75

    def __init__(self) -> None:
        self._asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        self._asked = True

    def __bool__(self) -> bool:
        return self._asked


# optim/trainer.py

"""The training loop: slices in, averaged weights out, resumable bit for bit.

A step runs `num_slices` slices of the token stream, shared out among the ranks and accumulated, so that 1, 2, 4 and 8
ranks see the same tokens in the same step. What the clock says is agreed among the ranks once a step; every decision
that depends on it (learning rate, stop) is then the same everywhere.
"""

@dataclass(frozen=True)
class TrainConfig:
    """Budget, batch and cadence of a run; None switches a cadence or a limit off."""

    seed: int = 1337
    seconds: float | None = 600.0  # of the training clock
    steps: int | None = 20_000
    tokens_per_step: int = 524_288  # over all ranks
    window: int = 1024  # tokens a row
    num_slices: int = 8  # of a step's tokens; the number of ranks must divide it
    log_every: int = 50
    validate_every: int | None = 1000
    checkpoint_every: int | None = 500
    warmup_steps: int = 20  # compile warm-up, CUDA only; weights, optimisers and loader are restored after it
    curriculum: None = None  # shorter rows first
    compute_dtype: Literal["bf16", "fp32"] | None = None  # None: what this machine is fastest in

    @property
    def tokens_per_slice(self) -> int:
        return self.tokens_per_step // self.num_slices

    def check(self, world_size: int) -> None:
        """Raises UserError unless the global batch divides into slices of whole windows and slices into ranks."""
        unit = self.num_slices * self.window
        if self.tokens_per_step < unit or self.tokens_per_step % unit:
            raise UserError(
                f"tokens a step must be a multiple of slices x window = {self.num_slices} x {self.window} = {unit}, "
                f"got {self.tokens_per_step}; nearest {max(1, round(self.tokens_per_step / unit)) * unit}"
            )
        accumulation_steps(self.num_slices, world_size)
        if self.curriculum:
            self.curriculum.check(self.window)
        if self.seconds is None and self.steps is None:
            raise UserError(
                "a run needs a budget: --train.seconds and --train.steps are both none; nearest 600 seconds"
            )


class NonFiniteLossError(RuntimeError):
    """The loss or a gradient stopped being a number; the message names the step and the parameter groups."""

    exit_code = 3


@dataclass(frozen=True)
class StepReport:
    """What one step did: `step` counts from 1, `loss` is the mean over the step's tokens in nats."""

    step: int
    loss: float
    grad_norm: float
    multiplier: float
    seconds: float  # of the training clock


class Trainer:
    """Holds all that moves during training; `state` of it goes into the checkpoint and comes back bit for bit."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        model: nn.Module,  # the weights; tokens, targets -> nats, state
        forward: Callable,  # the same model, compiled where the machine compiles
        optimizers: Optimizers,
        average: EMA | None,
        warmdown: WarmdownSteps | WarmdownFraction,
        loader: SequentialLoader | CoprimeLoader,
        machine: Machine,
        identity: str,  # the recipe's fingerprint: a checkpoint of another recipe is refused
    ) -> None:
        config.check(machine.world_size)
        self.config, self.machine, self.identity = config, machine, identity
        self.model, self.forward, self.loader = model, forward, loader
        self.optimizers, self.average, self.warmdown = optimizers, average, warmdown
        self.weights = dict(model.named_parameters())
        self.clock = TrainingClock(machine)
        self.step = 0
        self.stopped_by_signal = False
        self._accumulate = accumulation_steps(config.num_slices, machine.world_size)

    def run(self, on_step: Callable[[StepReport], None], checkpoint: Path) -> None:
        """Trains until the budget is spent or SIGTERM comes, then writes the checkpoint.

        `on_step` sees every step with the clock running; whoever takes time there pauses it. Raises
        NonFiniteLossError, which leaves the last checkpoint as it was.
        """
        termination = TerminationRequest()
        self.clock.start()
        seconds = self.clock.seconds()
        while True:
            before = seconds
            seconds, asked = self._agree(self.clock.seconds(), bool(termination))
            progress = Progress(self.step, seconds, self.config.steps, self.config.seconds, seconds - before)
            self.stopped_by_signal = asked and not progress.finished
            if progress.finished or asked:
                break
            on_step(self._one_step(progress))
            if self.config.checkpoint_every and self.step % self.config.checkpoint_every == 0:
                self.save(checkpoint)
        self.clock.pause()
        self.save(checkpoint)

    def _one_step(self, progress: Progress) -> StepReport:
        multiplier = self.warmdown.multiplier(progress)
        loss = self._gradients()
        grad_norm = float(self.optimizers.clip())
        if not math.isfinite(loss + grad_norm):
            raise NonFiniteLossError(
                f"step {self.step + 1}: the loss is {loss:g} and the gradient norm {grad_norm:g}; not finite: "
                f"{self.optimizers.not_finite()}; the last checkpoint is untouched"
            )
        self.optimizers.step(self.step, multiplier)
        self.optimizers.zero_grad()
        self.step += 1
        if self.average:
            self.average.update(self.weights, self.step, multiplier)
        return StepReport(self.step, loss, grad_norm, multiplier, self.clock.seconds())

    def _gradients(self) -> float:
        """Leaves the gradient of the step's mean loss in every parameter, the same on all ranks; returns that loss."""
        total = torch.zeros((), dtype=torch.float32, device=self.machine.device)
        for _ in range(self._accumulate):
            x, y = (part.to(self.machine.device, non_blocking=True) for part in self.loader.next())
            if self.config.curriculum:
                x, y = (self.config.curriculum.rows(part, self.step * self.config.tokens_per_step) for part in (x, y))
            loss = self.nats(x, y).mean() / self.config.num_slices
            loss.backward()
            total += loss.detach()
        self._share_gradients()
        return float(self.machine.sum_(total))

    @property
    def tokens(self) -> int:
        """Targets that all ranks have trained on."""
        return self.step * self.config.tokens_per_step

    def nats(self, x: Tensor, y: Tensor) -> Tensor:
        """Of one slice, from the start of every row."""
        return self.forward(x, y)[0]

    def _share_gradients(self) -> None:
        """Sums the ranks' gradients as one flat message."""
        if self.machine.world_size == 1:
            return
        grads = [p.grad for p in self.weights.values() if p.grad is not None]
        flat = self.machine.sum_(torch.cat([grad.flatten() for grad in grads]))
        for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))

    def _agree(self, seconds: float, asked: bool) -> tuple[float, bool]:
        """The slowest rank's clock, and whether any rank was asked to stop."""
        pair = torch.tensor([seconds, float(asked)], dtype=torch.float64, device=self.machine.device)
        slowest, any_asked = self.machine.max_(pair).tolist()
        return slowest, any_asked > 0

    def warm_up(self, steps: int) -> None:
        """Runs real steps so that everything is compiled, then puts weights, optimisers, average and loader back."""
        tensors, facts = self.state()
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        for _ in range(steps):
            self._one_step(Progress(self.step, 0.0, None, None))
        self.restore(tensors, facts)

    @torch.no_grad()
    def use_average(self) -> None:
        """Puts the average in the place of the last weights; they stay in the checkpoint."""
        for name, weight in self.average.averaged(self.weights).items():
            self.weights[name].copy_(weight)

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Everything that the next step depends on: tensors by name, and JSON-able facts."""
        averaged, average_facts = self.average.state_dict() if self.average else ({}, {})
        tensors = {
            **prefixed("model", {name: p.detach() for name, p in self.weights.items()}),
            **prefixed("optim", self.optimizers.state_dict()),
            **prefixed("average", averaged),
            **prefixed("random", random_state(self.machine.device)),
        }
        facts = {
            "step": self.step,
            "seconds": self.clock.seconds(),
            "loader": self.loader.state_dict(),
            "average": average_facts,
            "identity": self.identity,
            "compute_dtype": dtype_name(self.machine.compute_dtype),
        }
        return tensors, facts

    def restore(self, tensors: dict[str, Tensor], facts: dict) -> None:
        """The inverse of `state`."""
        with torch.no_grad():
            for name, weight in with_prefix("model", tensors).items():
                self.weights[name].copy_(weight)
        self.optimizers.load_state_dict(with_prefix("optim", tensors))
        if self.average:
            self.average.load_state_dict(with_prefix("average", tensors), facts["average"])
        restore_random_state(with_prefix("random", tensors), self.machine.device)
        self.loader.load_state_dict(facts["loader"])
        self.step = facts["step"]
        self.clock = TrainingClock(self.machine, facts["seconds"])

    def save(self, path: Path) -> None:
        """Writes the checkpoint (the first rank; all hold the same)."""
        tensors, facts = self.state()
        if self.machine.is_main:
            save_checkpoint(path, tensors, facts)

    def resume(self, path: Path) -> bool:
        """Continues from `path` if it is there. Raises UserError when it is of another recipe."""
        if not path.exists():
            return False
        tensors, facts = load_checkpoint(path)
        if facts["identity"] != self.identity:
            raise UserError(
                f"{path} is of another recipe or other overrides (fingerprint {facts['identity']}, this run "
                f"{self.identity}); give this run a RUN_ID of its own"
            )
        self.restore(tensors, facts)
        return True


# quantize/prune.py

"""Magnitude pruning before quantisation, as in parameter-golf #180 with 3 %: zeros are cheap for an entropy coder."""

# Matrices up to this size are passed through in fp16, where a zero saves next to nothing.
LARGEST_UNPRUNED = 65_536


def prune_smallest(
    weight: Tensor,  # any shape; only matrices of more than 65,536 elements change
    fraction: float,  # in [0, 1)
) -> Tensor:
    """The weight with the `fraction` of its smallest |w| set to 0, one threshold a tensor; ties at it all stay.

    >>> weight = torch.arange(1.0, 70_001.0).reshape(700, 100)
    >>> pruned = prune_smallest(weight, 0.03)
    >>> int((pruned == 0).sum()), pruned.flatten()[2100].item()
    (2100, 2101.0)
    """
    if not 0 <= fraction < 1:
        raise UserError(f"the share to prune must lie in [0, 1), got {fraction}; #180 takes 0.03")
    if weight.ndim != 2 or weight.numel() <= LARGEST_UNPRUNED:
        return weight
    magnitudes = weight.abs()
    # An order statistic, because torch.quantile stops at 16 M elements.
    smallest_kept = magnitudes.flatten().kthvalue(int(fraction * weight.numel()) + 1).values
    return torch.where(magnitudes < smallest_kept, 0.0, weight)


# quantize/scale.py

"""Scale rules: how far apart the codes of a row lie.

A rule maps a weight and a grid to fp16 scales: one a row for matrices, one a tensor for everything else. The scale is
rounded to fp16 before any weight is divided by it, so the codes are the nearest ones to what will be decoded. No rule
looks at values in Python: each of them runs under autograd and torch.compile.

[1] parameter-golf #162, #180, #465: row maximum / clip.   [2] the baseline's int8 export: .9999984-quantile / 127.
[3] BitNet b1.58, arXiv 2402.17764; by blocks: Imli.
"""

ScaleRule = Callable[[Tensor, Grid], Tensor]

# Below this, fp16 numbers lose digits and at last become 0, by which nothing can be divided.
SMALLEST_SCALE = torch.finfo(torch.float16).tiny


@dataclass(frozen=True)
class RowMax:
    """scale = max|w| / clip: nothing is clipped, and no weight is off by more than half a scale [1].

    [1] floors the scale at 1e-12 before and at the smallest normal fp16 number, 6.1e-5, after the rounding to fp16; the
    second floor contains the first. It keeps rows of zeros apart from division by zero.

    >>> from quantize.grid import INT5
    >>> RowMax()(torch.tensor([[3.0, -7.5], [0.0, 0.0]]), INT5).tolist()
    [0.5, 6.103515625e-05]
    """

    def __call__(self, weight: Tensor, grid: Grid) -> Tensor:
        return _fp16_scale(rows_of(weight).abs().amax(dim=1) / grid.clip, weight)


def rows_of(weight: Tensor) -> Tensor:
    """A weight as [rows, cols] in fp32: one row for what is no matrix, a zero in rows that are empty."""
    rows = weight.shape[0] if weight.ndim == 2 else 1
    if weight.numel() == 0:
        return weight.new_zeros(rows, 1, dtype=torch.float32)
    return weight.float().reshape(rows, -1)


def _fp16_scale(scale: Tensor, weight: Tensor) -> Tensor:
    """[rows] in fp32 -> fp16, [rows] for a matrix and 0-d for the rest."""
    return stored_scale(scale).reshape(weight.shape[:1] if weight.ndim == 2 else ())


def stored_scale(scale: Tensor) -> Tensor:
    """fp32 of any shape -> fp16, never so small that nothing can be divided by it."""
    return nearest_fp16(scale.clamp_min(SMALLEST_SCALE)).half()


def nearest_fp16(values: Tensor) -> Tensor:
    """Positive fp32 numbers, from 2^-14 up, at the nearest fp16 number, ties to even, still in fp32.

    torch.compile drops a cast to fp16 that is cast back later, and with it the rounding; it does not drop this.
    """
    bits = values.view(torch.int32)
    # fp16 keeps ten of the 23 bits of the fraction.
    return ((bits + 0x0FFF + (bits >> 13 & 1)) & ~0x1FFF).view(torch.float32)


# quantize/plan.py

"""Which tensor is stored how: an ordered tuple of rules, of which the first that matches a tensor decides.

plan = (Rule("small", "fp16", max_elements=65_536), Rule("mlp", INT5, pattern=r"\\.mlp\\."), Rule("rest", INT8))
codes = quantize(weights, plan)
"""

PASS_THROUGH = {"fp16": torch.float16, "fp32": torch.float32}

# (weights of one shape by name, grid, scale rule, moments of their inputs by name) -> codes by name
Method = Callable[[Mapping[str, Tensor], Grid, ScaleRule, Mapping[str, Tensor]], Mapping[str, Coded]]


@dataclass(frozen=True)
class Rule:
    """One line of a plan: tensors that meet every condition given are kept as `store` says; None means no condition."""

    name: str
    store: Grid | Literal["fp16", "fp32"]
    pattern: str | None = None  # a regular expression, searched for in the tensor's name
    scale: ScaleRule = RowMax()
    method: Method | None = None  # None: each weight by itself
    min_elements: int | None = None  # inclusive
    max_elements: int | None = None  # inclusive
    ndim: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.store, Grid) and self.store not in PASS_THROUGH:
            raise UserError(f"rule {self.name!r} must store on a Grid, as fp16 or as fp32, got {self.store!r}")
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise UserError(f"the pattern of rule {self.name!r} must be a regular expression: {error}") from error

    @property
    def bits(self) -> int:
        """Bits a number before entropy coding."""
        return self.store.bits if isinstance(self.store, Grid) else PASS_THROUGH[self.store].itemsize * 8

    def matches(self, name: str, shape: Sequence[int]) -> bool:
        """Whether a tensor of this name and shape meets every condition."""
        elements = prod(shape)
        return (
            (self.pattern is None or re.search(self.pattern, name) is not None)
            and (self.min_elements is None or elements >= self.min_elements)
            and (self.max_elements is None or elements <= self.max_elements)
            and (self.ndim is None or len(shape) == self.ndim)
        )


def rule_for(name: str, shape: Sequence[int], plan: tuple[Rule, ...]) -> Rule:
    """The first rule of the plan that matches. Raises UserError for a tensor that no rule matches.

    >>> rule_for("norm.gain", (512,), (Rule("matrices", "fp16", ndim=2), Rule("rest", "fp32"))).name
    'rest'
    """
    for rule in plan:
        if rule.matches(name, shape):
            return rule
    names = ", ".join(rule.name for rule in plan) or "none"
    raise UserError(
        f"every tensor must match a rule of the plan, {name} {tuple(shape)} matches none (rules: {names}); "
        'a last Rule("rest", "fp16") takes what is left'
    )


def quantize(
    weights: Mapping[str, Tensor],  # floating point, any device; left as they are
    plan: tuple[Rule, ...],
    prune: float | None = None,  # the share of the smallest |w| of large matrices set to 0 first
    hessians: Mapping[str, Tensor] | None = None,  # by name, [cols, cols]: moments of the inputs, where a method asks
) -> Codes:
    """The codes of a model, on the CPU, in the order of their names.

    Raises UserError for a tensor that no rule matches, that is not floating point or not finite, whose values or scales
    are beyond fp16, or whose method lacks the moment of its inputs.
    """
    batches: dict[tuple[Rule, Sequence[int]], list[str]] = defaultdict(list)
    for name in sorted(weights):
        batches[rule_for(name, weights[name].shape, plan), weights[name].shape].append(name)
    codes: Codes = {}
    for (rule, _), names in batches.items():
        batch = {name: _prepared(name, weights[name], prune) for name in names}
        codes |= rule.method(batch, rule.store, rule.scale, hessians or {}) if rule.method else _each(batch, rule)
        for name, weight in batch.items():
            _refuse_overflow(name, codes[name], weight)
    return {name: codes[name] for name in sorted(codes)}


def _each(batch: Mapping[str, Tensor], rule: Rule) -> Codes:
    """Every number of the batch by itself."""
    if not isinstance(rule.store, Grid):
        return {name: weight.to(PASS_THROUGH[rule.store]) for name, weight in batch.items()}
    return {name: round_to_grid(weight, rule.scale(weight, rule.store), rule.store) for name, weight in batch.items()}


def _prepared(name: str, weight: Tensor, prune: float | None) -> Tensor:
    weight = _finite_on_cpu(name, weight)
    return weight if prune is None else prune_smallest(weight, prune)


def _finite_on_cpu(name: str, weight: Tensor) -> Tensor:
    """A contiguous fp32 copy, so that later changes of the model do not reach the codes."""
    if not weight.is_floating_point():
        raise UserError(f"weights must be floating point, {name} is {weight.dtype}")
    copy = weight.detach().to("cpu", torch.float32, copy=True).contiguous()
    bad = copy.numel() - int(copy.isfinite().sum())
    if bad:
        raise UserError(f"weights must be finite, {name} holds {bad} NaN or infinite values of {copy.numel()}")
    return copy


def _refuse_overflow(name: str, stored: Coded | Tensor, weight: Tensor) -> None:
    """Stored values, or scales, must have stayed finite in fp16."""
    if not (stored.scale if isinstance(stored, Coded) else stored).isfinite().all():
        largest = weight.abs().max().item()
        raise UserError(
            f"fp16 numbers reach 65504, {name} needs more: its largest |w| is {largest:g}; store it as fp32"
        )


# model/linear.py

"""The matrix of the model: fp32 master weight, cast to the dtype of what it multiplies."""

# A weight map makes the weight that the forward uses from the stored one: straight-through quantisation, for example.
WeightMap = Callable[[Tensor], Tensor]


def stored_weight(weight: Tensor) -> Tensor:
    """The weight map that changes nothing."""
    return weight


class Linear(nn.Module):
    """y = x Wᵀ without bias. W [out_features, in_features] is fp32; the product runs in x's dtype, sums in fp32."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        weight_map: WeightMap | None = None,  # None: the stored weight as it is
        zero_init: bool = False,  # output projections start at zero, so that a new block is the identity
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(empty(out_features, in_features))
        self.weight_map = weight_map or stored_weight
        self.zero_init = zero_init

    def forward(
        self,
        x: Tensor,  # [..., in_features]
    ) -> Tensor:  # [..., out_features]
        return F.linear(x, self.weight_map(self.weight).to(x.dtype))


# ops/rms_norm/reference.py

"""RMS norm without a weight, as written: y = x / sqrt(mean(x²) + eps) over the last dimension, statistics in fp32.

1. Zhang and Sennrich 2019, arXiv 1910.07467.
"""

# The machine epsilon of fp32, what torch takes for an RMS norm in that dtype.
RMS_EPS = torch.finfo(torch.float32).eps


# ops/rms_norm/fused.py

"""RMS norm with a backward of its own: two passes over x forward, four backward, only x and one number a row kept.

With r = 1 / sqrt(mean(x²) + eps), y = r x and upstream gradient g:  dx = r g - x r³ mean(g x). The L2 norm is the same
but for a factor.
"""

class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, eps: float, length: float) -> Tensor:
        r = inverse_rms(x, eps)
        ctx.save_for_backward(x, r)
        ctx.length = length
        return x * (r * length)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None, None]:
        x, r = ctx.saved_tensors
        return norm_backward(g, x, r, r * ctx.length), None, None


def inverse_rms(x: Tensor, eps: float = RMS_EPS) -> Tensor:
    """1 / sqrt(mean(x²) + eps) of the rows of x [..., D]: [..., 1] in x's dtype, summed in fp32 or wider."""
    wide = x if x.dtype == torch.float64 else x.float()
    mean_square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square() / x.shape[-1]
    return torch.rsqrt(mean_square + eps).to(x.dtype)


def norm_backward(
    g: Tensor,  # [..., D], gradient of y = scale x with scale proportional to r
    x: Tensor,  # [..., D]
    r: Tensor,  # [..., 1]
    scale: Tensor,  # [..., 1]
) -> Tensor:  # [..., D]
    """The gradient of x through y = scale x, where scale = constant * r."""
    along = (g * x).sum(-1, keepdim=True)
    return torch.addcmul(g * scale, x, along * (scale * r * r / -x.shape[-1]))


def rms_norm(x: Tensor, eps: float = RMS_EPS) -> Tensor:
    """x / sqrt(mean(x²) + eps) over the last dimension [..., D], without a weight."""
    return _RMSNorm.apply(x, eps, 1.0)


def l2_norm(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(sum(x²) + eps) over the last dimension [..., D]: vectors of length one."""
    size = x.shape[-1]
    return _RMSNorm.apply(x, eps / size, size**-0.5)


# model/embed.py

"""Tokens -> the first residual, and back: the tied embedding, BigramHash and SmearGate.

BigramHash: row ((36313 id_t) xor (27191 id_{t-1})) mod (B - 1) of a table [B, 128], projected to the width and scaled;
position 0 has no predecessor and uses row B - 1. SmearGate: y_t = (1 - σ(a)) x_t + σ(a) x_{t-1}, a learned vector.

1. Parameter Golf pull requests 162, 180 and 465 (both modules). 2. Press and Wolf 2017, arXiv 1608.05859 (tying).
"""

# The last token id [B] and its embedding before the smear [B, dim]; what the next call needs of this one.
EmbedState = tuple[Tensor, Tensor]


class Table(nn.Module):
    """Rows looked up by id: weight [num_rows, dim], fp32."""

    def __init__(self, num_rows: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_rows, dim))

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return F.embedding(ids, self.weight).to(dtype)


@dataclass(frozen=True)
class SmearBigramConfig:
    """x = Smear(RMS(E[tokens] + scale * P(bigram))), the embedding of pull request 465."""

    bigram_rows: int = 4096
    bigram_dim: int = 128
    bigram_scale: float = 0.05
    init_std: float = 0.005

    def build(self, vocab_size: int, dim: int) -> "SmearBigramEmbedding":
        return SmearBigramEmbedding(self, vocab_size, dim)


class SmearBigramEmbedding(nn.Module):
    """The same contract as `TokenEmbedding`; its state is the last token and the last row before the smear."""

    def __init__(self, config: SmearBigramConfig, vocab_size: int, dim: int) -> None:
        super().__init__()
        self.config = config
        self.tokens = Table(vocab_size, dim)
        self.bigram = BigramHash(config.bigram_rows, config.bigram_dim, dim, config.bigram_scale)
        self.smear = SmearGate(dim)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.tokens.weight, std=self.config.init_std)
        # The table is zero, the projection is not (the model's initialiser makes it orthogonal): two zeros in a
        # product would never get a gradient.
        nn.init.zeros_(self.bigram.table.weight)

    def forward(
        self,
        tokens: Tensor,  # [B, T] int64
        dtype: torch.dtype,
        state: EmbedState | None = None,
    ) -> tuple[Tensor, EmbedState]:  # [B, T, dim]
        last_token, last_row = (None, None) if state is None else state
        x = rms_norm(self.tokens(tokens, dtype) + self.bigram(tokens, dtype, last_token))
        return self.smear(x, last_row), (tokens[:, -1], x[:, -1])


class BigramHash(nn.Module):
    """A hashed table of token pairs: [B, T] ids -> [B, T, dim]."""

    def __init__(self, num_rows: int, row_dim: int, dim: int, scale: float) -> None:
        super().__init__()
        self.num_rows = num_rows
        self.table = Table(num_rows, row_dim)
        self.project = Linear(row_dim, dim)
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, tokens: Tensor, dtype: torch.dtype, last_token: Tensor | None) -> Tensor:
        rows = bigram_rows(tokens, self.num_rows, last_token)
        return self.scale.to(dtype) * self.project(self.table(rows, dtype))


def bigram_rows(
    tokens: Tensor,  # [B, T]
    num_rows: int,
    last_token: Tensor | None = None,  # [B], the token before the first; None at the start of a text
) -> Tensor:  # [B, T] int64 in [0, num_rows)
    """The table row of every (token, predecessor) pair, hashed in 32-bit integers."""
    ids = tokens.int()
    hashed = (36313 * ids[:, 1:] ^ 27191 * ids[:, :-1]) % (num_rows - 1)
    if last_token is None:
        first = torch.full_like(ids[:, :1], num_rows - 1)
    else:
        first = (36313 * ids[:, :1] ^ 27191 * last_token.int()[:, None]) % (num_rows - 1)
    return torch.cat((first, hashed), dim=1).long()


class SmearGate(nn.Module):
    """Blends every row with its predecessor; at the start (gate 0) half and half."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, last_row: Tensor | None = None) -> Tensor:
        first = torch.zeros_like(x[:, :1]) if last_row is None else last_row[:, None]
        before = torch.cat((first, x[:, :-1]), dim=1)
        return torch.lerp(x, before, torch.sigmoid(self.gate).to(x.dtype))


# ops/relu_squared/fused.py

"""relu(x)² that keeps relu(x) alone: one pass back instead of three. d/dx = 2 relu(x).

1. So et al. 2021, Primer, arXiv 2109.08668.
"""

class _ReluSquared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        positive = x.relu()
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return (g * positive).mul_(2)


def relu_squared(x: Tensor) -> Tensor:
    """relu(x)², elementwise. Its twin is `torch.relu(x).square()`."""
    return _ReluSquared.apply(x)


# model/mlp.py

"""The ReLU² feed-forward layer: W_down relu(W_up x)².

1. So et al. 2021, Primer, arXiv 2109.08668.
"""

@dataclass(frozen=True)
class MLPConfig:
    """`hidden` is the width between the two matrices; `weight_map` is handed to both."""

    hidden: int
    weight_map: WeightMap | None = None

    def build(self, dim: int) -> "MLP":
        return MLP(self, dim)


class MLP(nn.Module):
    """[..., dim] -> [..., dim]; the down projection starts at zero."""

    def __init__(self, config: MLPConfig, dim: int) -> None:
        super().__init__()
        self.up = Linear(dim, config.hidden, config.weight_map)
        self.down = Linear(config.hidden, dim, config.weight_map, zero_init=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(relu_squared(self.up(x)))


# quantize/fit.py

"""Filling a byte budget: the size of codes before they are packed, and the steps at which a model just fits.

Steps twice as coarse save one bit of every weight on a grid, n / 8 bytes for n weights, and less where few integers are
in use. `fit_steps` begins with that and corrects itself by the sizes it is shown: predicted ones first, which are
cheap, and real ones from where those ended:

    rough = fit_steps(lambda m: predicted_bytes(quantize(weights, plan(m))), budget, num_weights)
    fit = fit_steps(lambda m: len(pack(quantize(weights, plan(m)), ...)), budget, num_weights, rough.multiplier)
"""

# The largest share of the budget that may stay empty.
SLACK = 0.001
MOST_TRIES = 12
# Octaves on either side of the start that are searched.
FARTHEST = 8.0


@dataclass(frozen=True)
class Fit:
    """Where a search ended."""

    multiplier: float  # of every step
    size: int  # bytes, at most the budget
    tries: int


def fit_steps(
    size: Callable[[float], float],  # multiplier of every step -> bytes
    budget: int,  # bytes
    num_weights: int,  # on a grid
    start: float = 1.0,
) -> Fit:
    """The multiplier whose size is within 0.1 % under the budget, or the largest one under it that was met.

    Raises UserError when no steps fit, up to 256 times those of `start`.

    >>> fit_steps(lambda multiplier: 500_000 / multiplier**0.5, 400_000, 1_000_000).size
    399864
    """
    tried: dict[float, float] = {}
    octaves, slope = 0.0, -num_weights / 8
    while len(tried) < MOST_TRIES:
        found = tried[octaves] = size(start * 2**octaves)
        if (1 - SLACK) * budget <= found <= budget:
            break
        before = list(tried)[-2:][0]
        if tried[before] != found:
            slope = (found - tried[before]) / (octaves - before)
        octaves = _between(tried, budget, octaves + ((1 - SLACK / 2) * budget - found) / slope)
    fitting = {multiplier: bytes_ for multiplier, bytes_ in tried.items() if bytes_ <= budget}
    if not fitting:
        least = min(tried.values())
        raise UserError(
            f"the weights must fit {budget:,} bytes, the coarsest steps take {least:,.0f}; nearest {least:,.0f}"
        )
    best = max(fitting, key=fitting.__getitem__)
    return Fit(start * 2**best, int(fitting[best]), len(tried))


def _between(tried: dict[float, float], budget: int, octaves: float) -> float:
    """`octaves` if it lies between the steps known to be too fine and those known to fit, else their middle."""
    too_fine = max((known for known in tried if tried[known] > budget), default=-FARTHEST)
    fitting = min((known for known in tried if tried[known] <= budget), default=FARTHEST)
    return octaves if too_fine < octaves < fitting else (too_fine + fitting) / 2


def more_weights(size: float, budget: int, num_weights: int) -> int:
    """How many more weights would fit the budget at the same bytes a weight; negative if these are too many.

    >>> more_weights(12_000_000, 16_000_000, 30_000_000)
    10000000
    """
    return int((budget - size) * num_weights / size)


# quantize/hessian.py

"""The second moments of what matrices are multiplied with: H = X^T X / N over calibration tokens, X [N, cols].

They are what GPTQ weighs its errors by. Modules show their inputs to a hook; what is multiplied outside of a module, as
the last hidden state is with the tied embedding, is added by hand:

    with InputMoments({"layers.0.mlp.up.weight": model.layers[0].mlp.up}) as moments:
        for tokens in batches:
            hidden, _ = model.hidden(tokens)
            moments.add("embed.tokens.weight", hidden)
    hessians = moments.finish(machine)
"""

class InputMoments:
    """Sums X^T X in fp32 on the device of X; matrices shown the very same tensor one after another share."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.modules = modules  # by the name of their weight
        self._sums: dict[str, Tensor] = {}
        self._tokens: dict[str, int] = {}
        self._shared_with: dict[str, str] = {}
        self._last: tuple[str, Tensor] | None = None
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for name, module in self.modules.items():
            self._hooks.append(module.register_forward_pre_hook(partial(self._seen, name)))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._last = [], None

    @torch.no_grad()
    def add(self, name: str, inputs: Tensor) -> None:
        """Counts in `inputs` [..., cols], by which the matrix `name` is multiplied."""
        owner = self._last[0] if self._last is not None and self._last[1] is inputs else name
        if self._shared_with.setdefault(name, owner) != owner:
            raise UserError(
                f"matrices must share their inputs always or never: {name} first had those of "
                f"{self._shared_with[name]}, now those of {owner}"
            )
        if owner == name:
            rows = inputs.detach().float().flatten(0, -2)
            self._sums[name] = self._sums.get(name, 0) + rows.T @ rows
            self._tokens[name] = self._tokens.get(name, 0) + len(rows)
            self._last = name, inputs

    def finish(self, machine: Machine) -> dict[str, Tensor]:
        """H [cols, cols] of every matrix, over the tokens of all ranks; shared ones are one tensor.

        Every rank must have shown inputs to the same matrices. Raises UserError for a module that was never called.
        """
        silent = sorted(self.modules.keys() - self._shared_with.keys())
        if silent:
            raise UserError(f"every matrix must be shown an input, {', '.join(silent)} was not: no batch reached it")
        moments = {name: self._mean(name, machine) for name in sorted(self._sums)}
        return {name: moments[owner] for name, owner in sorted(self._shared_with.items())}

    def _seen(self, name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.add(name, inputs[0])

    def _mean(self, name: str, machine: Machine) -> Tensor:
        total = self._sums[name]
        tokens = machine.sum_(torch.tensor(self._tokens[name], dtype=torch.int64, device=total.device))
        return machine.sum_(total.clone()) / tokens


# recipes/by_rate.py

"""Quantisation by rate as a part of a recipe: what is measured when training ends, and steps that fill the budget.

Second moments of what the matrices are multiplied with come from training batches, so measuring them is training: the
clock runs. Steps are then as fine as code and model fit the budget together; the plan says what they are relative to
each other.
"""

@dataclass(frozen=True)
class RateQuantizer:
    """What takes the place of the plan alone: calibration at the end of training, and a fit to the budget after it."""

    batches: int = 16  # steps' worth of training tokens to measure
    seconds: float = 2.0  # of the training clock, kept back for that
    finest: float = 0.125  # of the plan's steps; finer ones are of no use

    def __post_init__(self) -> None:
        if self.batches < 1 or self.finest <= 0:
            raise UserError(
                f"calibration takes at least 1 batch, and the finest steps are some, got {self.batches} and "
                f"{self.finest:g}; usual are 16 and 0.125"
            )

    def before(self, train: TrainConfig) -> TrainConfig:
        """What remains for training itself."""
        return train if train.seconds is None else replace(train, seconds=max(0.0, train.seconds - self.seconds))

    @torch.no_grad()
    def moments(
        self,
        trainer: Trainer,
        tell: Any,  # a Teller: who logs the run
    ) -> dict[str, Tensor]:
        """X^T X / N [cols, cols] of every matrix and of the table that makes logits, by their weights; on the CPU.

        They are of the loader's next batches under the weights that the trainer holds now. The training clock runs.
        Every rank must call this.
        """
        trainer.clock.start()
        model, machine = trainer.model, trainer.machine
        matrices = {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, Linear)}
        (head,) = (name for name, weight in trainer.weights.items() if weight is model.head_table)
        with InputMoments(matrices) as moments:
            for _ in range(self.batches * accumulation_steps(trainer.config.num_slices, machine.world_size)):
                hidden, _ = model.hidden(trainer.loader.next()[0].to(machine.device))
                moments.add(head, hidden)
        # One memory each, as a file of tensors wants it.
        found = {name: moment.to("cpu", copy=True) for name, moment in moments.finish(machine).items()}
        trainer.clock.pause()
        tell.calibrated(trainer)
        return found

    def codes(
        self,
        weights: Mapping[str, Tensor],
        moments: Mapping[str, Tensor],  # by weight
        pack: Any,  # the PackConfig that this is part of
        packed: Callable[[Codes], bytes],
        code_bytes: int,
        tell: Callable[[str], None],  # what keeps a line of the log
    ) -> Codes:
        """The codes with which code and model end within 0.1 % under the budget, or those of the finest steps.

        Where the tensors are so few that their steps jump over that, the largest that were met. `tell` is given a line
        about the search. Raises UserError when no steps fit.
        """

        @cache
        def attempt(multiplier: float) -> tuple[Codes, int]:
            codes = quantize(weights, plan_with_steps(pack.plan, multiplier), pack.prune, moments)
            return codes, code_bytes + len(packed(codes))

        own, own_size = attempt(1.0)
        on_grids = sum(coded.integers.numel() for coded in own.values() if isinstance(coded, Coded))
        fit = fit_steps(lambda multiplier: attempt(max(multiplier, self.finest))[1], pack.budget, on_grids)
        multiplier = max(fit.multiplier, self.finest)
        codes, size = attempt(multiplier)
        room = more_weights(own_size - code_bytes, pack.budget - code_bytes, on_grids)
        fits = f"room for {room} more parameters" if room >= 0 else f"{-room} parameters too many"
        tell(
            f"steps x{multiplier:.4f} of the plan's{', the finest' if multiplier == self.finest else ''} "
            f"({attempt.cache_info().misses} tried): code and model {size} of {pack.budget} bytes; "
            f"at the plan's own {own_size}, {fits}"
        )
        return codes


def plan_with_steps(plan: tuple[Rule, ...], multiplier: float) -> tuple[Rule, ...]:
    """The plan with every step rule by rate `multiplier` times as coarse.

    >>> from quantize.steps import UNIFORM, TensorStep
    >>> [rule.scale for rule in plan_with_steps((Rule("all", UNIFORM, scale=TensorStep(8.0)),), 0.5)]
    [TensorStep(k=4.0)]
    """
    return tuple(
        replace(rule, scale=replace(rule.scale, k=rule.scale.k * multiplier)) if hasattr(rule.scale, "k") else rule
        for rule in plan
    )


# ops/rotary/fused.py

"""Norm, rotation and gain as one function: a rotation is linear and keeps lengths, so one factor a head does the rest.

y = s R(x) with s = gain / rms(x). Backward: g' = Rᵀ(g), d gain = sum(g'·x) / rms(x); dx is the norm's with factor s.
"""

class _NormedRotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor, gain: Tensor) -> Tensor:
        r = inverse_rms(x)
        scale = r * gain.to(x.dtype)[:, None]
        ctx.save_for_backward(x, cos, sin, gain, r)
        return turned(x, cos, sin).mul_(scale)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None, None, Tensor]:
        x, cos, sin, gain, r = ctx.saved_tensors
        back = turned(g, cos, -sin)
        d_gain = ((back * x).sum(-1) * r[..., 0]).sum((0, 1)).to(gain.dtype) if ctx.needs_input_grad[3] else None
        return norm_backward(back, x, r, r * gain.to(x.dtype)[:, None]), None, None, d_gain


def turned(
    x: Tensor,  # [B, T, H, D]
    cos: Tensor,  # [T, D // 2]
    sin: Tensor,  # [T, D // 2]
) -> Tensor:  # [B, T, H, D], contiguous
    """Every pair (x_i, x_{i + D/2}) turned by its position's angle."""
    half = x.shape[-1] // 2
    cos, sin = (table.to(x.dtype)[:, None, :] for table in (cos, sin))
    y = x * torch.cat((cos, cos), dim=-1)
    y[..., :half].addcmul_(x[..., half:], sin)
    y[..., half:].addcmul_(x[..., :half], sin, value=-1)
    return y


def normed_rotary(
    x: Tensor,  # [B, T, H, D]
    cos: Tensor,  # [T, D // 2], fp32
    sin: Tensor,  # [T, D // 2], fp32
    gain: Tensor,  # [H], fp32
) -> Tensor:  # [B, T, H, D]
    """gain * rotate(rms_norm(x)), a head at a time."""
    return _NormedRotary.apply(x, cos, sin, gain)


# ops/rotary/reference.py

"""Queries and keys as attention wants them: RMS norm a head, half-split rotary positions, a gain a head.

With halves (a, b) of a normalised head the output is gain * (a cos + b sin, -a sin + b cos).

1. Su et al. 2021, RoFormer, arXiv 2104.09864.  2. Henry et al. 2020, query-key normalisation, arXiv 2010.04245.
"""

def rotary_table(
    start: int, length: int, head_dim: int, base: float, device: torch.device
) -> tuple[Tensor, Tensor]:  # [length, head_dim // 2] each, fp32
    """Cosines and sines of position * base^(-2i / head_dim) for positions start .. start + length - 1."""
    frequency = base ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angle = torch.arange(start, start + length, device=device, dtype=torch.float32)[:, None] * frequency
    return angle.cos(), angle.sin()


# model/attention.py

"""Causal grouped-query attention with normalised queries and keys, rotary positions and a learned query gain.

Half-split rotary embedding: with halves (a, b) of a head, the output is (a cos + b sin, -a sin + b cos).

1. Su et al. 2021, RoFormer, arXiv 2104.09864.  2. Ainslie et al. 2023, GQA, arXiv 2305.13245.
3. Henry et al. 2020, query-key normalisation, arXiv 2010.04245.
"""

# Keys and values seen so far, [B, num_kv_heads, T, head_dim] each.
KeyValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class AttentionConfig:
    """`num_kv_heads` must divide `num_heads`, `num_heads` must divide the width into even heads."""

    num_heads: int = 8
    num_kv_heads: int = 4
    rope_base: float = 10_000.0
    q_gain: float = 1.5
    weight_map: WeightMap | None = None
    has_bounded_state: ClassVar[bool] = False

    def build(self, dim: int) -> "Attention":
        self.check(dim)
        return Attention(self, dim)

    def check(self, dim: int) -> None:
        """Raises UserError where heads do not divide."""
        heads = max(1, self.num_heads)
        if self.num_heads < 1 or dim % heads or (dim // heads) % 2:
            raise UserError(
                f"the width must be an even multiple of the heads: {self.num_heads} heads do not fit width {dim}; "
                f"nearest width {nearest_multiple(dim, 2 * heads)}"
            )
        if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            divisors = [n for n in range(1, self.num_heads + 1) if self.num_heads % n == 0]
            raise UserError(
                f"key/value heads must divide the heads: {self.num_kv_heads} do not divide {self.num_heads}; "
                f"nearest {min(divisors, key=lambda n: abs(n - self.num_kv_heads))}"
            )


class Attention(nn.Module):
    """A mixer: y, state = attention(x, state) with x and y [B, T, dim]."""

    def __init__(self, config: AttentionConfig, dim: int) -> None:
        super().__init__()
        self.config, self.attend = config, causal_attention
        self.head_dim = dim // config.num_heads
        kv_dim = self.head_dim * config.num_kv_heads
        self.query = Linear(dim, dim, config.weight_map)
        self.key = Linear(dim, kv_dim, config.weight_map)
        self.value = Linear(dim, kv_dim, config.weight_map)
        self.project = Linear(dim, dim, config.weight_map, zero_init=True)
        self.q_gain = nn.Parameter(torch.full((config.num_heads,), config.q_gain))

    def forward(
        self,
        x: Tensor,  # [B, T, dim]
        state: KeyValues | None = None,  # what came before x; None at the start of a text
    ) -> tuple[Tensor, KeyValues]:
        past = 0 if state is None else state[0].shape[2]
        angles = rotary_table(past, x.shape[1], self.head_dim, self.config.rope_base, x.device)
        q, k, v = (self._heads(matrix(x)) for matrix in (self.query, self.key, self.value))
        q = normed_rotary(q, *angles, self.q_gain).transpose(1, 2)
        k = normed_rotary(k, *angles, self.q_gain.new_ones(k.shape[2])).transpose(1, 2)
        v = v.transpose(1, 2)
        if state is not None:
            k, v = torch.cat((state[0], k), dim=2), torch.cat((state[1], v), dim=2)
        y = self.attend(q, k, v)
        return self.project(y.transpose(1, 2).reshape(x.shape)), (k, v)

    def _heads(self, x: Tensor) -> Tensor:
        """[B, T, heads * head_dim] -> [B, T, heads, head_dim], a view."""
        return x.unflatten(-1, (-1, self.head_dim))


def causal_attention(
    q: Tensor,  # [B, H, T, D]
    k: Tensor,  # [B, Hkv, S, D] with S >= T: the T newest positions are the queries' own
    v: Tensor,  # [B, Hkv, S, D]
) -> Tensor:  # [B, H, T, D]
    """Softmax attention in which query t sees keys up to its own position."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    num_queries, num_keys = q.shape[2], k.shape[2]
    if num_queries == num_keys:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    seen = torch.ones(num_queries, num_keys, dtype=torch.bool, device=q.device).tril(num_keys - num_queries)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


# model/bit_linear.py

"""A matrix behind a norm, with few levels in its weights and, if wanted, in what it multiplies.

    y = A(norm x) Q(W)ᵀ

1. Ma et al. 2024, BitNet b1.58, arXiv 2402.17764: ternary weights and 8-bit activations.
2. Imli: ternary weights alone.
"""

@dataclass(frozen=True)
class LinearConfig:
    """y = x Q(W)ᵀ; None: Q(W) = W."""

    weight_map: WeightMap | None = None

    def build(self, in_features: int, out_features: int, zero_init: bool = False) -> Linear:
        return Linear(in_features, out_features, self.weight_map, zero_init)


# ops/short_conv/shifted.py

"""The short convolution as a sum of shifted inputs, channels last: no copies, and a backward of the same kind.

Going back, dx is the sum of shifted gradients and d taps[:, j] that of x_{t + j} g_t. Sums are in fp32 whatever x is.
On a CPU torch's own backward of a convolution by channels takes several times as long.
"""

class _ShiftedConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, taps: Tensor) -> Tensor:
        ctx.save_for_backward(x, taps)
        size, wide = taps.shape[1], torch.promote_types(x.dtype, torch.float32)
        T, rows, columns = x.shape[1] - size + 1, x.to(wide), _columns(taps, wide)
        y = rows[:, :T] * columns[0]
        for j in range(1, size):
            y.addcmul_(rows[:, j : j + T], columns[j])
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor]:
        x, taps = ctx.saved_tensors
        T, wide = g.shape[1], torch.promote_types(x.dtype, torch.float32)
        rows, g, d_x = x.to(wide), g.to(wide), torch.zeros_like(x, dtype=wide)
        d_taps = []
        for j, column in enumerate(_columns(taps, wide)):
            d_x[:, j : j + T].addcmul_(g, column)
            d_taps.append((rows[:, j : j + T] * g).sum((0, 1)))
        return d_x.to(x.dtype), torch.stack(d_taps, dim=1).to(taps.dtype)


def _columns(taps: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    # Each in one piece: a strided vector is broadcast a number at a time, which takes five times as long.
    return taps.mT.to(dtype, memory_format=torch.contiguous_format, copy=True).unbind()


def short_conv(
    x: Tensor,  # [B, T + size - 1, channels], what came before the text first; T at least 1
    taps: Tensor,  # [channels, size]
) -> Tensor:  # [B, T, channels]
    """y_t[c] = sum_j taps[c, j] x_{t + j}[c]. Its twin is `short_conv_reference`."""
    return _ShiftedConv.apply(x, taps)


# model/short_conv.py

"""The causal depthwise convolution along time that recurrent mixers put before their state.

    y_t[c] = sum_j taps[c, j] x_{t - (size - 1) + j}[c]

1. So et al. 2021, Primer, arXiv 2109.08668.  2. Yang et al. 2024, DeltaNet, arXiv 2406.06484.
"""

def check_taps(size: int) -> None:
    """Raises UserError for a convolution without taps."""
    if size < 1:
        raise UserError(f"a short convolution has at least 1 tap, got {size}; nearest 1")


class ShortConv(nn.Module):
    """y, tail = conv(x, tail): [B, T, channels] and the last size - 1 inputs, [B, size - 1, channels]."""

    def __init__(self, channels: int, size: int, init_std: float) -> None:
        super().__init__()
        check_taps(size)
        self.taps = nn.Parameter(torch.empty(channels, size))
        self.init_std = init_std

    def reset_parameters(self) -> None:
        nn.init.normal_(self.taps, std=self.init_std)

    def forward(
        self,
        x: Tensor,  # [B, T, channels]
        tail: Tensor | None = None,  # what came before x; None: zeros
    ) -> tuple[Tensor, Tensor]:
        channels, size = self.taps.shape
        if tail is None:
            tail = x.new_zeros(x.shape[0], size - 1, channels)
        whole = torch.cat((tail, x), dim=1)
        return short_conv(whole, self.taps), whole[:, whole.shape[1] - (size - 1) :]


# model/convolved.py

"""What recurrent mixers make queries, keys and values of: SiLU(conv(W x)), a matrix and a short convolution each.

1. So et al. 2021, Primer, arXiv 2109.08668.  2. Yang et al. 2024, DeltaNet, arXiv 2406.06484.
"""

# The last conv_size - 1 inputs of the convolutions of q, k and v, and the memory S [B, value heads, Dk, Dv].
MemoryState = tuple[Tensor, Tensor, Tensor, Tensor]


class ConvolvedMixer(nn.Module):
    """A mixer with `query`, `key` and `value`, each with its convolution, and with a `MemoryState`."""

    def __init__(
        self,
        dim: int,
        keys: int,  # the width of queries and of keys, all heads together
        values: int,
        conv_size: int,
        linear: LinearConfig,
    ) -> None:
        super().__init__()
        self.query = linear.build(dim, keys)
        self.key = linear.build(dim, keys)
        self.value = linear.build(dim, values)
        # One convolution of the three side by side takes twice as long on a CPU.
        self.query_conv = ShortConv(keys, conv_size, init_std=0.02)
        self.key_conv = ShortConv(keys, conv_size, init_std=0.02)
        self.value_conv = ShortConv(values, conv_size, init_std=0.02)

    def convolved(
        self,
        x: Tensor,  # [B, T, dim]
        state: MemoryState | None,  # of what came before x; None at the start of a text
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor], Tensor | None]:
        """q, k and v [B, T, channels], the tails of their convolutions after x, and the memory before it."""
        q_tail, k_tail, v_tail, S = state or (None,) * 4
        q, q_tail = self.query_conv(self.query(x), q_tail)
        k, k_tail = self.key_conv(self.key(x), k_tail)
        v, v_tail = self.value_conv(self.value(x), v_tail)
        return F.silu(q), F.silu(k), F.silu(v), (q_tail, k_tail, v_tail), S


# model/decay.py

"""What a recurrent memory forgets at each token: the log decay g <= 0 of every head, [B, T, num_heads].

1. Dao and Gu 2024, Mamba-2, arXiv 2405.21060, as Gated DeltaNet takes it (arXiv 2412.06464).
2. Yang et al. 2024, GLA, arXiv 2312.06635: the sigmoid whose sixteenth root decays; Imli's too.
"""

@dataclass(frozen=True)
class StepDecayConfig:
    """g = -A softplus(W x + step_bias): a continuous decay A over a time step that each token chooses.

    A starts in (0, largest]. With the published 16, half of all heads start by forgetting within some tens of tokens:
    where a model has few heads, a smaller one lets it remember from the first step on.
    """

    largest: float = 16.0

    def build(self, dim: int, num_heads: int, linear: LinearConfig) -> "StepDecay":
        if self.largest <= 0:
            raise UserError(f"largest must be above 0, got {self.largest}; published is 16")
        return StepDecay(linear.build(dim, num_heads), num_heads, self.largest)


class StepDecay(nn.Module):
    """A starts in (0, largest], the step of x = 0 in 0.001 to 0.1, log-uniformly."""

    def __init__(self, step: nn.Module, num_heads: int, largest: float) -> None:
        super().__init__()
        self.largest = largest
        self.step = step
        self.decay_log = nn.Parameter(torch.empty(num_heads))
        self.step_bias = nn.Parameter(torch.empty(num_heads))

    def reset_parameters(self) -> None:
        # rand() may be 0, of which there is no logarithm, but never 1.
        self.decay_log.copy_(torch.log(self.largest * (1 - torch.rand(self.decay_log.shape))))
        step = torch.empty(self.step_bias.shape).uniform_(math.log(1e-3), math.log(0.1)).exp()
        self.step_bias.copy_(step + torch.log(-torch.expm1(-step)))

    def forward(self, x: Tensor) -> Tensor:
        step = F.softplus(_wide(self.step(x)) + self.step_bias)
        return -self.decay_log.exp() * step


def _wide(x: Tensor) -> Tensor:
    """In fp32 or wider: a sum of many small decays must not be of rounded ones."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


# model/norm.py

"""Norms that a block or a matrix may have: RMS norm with a learned gain, or none.

1. Zhang and Sennrich 2019, arXiv 1910.07467.
"""

@dataclass(frozen=True)
class NormConfig:
    """y = x / sqrt(mean(x²) + eps) * gain over the last dimension; the gain starts at 1."""

    eps: float = 1e-6

    def build(self, dim: int) -> "RMSNorm":
        return RMSNorm(dim, self.eps)


class RMSNorm(nn.Module):
    """[..., dim] -> [..., dim] in x's dtype."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.eps) * self.gain.to(x.dtype)


# model/readout.py

"""What becomes of the values that a memory gives back: a gate for each of them, behind a norm or not.

1. Yang et al. 2025, Gated DeltaNet, arXiv 2412.06464 (norm and SiLU).  2. Imli (sigmoid alone).
"""

@dataclass(frozen=True)
class NormedReadoutConfig:
    """norm(o) * SiLU(W x); the norm is a head's, its gain shared by the heads."""

    norm: NormConfig = NormConfig(eps=1e-5)

    def build(self, dim: int, num_heads: int, head_dim: int, linear: LinearConfig) -> "NormedReadout":
        return NormedReadout(self.norm.build(head_dim), linear.build(dim, num_heads * head_dim))


class NormedReadout(nn.Module):
    """[B, T, num_heads, head_dim] and [B, T, dim] -> [B, T, num_heads * head_dim]."""

    def __init__(self, norm: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.gate = gate

    def forward(self, o: Tensor, x: Tensor) -> Tensor:
        return self.norm(o).flatten(2) * F.silu(self.gate(x))


# ops/delta_rule/arguments.py

"""What every form of the delta rule accepts, said in one line when it is something else."""

# What a token's new value is held against: the memory after its decay (the papers) or before it (Imli).
PREDICTIONS = ("decayed", "undecayed")


def check_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None,
    state: Tensor | None,
    predict_from: str,
    starts: Tensor | None,
) -> None:
    """Raises UserError unless the arguments are those of `delta_rule_reference`.

    The values of g are looked at on a CPU only, and not under torch.compile: it makes a GPU wait, and breaks a graph.
    """
    if predict_from not in PREDICTIONS:
        raise UserError(f"unknown predict_from {predict_from!r}; {nearest(predict_from, PREDICTIONS)}")
    if q.dim() != 4 or v.dim() != 4:
        raise UserError(f"q and v are [B, T, heads, head size], got {tuple(q.shape)} and {tuple(v.shape)}")
    B, T, H, Dk = q.shape
    Hv, Dv = v.shape[2:]
    if T == 0:
        raise UserError("the delta rule needs at least one token, got T = 0; nearest 1")
    if Hv % H:
        raise UserError(
            f"value heads must be a multiple of the {H} key heads, got {Hv}; nearest {nearest_multiple(Hv, H)}"
        )
    _check_shape("k", k, (B, T, H, Dk))
    _check_shape("v", v, (B, T, Hv, Dv))
    _check_shape("beta", beta, (B, T, Hv))
    _check_shape("g", g, (B, T, Hv))
    _check_shape("starts", starts, (B, T))
    _check_shape("state", state, (B, Hv, Dk, Dv))
    _check_dtypes(q, k, v, beta, g, state, starts)
    if g is not None and g.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_log_decay(g)


def state_dtype(v: Tensor) -> torch.dtype:
    """What the state and every sum are in: fp32, and fp64 where the values are."""
    return torch.float64 if v.dtype == torch.float64 else torch.float32


def _check_shape(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    if tensor is not None and tensor.shape != shape:
        raise UserError(f"{name} must have the shape {shape} that q and v give it, got {tuple(tensor.shape)}")


def _check_log_decay(g: Tensor) -> None:
    least, most = g.detach().aminmax()
    if most > 0 or least == -torch.inf:
        got, near = (most, 0) if most > 0 else (least, -100)
        raise UserError(f"g is a log decay, finite and at most 0, got {got.item():.6g}; nearest {near}")


def _check_dtypes(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None, state: Tensor | None, starts: Tensor | None
) -> None:
    allowed = {
        "v": (v, {torch.float16, torch.bfloat16, torch.float32, torch.float64}),
        "q": (q, {v.dtype}),
        "k": (k, {v.dtype}),
        "beta": (beta, {v.dtype, torch.float32}),
        "g": (g, {v.dtype, torch.float32}),
        "state": (state, {state_dtype(v)}),
        "starts": (starts, {torch.bool}),
    }
    for name, (tensor, dtypes) in allowed.items():
        if tensor is not None and tensor.dtype not in dtypes:
            known = " or ".join(sorted(str(dtype) for dtype in dtypes))
            raise UserError(f"{name} must be {known} beside values in {v.dtype}, got {tensor.dtype}")


# ops/delta_rule/decays.py

"""The factors by which a chunk forgets, out of its log decays: only differences that are at most 0 are exponentiated.

With g_i the sum of the log decays a of a chunk's tokens up to i, what token j wrote has faded by exp(g_i - g_j) when
token i reads it. Imli recalls before the decay of token i, at g_i - a_i. Nothing passes the start of a document.
"""

# In bits. Less than this of a write is nothing: far below any rounding, and denormal numbers cost a CPU dearly.
FORGOTTEN = -100.0


class Decays(NamedTuple):
    """Factors between 0 and 1 for n chunks of C tokens; an entry is 0 where a document begins in between."""

    read: Tensor  # [n, C, C], from the write of a token (column) to the read of the same or a later one (row)
    recall: Tensor  # [n, C, C], from the write of a token to the recall of a later one; its diagonal means nothing
    entering_read: Tensor  # [n, C, 1], from the state before the chunk to the read of a token
    entering_recall: Tensor  # [n, C, 1], from that state to the recall of a token
    leaving: Tensor  # [n, C, 1], from the write of a token to the state after the chunk
    through: Tensor  # [n, 1], from the state before the chunk to the state after it


def chunk_decays(
    a: Tensor,  # [n, C], log decays, at most 0
    starts: Tensor | None,  # [n, C] bool
    predict_from: str,
) -> Decays:
    """The factors of every chunk, in the dtype of a; a token's own decay is in what it reads."""
    # exp2, because the exponential of MKL takes fifty times as long where it underflows.
    a = a / math.log(2)
    g = a.cumsum(-1)
    documents = None if starts is None else starts.cumsum(-1)
    read = recall = _between_decays(g, g, documents, diagonal=0)
    entering_read = entering_recall = _entering(g, documents)
    if predict_from == "undecayed":
        recall = _between_decays(g - a, g, documents, diagonal=-1)
        entering_recall = _entering(g - a, documents)
    leaving = _faded(g[:, -1:] - g)
    if documents is not None:
        leaving.masked_fill_(documents != documents[:, -1:], 0.0)
    through = entering_read[:, -1:]
    return Decays(read, recall, entering_read[..., None], entering_recall[..., None], leaving[..., None], through)


def _between_decays(to: Tensor, since: Tensor, documents: Tensor | None, diagonal: int) -> Tensor:
    """[n, C, C]: 2^(to_i - since_j) on and below `diagonal` and within one document, else 0."""
    # Masked before the exponential: above the diagonal the differences are positive, and inf * 0 would be NaN.
    mask = torch.full_like(to[0, :, None].expand(-1, to.shape[1]), -torch.inf).triu_(diagonal + 1)
    factor = _faded((to[:, :, None] - since[:, None, :]).add_(mask))
    if documents is not None:
        factor.masked_fill_(documents[:, :, None] != documents[:, None, :], 0.0)
    return factor


def _entering(to: Tensor, documents: Tensor | None) -> Tensor:
    factor = _faded(to.clone())
    return factor if documents is None else factor.masked_fill_(documents > 0, 0.0)


def _faded(bits: Tensor) -> Tensor:
    """2^bits in place of `bits`, 0 where that is next to nothing."""
    return torch.threshold_(bits, FORGOTTEN, -torch.inf).exp2_()


# ops/delta_rule/layout.py

"""From tokens by head to chunks of one head each, and back: what lies side by side is multiplied as one batch.

Chunks are in the order [chunk, batch, head]; a head of q or k stands once for each of the value heads that share it.
"""

def into_chunks(
    x: Tensor,  # [B, T, h, ...]
    chunk: int,
    num_heads: int,  # a multiple of h
    dtype: torch.dtype,
) -> Tensor:  # [ceil(T / chunk) * B * num_heads, chunk, D], D = 1 without a last dimension
    """A copy in chunks and in `dtype`, with zeros behind the last token."""
    x = x[..., None] if x.dim() == 3 else x
    B, T, h, D = x.shape
    x = F.pad(x, (0, 0, 0, 0, 0, -T % chunk)) if T % chunk else x
    x = x.unflatten(1, (-1, chunk)).permute(1, 0, 3, 2, 4)[:, :, :, None]
    chunks = x.new_empty(x.shape[0], B, h, num_heads // h, chunk, D, dtype=dtype)
    return chunks.copy_(x).view(-1, chunk, D)


def chunks_into(
    out: Tensor,  # [B, n * chunk, h, ...]
    chunks: Tensor,  # [n * B * num_heads, chunk, D], num_heads a multiple of h
) -> None:
    """Writes chunks back where `into_chunks` took them from, summed over the heads that share one."""
    out = out[..., None] if out.dim() == 3 else out
    B, T, h, D = out.shape
    n, chunk = T // chunks.shape[1], chunks.shape[1]
    chunks = chunks.view(n, B, h, -1, chunk, D)
    chunks = chunks.sum(3) if chunks.shape[3] > 1 else chunks[:, :, :, 0]
    out.unflatten(1, (n, chunk)).copy_(chunks.permute(1, 0, 3, 2, 4))


# ops/delta_rule/span.py

"""The delta rule over a span of chunks: a few batched matrix products, and two small ones a chunk for the state.

For a chunk with the entering state S and the factors of decays.py (Γ read, Γ' recall, γ entering a read, γ' entering a
recall, λ leaving, τ through), the values that are written, less what is recalled and times beta, solve

    (I + A) N = beta (V - γ' K S),   A = strictLower(beta Γ' KKᵀ)

With T = (I + A)^-1, chunk after chunk,

    N  = T beta V + W S,   W = -T beta γ' K
    S' = τ S + (λK)ᵀ N

and then for all chunks at once

    O  = scale (γ Q S + P N),   P = Γ QKᵀ

1. Yang et al. 2024, arXiv 2406.06484.  2. Yang et al. 2025, arXiv 2412.06464.
"""

class Span(NamedTuple):
    """n chunks of C tokens of each of `rows` = batch x heads, all in the state's dtype; chunk by chunk, rows within."""

    q: Tensor  # [n * rows, C, Dk]
    k: Tensor  # [n * rows, C, Dk]
    v: Tensor  # [n * rows, C, Dv]
    beta: Tensor  # [n * rows, C, 1]
    decays: Decays
    scale: float


class Recurrence(NamedTuple):
    """What a span's chunks do to the state, and what the state went through."""

    P: Tensor  # [n * rows, C, C]
    W: Tensor  # [n * rows, C, Dk]
    N: Tensor  # [n * rows, C, Dv], what is written
    k_leaving: Tensor  # [n * rows, C, Dk]
    states: Tensor  # [n + 1, rows, Dk, Dv], before the first chunk and after each


def span_inverse(x: Span) -> Tensor:  # [n * rows, C, C]
    """T = (I + A)^-1 by substitution: products of powers of A lose every digit where keys resemble one another."""
    A = torch.bmm(x.k, x.k.mT).mul_(x.decays.recall).mul_(x.beta)
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    # Reads nothing on or above the diagonal of A.
    return torch.linalg.solve_triangular(A, eye.expand_as(A), upper=False, unitriangular=True)


def span_recurrence(
    x: Span,
    T: Tensor,  # [n * rows, C, C]
    S: Tensor,  # [rows, Dk, Dv], what enters the span
) -> Recurrence:
    """What every token writes and the states between the chunks: two products a chunk in sequence."""
    rows = len(S)
    N = torch.bmm(T, x.v * x.beta)
    W = torch.bmm(T, x.k * (x.decays.entering_recall * -x.beta))
    k_leaving = x.k * x.decays.leaving
    states = S.new_empty(len(N) // rows + 1, *S.shape)
    states[0] = S
    factors = (part.split(rows) for part in (N, W, k_leaving.mT, x.decays.through[..., None]))
    for before, after, values, recall, keys, fading in zip(states[:-1], states[1:], *factors, strict=True):
        values.baddbmm_(recall, before)
        torch.mul(before, fading, out=after).baddbmm_(keys, values)
    P = torch.bmm(x.q, x.k.mT).mul_(x.decays.read)
    return Recurrence(P, W, N, k_leaving, states)


def span_output(x: Span, r: Recurrence) -> Tensor:  # [n * rows, C, Dv]
    """What every token reads."""
    out = torch.bmm(x.q * x.decays.entering_read, r.states[:-1].flatten(0, 1))
    return out.baddbmm_(r.P, r.N, beta=x.scale, alpha=x.scale)


# ops/delta_rule/span_backward.py

"""The gradients of a span of chunks, in the symbols of span.py.

From dO and the gradient dS' of the state after a chunk, chunk by chunk from the last,

    dN = scale Pᵀ dO + λK dS'
    dS = τ dS' + scale (γ Q)ᵀ dO + Wᵀ dN

and then for all chunks at once

    X  = Tᵀ dN               the adjoint of (I + A) N = ..., so that dA = -strictLower(X Nᵀ)
    dV = beta X

A decay multiplies what a row of q or k reads and divides what a row of k writes, so that no gradient of a Γ is needed:
the gradient of g_i is q·dq + (k·dk as a reader) - (k·dk as a writer), and of a chunk's last g also S'·dS'. These terms
cancel where nearly everything is forgotten at once: an absolute error of rounding is left.

1. Yang et al. 2024, arXiv 2406.06484.  2. Giles 2008, the adjoint of a linear solution.
"""

class SpanGradients(NamedTuple):
    """Of what entered, in its shapes; `a` of the log decays."""

    q: Tensor  # [n * rows, C, Dk]
    k: Tensor  # [n * rows, C, Dk]
    v: Tensor  # [n * rows, C, Dv]
    beta: Tensor  # [n * rows, C, 1]
    a: Tensor  # [n * rows, C, 1]
    state: Tensor  # [rows, Dk, Dv]


def span_backward(
    x: Span,
    T: Tensor,  # [n * rows, C, C]
    S: Tensor,  # [rows, Dk, Dv], what entered the span
    d_out: Tensor,  # [n * rows, C, Dv]
    d_state: Tensor,  # [rows, Dk, Dv], of the state after the span
    predict_from: str,
) -> SpanGradients:
    """The gradients of a span from its inputs and T; states and written values are computed again."""
    r, decays = span_recurrence(x, T, S), x.decays
    entering = r.states[:-1].flatten(0, 1)
    d_N, d_states = _in_sequence(x, r, d_out, d_state)
    leaving = d_states[1:].flatten(0, 1)
    X = torch.bmm(T.mT, d_N)
    d_scores = torch.bmm(d_out, r.N.mT).mul_(decays.read)
    d_q = torch.bmm(d_out, entering.mT).mul_(decays.entering_read)
    d_q.baddbmm_(d_scores, x.k, beta=x.scale, alpha=x.scale)
    # -dA Γ': the gradient of KKᵀ but for beta and the sign. A has no diagonal.
    d_gram = torch.bmm(X, r.N.mT).mul_(decays.recall)
    d_gram.diagonal(dim1=1, dim2=2).zero_()
    # Before beta, which multiplies the rows of A and of what is recalled alike.
    reading = torch.bmm(X, entering.mT).mul_(decays.entering_recall).baddbmm_(d_gram, x.k, beta=-1, alpha=-1)
    writing = torch.bmm(r.N, leaving.mT).mul_(decays.leaving).baddbmm_(d_scores.mT, x.q, alpha=x.scale)
    writing.baddbmm_(d_gram.mul_(x.beta).mT, x.k, alpha=-1)
    read = _row_dot(x.k, reading)
    d_g = _row_dot(x.q, d_q) - _row_dot(x.k, writing)
    d_g[:, -1] += (r.states[1:] * d_states[1:]).sum((-2, -1)).view(-1, 1)
    return SpanGradients(
        q=d_q,
        k=writing.addcmul_(reading, x.beta),
        v=X * x.beta,
        beta=_row_dot(X, x.v) + read,
        a=_log_decay_gradient(d_g, read * x.beta, predict_from),
        state=d_states[0],
    )


def _in_sequence(
    x: Span,
    r: Recurrence,
    d_out: Tensor,  # [n * rows, C, Dv]
    d_state: Tensor,  # [rows, Dk, Dv]
) -> tuple[Tensor, Tensor]:  # [n * rows, C, Dv], [n + 1, rows, Dk, Dv]
    """The gradients of what every token writes, and of the state before the first chunk and after each."""
    rows = len(d_state)
    d_N = torch.bmm(r.P.mT, d_out).mul_(x.scale)
    d_states = torch.empty_like(r.states)
    d_states[-1] = d_state
    q_entering = x.q * (x.decays.entering_read * x.scale)
    torch.bmm(q_entering.mT, d_out, out=d_states[:-1].flatten(0, 1))
    factors = (part.split(rows) for part in (d_N, r.W.mT, r.k_leaving, x.decays.through[..., None]))
    turns = zip(d_states[:-1], d_states[1:], *factors, strict=True)
    for before, after, d_values, recall, keys, fading in reversed(tuple(turns)):
        d_values.baddbmm_(keys, after)
        before.addcmul_(after, fading).baddbmm_(recall, d_values)
    return d_N, d_states


def _log_decay_gradient(
    d_g: Tensor,  # [n, C, 1], of the sums that include a token's own decay
    d_recalled: Tensor,  # [n, C, 1], of the sum at which the token recalls
    predict_from: str,
) -> Tensor:  # [n, C, 1]
    """The gradient of each log decay: a reverse sum over the chunk. Imli recalls one decay earlier."""
    if predict_from == "decayed":
        d_g += d_recalled
    else:
        d_g[:, :-1] += d_recalled[:, 1:]
    return d_g.flip(1).cumsum(1).flip(1)


def _row_dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True)


# ops/delta_rule/chunked.py

"""The delta rule a chunk of tokens at a time: matrix products instead of a loop over tokens, and a backward of its own.

Kept for the backward are the inputs, each chunk's inverse T (span.py) and the state before each span, nothing else. A
span is some hundred tokens on a CPU, so that the time a token and the memory of intermediate results do not grow with
the length; elsewhere it is the whole length. Document starts are exact anywhere.

1. Yang et al. 2024, Parallelizing Linear Transformers with the Delta Rule over Sequence Length, arXiv 2406.06484.
2. Yang et al. 2025, Gated Delta Networks, arXiv 2412.06464.
"""

# Tokens a chunk and a span, and numbers in one intermediate result of a span of several chunks, at most (README.md).
CHUNK = 32
SPAN_TOKENS = 512
SPAN_NUMBERS = 2**20


def chunked_delta_rule(
    q: Tensor,  # [B, T, H, Dk], normalised by the caller
    k: Tensor,  # [B, T, H, Dk], of length one
    v: Tensor,  # [B, T, Hv, Dv]; value head j listens to key head j // (Hv / H)
    beta: Tensor,  # [B, T, Hv]
    g: Tensor | None = None,  # [B, T, Hv], log decay, at most 0; None: no decay
    state: Tensor | None = None,  # [B, Hv, Dk, Dv] in fp32 (fp64 for fp64 values); None: zeros
    *,
    scale: float | None = None,  # None: Dk ** -0.5
    predict_from: str = "decayed",  # or "undecayed"
    starts: Tensor | None = None,  # [B, T] bool: the state is emptied before this token
    chunk: int = CHUNK,  # a power of two
) -> tuple[Tensor, Tensor]:  # [B, T, Hv, Dv] in v's dtype; [B, Hv, Dk, Dv]
    """What each token reads and the state after the last one: `delta_rule_reference` in matrix products.

    Raises UserError as the reference does, and for a chunk that is no power of two.
    """
    check_delta_rule(q, k, v, beta, g, state, predict_from, starts)
    if chunk < 1 or chunk & (chunk - 1):
        raise UserError(f"chunk must be a power of two, got {chunk}; nearest {_nearest_power_of_two(chunk)}")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return _ChunkedDeltaRule.apply(q, k, v, beta, g, state, starts, scale, predict_from, chunk)


class _ChunkedDeltaRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, beta, g, state, starts, scale, predict_from, chunk) -> tuple[Tensor, Tensor]:
        inputs, settings = (q, k, v, beta, g, starts), (scale, predict_from, chunk)
        rows = v.shape[0] * v.shape[2], q.shape[-1], v.shape[-1]
        S = v.new_zeros(rows, dtype=state_dtype(v)) if state is None else state.reshape(rows)
        out, inverses, entering = _padded_like(v, chunk), [], []
        for tokens in _spans(v, rows, chunk):
            x = _read_span(*inputs, *settings, tokens)
            entering.append(S)
            inverses.append(span_inverse(x))
            r = span_recurrence(x, inverses[-1], S)
            chunks_into(out[:, tokens], span_output(x, r))
            # A copy, or the one state would keep all those of the span alive.
            S = r.states[-1].clone()
        ctx.save_for_backward(*inputs, *entering, *inverses)
        ctx.settings, ctx.has_state = settings, state is not None
        return out[:, : v.shape[1]], S.view(v.shape[0], v.shape[2], *rows[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out: Tensor, d_state: Tensor) -> tuple[Tensor | None, ...]:
        inputs, kept = ctx.saved_tensors[:6], ctx.saved_tensors[6:]
        q, k, v, beta, g, _ = inputs
        _, predict_from, chunk = ctx.settings
        shape, dtype = d_state.shape, d_state.dtype
        gradients = [None if x is None else _padded_like(x, chunk) for x in (q, k, v, beta, g)]
        spans = _spans(v, (shape[0] * shape[1], *shape[2:]), chunk)
        d_state = d_state.flatten(0, 1)
        for i, tokens in reversed(tuple(enumerate(spans))):
            x = _read_span(*inputs, *ctx.settings, tokens)
            d_chunks = into_chunks(d_out[:, tokens], chunk, v.shape[2], dtype)
            d = span_backward(x, kept[len(spans) + i], kept[i], d_chunks, d_state, predict_from)
            for whole, part in zip(gradients, d, strict=False):
                if whole is not None:
                    chunks_into(whole[:, tokens], part)
            d_state = d.state
        gradients = [whole if whole is None else whole[:, : v.shape[1]] for whole in gradients]
        return *gradients, d_state.view(shape) if ctx.has_state else None, None, None, None, None


def _read_span(q, k, v, beta, g, starts, scale, predict_from, chunk, tokens: slice) -> Span:
    """The span of these tokens, copied into chunks of the state's dtype."""
    heads, dtype = v.shape[2], state_dtype(v)
    Q, K, V, b = (into_chunks(x[:, tokens], chunk, heads, dtype) for x in (q, k, v, beta))
    a = torch.zeros_like(b) if g is None else into_chunks(g[:, tokens], chunk, heads, dtype)
    resets = None if starts is None else into_chunks(starts[:, tokens, None], chunk, heads, torch.bool)[..., 0]
    return Span(Q, K, V, b, chunk_decays(a[..., 0], resets, predict_from), scale)


def _spans(v: Tensor, rows: tuple[int, ...], chunk: int) -> list[slice]:
    """Consecutive ranges of whole chunks; the last token may lie anywhere in the last."""
    T, numbers = v.shape[1], rows[0] * max(chunk, *rows[1:])
    fitting = chunk * max(1, min(SPAN_TOKENS, SPAN_NUMBERS // numbers) // chunk)
    length = T + -T % chunk if v.is_cuda else fitting
    return [slice(start, start + length) for start in range(0, T, length)]


def _padded_like(x: Tensor, chunk: int) -> Tensor:
    """An empty tensor in the shape and dtype of x [B, T, ...] with T rounded up to whole chunks."""
    B, T, *rest = x.shape
    return x.new_empty(B, T + -T % chunk, *rest)


def _nearest_power_of_two(value: int) -> int:
    return 1 << max(0, round(math.log2(max(value, 1))))


# ops/triton_or_none.py

"""The one place that imports Triton: `tl`, `jit` and what else a file of kernels is made of, with Triton or without.

Where there is no CUDA device, kernels run under Triton's interpreter, in NumPy: for tests only, and hundreds of times
slower than plain torch. Triton asks TRITON_INTERPRET when a function is decorated, and for its own library when it is
imported; so this file sets it, unless it is set, and must be imported before torch.compile imports Triton. On a CPU
torch.compile writes C++ and does not mind.
"""

try:
    os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None
    if torch.cuda.is_available():
        warnings.warn("Triton is not installed: this GPU runs plain torch where there are faster kernels", stacklevel=2)

# The annotation of a kernel's compile-time arguments.
constexpr = tl.constexpr if triton else None
# For kernels, which see no other constants outside themselves.
INTERPRETED = constexpr(triton.knobs.runtime.interpret) if triton else None


def jit(function: Callable) -> Callable:
    """`triton.jit`; without Triton the function itself, which nobody can launch."""
    return triton.jit(function) if triton else function


def tuned(kernel: Callable) -> Callable:
    """A kernel whose warps and pipeline stages are timed once for each pair of head sizes (DK, DV) and each dtype.

    Nothing is timed under the interpreter.
    """
    if triton is None or INTERPRETED:
        return kernel
    choices = [triton.Config({}, num_warps=warps, num_stages=stages) for warps in (4, 8) for stages in (1, 2)]
    return triton.autotune(configs=choices, key=["DK", "DV"])(kernel)


# ops/delta_rule/tiles.py

"""What the kernels of the delta rule share: where a chunk lies, tiles in and out of memory, the inverse of a chunk.

Every kernel works on chunks of C tokens, of which `rows` are the numbers; rows beyond the sequence are read as zeros.
Pointers advance in 64 bits; places within a chunk fit into 32.
"""

@jit
def product(a, b):
    """a b, accumulated in fp32; fp32 operands in three tensor core products, so with nearly all of their bits."""
    # The interpreter would multiply the bits of bf16 as integers.
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="tf32x3")


@jit
def chunk_place(owner, chunk, T, HV: constexpr, C: constexpr):
    """Where the owner's sequence begins in the batch, where this chunk of it does, and how many tokens are left there.

    An owner is a head of a sequence, and has a state.
    """
    begin = (owner // HV).to(tl.int64) * T
    return begin, begin + chunk * C, T - chunk * C


@jit
def load_numbers(pointer, token, head, rows, length, HEADS: constexpr, other=0.0):
    """One number of a head for each of `rows` tokens from `token` on, of which `length` are left: [C]."""
    return tl.load(pointer + token * HEADS + head + rows * HEADS, mask=rows < length, other=other)


@jit
def store_numbers(pointer, values, token, head, rows, length, HEADS: constexpr):
    """What `load_numbers` reads."""
    tl.store(pointer + token * HEADS + head + rows * HEADS, values, mask=rows < length)


@jit
def load_vectors(pointer, token, head, rows, columns, length, HEADS: constexpr, D: constexpr):
    """These columns of a head's vectors, for each of `rows` tokens from `token` on: [C, columns]."""
    pointer += (token * HEADS + head) * D
    places = rows[:, None] * (HEADS * D) + columns[None, :]
    return tl.load(pointer + places, mask=(rows < length)[:, None] & (columns < D)[None, :], other=0.0)


@jit
def store_vectors(pointer, values, token, head, rows, columns, length, HEADS: constexpr, D: constexpr):
    """What `load_vectors` reads, in the dtype that lies there."""
    pointer += (token * HEADS + head) * D
    places = rows[:, None] * (HEADS * D) + columns[None, :]
    inside = (rows < length)[:, None] & (columns < D)[None, :]
    tl.store(pointer + places, values.to(pointer.dtype.element_ty), mask=inside)


@jit
def load_state(pointer, index, wide, columns, DK: constexpr, DV: constexpr):
    """A part of the state with this index: [wide, columns]."""
    pointer += index * DK * DV
    places = wide[:, None] * DV + columns[None, :]
    return tl.load(pointer + places, mask=(wide < DK)[:, None] & (columns < DV)[None, :], other=0.0)


@jit
def store_state(pointer, values, index, wide, columns, DK: constexpr, DV: constexpr):
    """What `load_state` reads, in the dtype that lies there."""
    pointer += index * DK * DV
    places = wide[:, None] * DV + columns[None, :]
    inside = (wide < DK)[:, None] & (columns < DV)[None, :]
    tl.store(pointer + places, values.to(pointer.dtype.element_ty), mask=inside)


@jit
def dot_products(
    left,  # [B, T, HEADS, D]
    right,  # [B, T, HEADS, D]
    token,
    head,
    rows,
    length,
    HEADS: constexpr,
    D: constexpr,
    C: constexpr,
    BLOCK: constexpr,
):
    """Of every vector of the chunk in `left` with every one in `right`: [C, C]."""
    sums = tl.zeros((C, C), tl.float32)
    for start in range(0, D, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        a = load_vectors(left, token, head, rows, columns, length, HEADS, D)
        sums += product(a, tl.trans(load_vectors(right, token, head, rows, columns, length, HEADS, D)))
    return sums


@jit
def quadrants(A, N: constexpr):
    """Upper left, lower left and lower right quarter of A [N, N]."""
    parts = A.reshape(2, N // 2, 2, N // 2).permute(1, 3, 0, 2)
    left, right = tl.split(parts)
    upper_left, lower_left = tl.split(left)
    _, lower_right = tl.split(right)
    return upper_left, lower_left, lower_right


@jit
def assembled(upper_left, lower_left, lower_right, N: constexpr):
    """The lower triangular [N, N] of these quarters."""
    left = tl.join(upper_left, lower_left)
    right = tl.join(tl.zeros_like(upper_left), lower_right)
    return tl.join(left, right).permute(2, 0, 3, 1).reshape(N, N)


@jit
def diagonal_inverses(A, N: constexpr, BASE: constexpr):
    """The inverses of the diagonal blocks of I + A, by forward substitution in all blocks at once: [N, N]."""
    block, index = tl.arange(0, N // BASE), tl.arange(0, BASE)
    here = block[:, None, None, None] == block[None, None, :, None]
    strict = -tl.sum(tl.where(here, A.reshape(N // BASE, BASE, N // BASE, BASE), 0.0), axis=2)
    for row in range(2, BASE):
        at_row = (index == row)[None, :, None]
        entries = tl.sum(tl.where(at_row, strict, 0.0), axis=1)
        entries += tl.sum(entries[:, :, None] * strict, axis=1)
        strict = tl.where(at_row, entries[:, None, :], strict)
    whole = strict + (index[:, None] == index[None, :]).to(tl.float32)[None, :, :]
    return tl.where(here, whole[:, :, None, :], 0.0).reshape(N, N)


@jit
def joined_inverse(A, D, N: constexpr, BASE: constexpr):
    """(I + A)⁻¹ out of the inverses D of the diagonal blocks: the lower left quarter is -X₁₁ A₁₀ X₀₀."""
    if N == BASE:
        return D
    # Triton compiles no branch that a compile-time condition rules out, if it is an else.
    else:  # noqa: RET505
        first, between, second = quadrants(A, N)
        D_first, _, D_second = quadrants(D, N)
        X_first = joined_inverse(first, D_first, N // 2, BASE)
        X_second = joined_inverse(second, D_second, N // 2, BASE)
        return assembled(X_first, -product(X_second, product(between, X_first)), X_second, N)


@jit
def inverse_of_one_plus(A, N: constexpr):
    """(I + A)⁻¹ of a strictly lower triangular A [N, N] in fp32."""
    return joined_inverse(A, diagonal_inverses(A, N, 16), N, 16)


# ops/delta_rule/kernel_decays.py

"""What is left of a write or of the state at each token of a chunk, for the kernels: factors between 0 and 1.

A segment is what lies between two resets of the state; rows beyond the sequence belong to segment -1, which no token
reaches. An exponent is masked before the exponential, where a later token less an earlier one could overflow.
"""

@jit
def load_segments(segment, token, rows, length):
    """The segment of each row: [C]."""
    return load_numbers(segment, token, 0, rows, length, 1, -1)


@jit
def segment_before(segment, begin, token):
    """The segment of the state that enters a chunk at `token` of the sequence that begins at `begin`."""
    return tl.load(segment + token - 1, mask=token > begin, other=0)


@jit
def sum_of_row(numbers, mask):
    """For each row of the mask the sum of the numbers that it lets through: [C]. Equal rows give equal bits."""
    return tl.sum(tl.where(mask, numbers[None, :], 0.0), axis=1)


@jit
def masked_exp(exponent, mask):
    """exp where the mask holds, else zero."""
    return tl.exp(tl.where(mask, exponent, float("-inf")))


@jit
def decay_between(later, earlier, segments, causal):
    """exp(later_i - earlier_j) where token j reaches token i: [C, C]."""
    return masked_exp(later[:, None] - earlier[None, :], causal & (segments[:, None] == segments[None, :]))


@jit
def decay_to_reads(G, segments, rows):
    """Γ, what is left of each token's write at its own read and at later ones: [C, C]."""
    return decay_between(G, G, segments, rows[:, None] >= rows[None, :])


@jit
def decay_entering(G, segments, segment, begin, token):
    """What is left at each row of the state that enters the chunk: [C]."""
    return masked_exp(G, segments == segment_before(segment, begin, token))


@jit
def decays_leaving(
    G,  # [C]
    segments,  # [C]
    cumulative,  # [B, T, HV], of which G is a part
    segment,  # [B, T]
    begin,
    token,
    head,
    length,
    HV: constexpr,
    C: constexpr,
):
    """What the state that leaves the chunk has of each row's write [C], and of the state that entered: one factor."""
    last = token + min(length, C) - 1
    G_last, leaving = tl.load(cumulative + last * HV + head), tl.load(segment + last)
    return masked_exp(G_last - G, segments == leaving), decay_entering(G_last, leaving, segment, begin, token)


# ops/delta_rule/kernel_backward.py

"""The delta rule's backward kernels, after `project_kernel` and `states_kernel` have run again.

With the names of the forward kernels, P = Γ ⊙ Q Kᵀ, D' the gradient of the state that leaves the chunk, B = diag(β) and
the strictly lower G = -(Z Nᵀ) ⊙ Γ:

    dN = scale Pᵀ dO + (exp(G_C - G) ⊙ K) D'                             first term: `local_kernel`
    D  = exp(G_C) D' + scale (exp(G) ⊙ Q)ᵀ dO - Wᵀ dN                    `state_gradients_kernel`, the last chunk first

    Z  = Xᵀ dN        dV = B Z        dP = (dO Nᵀ) ⊙ Γ                   the rest: `gradients_kernel`
    dQ = scale (exp(G) ⊙ dO Sᵀ + dP K)
    R  = G K - exp(G) ⊙ Z Sᵀ                                             the gradient through what a key recalls
    L  = scale dPᵀ Q + (B G)ᵀ K + exp(G_C - G) ⊙ N D'ᵀ                   the gradient through what a key writes
    dK = B R + L      dβ = rowsum(Z ⊙ V + K ⊙ R)
    dG = rowsum(Q ⊙ dQ - K ⊙ L + B K ⊙ R), and <S', D'> more at the last token; d log decay_t = sum of dG_i, i >= t

The gradient of A is -Xᵀ (dU (B V)ᵀ + dW (...)ᵀ) Xᵀ, which is -Z Nᵀ because dW = -dN Sᵀ: X itself needs no gradient.
Predicting from the undecayed memory, what goes through R does not reach token i's own decay.
"""

@tuned
@jit
def local_kernel(
    q,  # [B, T, H, DK]
    k,  # [B, T, H, DK]
    segment,  # [B, T] int32
    cumulative,  # [B, T, HV] fp32
    d_output,  # [B, T, HV, DV]
    d_local,  # [B, T, HV, DV], written: scale Pᵀ dO
    scale,
    T,
    H: constexpr,
    HV: constexpr,
    DK: constexpr,
    DV: constexpr,
    C: constexpr,
    BK: constexpr,
    BV: constexpr,
):
    """Grid: chunks, B HV."""
    head, rows = tl.program_id(1) % HV, tl.arange(0, C)
    _, token, length = chunk_place(tl.program_id(1), tl.program_id(0), T, HV, C)
    gram = dot_products(q, k, token, head // (HV // H), rows, length, H, DK, C, BK)
    G, segments = load_numbers(cumulative, token, head, rows, length, HV), load_segments(segment, token, rows, length)
    P = scale * gram * decay_to_reads(G, segments, rows)
    for column in range(0, DV, BV):
        columns = column + tl.arange(0, BV)
        dO = load_vectors(d_output, token, head, rows, columns, length, HV, DV)
        store_vectors(d_local, product(tl.trans(P.to(dO.dtype)), dO), token, head, rows, columns, length, HV, DV)


@tuned
@jit
def state_gradients_kernel(
    q,  # [B, T, H, DK]
    k,  # [B, T, H, DK]
    w,  # [B, T, HV, DK]
    segment,  # [B, T] int32
    cumulative,  # [B, T, HV] fp32
    d_output,  # [B, T, HV, DV]
    d_local,  # [B, T, HV, DV]
    d_final,  # [B, HV, DK, DV] fp32
    d_written,  # [B, T, HV, DV], written: dN
    d_states,  # [B, HV, chunks, DK, DV], written: the gradient of the state that leaves each chunk
    d_state,  # [B, HV, DK, DV] fp32, written: the gradient of the first state
    scale,
    T,
    H: constexpr,
    HV: constexpr,
    DK: constexpr,
    DV: constexpr,
    C: constexpr,
    BK: constexpr,  # all of DK
    BV: constexpr,
):
    """Grid: blocks of DV, B HV."""
    owner, head = tl.program_id(1).to(tl.int64), tl.program_id(1) % HV
    chunks, rows, wide = tl.cdiv(T, C), tl.arange(0, C), tl.arange(0, BK)
    columns = tl.program_id(0) * BV + tl.arange(0, BV)
    D = load_state(d_final, owner, wide, columns, DK, DV)
    for later_chunks in range(chunks):
        chunk = chunks - 1 - later_chunks
        begin, token, length = chunk_place(owner, chunk, T, HV, C)
        store_state(d_states, D, owner * chunks + chunk, wide, columns, DK, DV)
        G = load_numbers(cumulative, token, head, rows, length, HV)
        segments = load_segments(segment, token, rows, length)
        leaves, through = decays_leaving(G, segments, cumulative, segment, begin, token, head, length, HV, C)
        keys = load_vectors(k, token, head // (HV // H), rows, wide, length, H, DK)
        dN = leaves[:, None] * product(keys, D.to(keys.dtype))
        dN += load_vectors(d_local, token, head, rows, columns, length, HV, DV)
        store_vectors(d_written, dN, token, head, rows, columns, length, HV, DV)
        queries = load_vectors(q, token, head // (HV // H), rows, wide, length, H, DK)
        dO = load_vectors(d_output, token, head, rows, columns, length, HV, DV)
        enters = scale * decay_entering(G, segments, segment, begin, token)
        dO = (dO * enters[:, None]).to(queries.dtype)
        reads = load_vectors(w, token, head, rows, wide, length, HV, DK)
        D *= through
        D += product(tl.trans(queries), dO) - product(tl.trans(reads), dN.to(reads.dtype))
    store_state(d_state, D, owner, wide, columns, DK, DV)


@jit
def value_gradients(
    v,  # [B, T, HV, DV]
    written,  # [B, T, HV, DV]
    d_output,  # [B, T, HV, DV]
    d_written,  # [B, T, HV, DV]
    d_v,  # [B, T, HV, DV], written
    rates,  # [C], β
    solved,  # [C, C], Xᵀ
    token,
    head,
    rows,
    length,
    HV: constexpr,
    DV: constexpr,
    C: constexpr,
    BV: constexpr,
):
    """Writes dV; returns dO Nᵀ and Z Nᵀ [C, C], and rowsum(Z ⊙ V) [C]."""
    dON, ZN, d_rates = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32), tl.zeros((C,), tl.float32)
    for start in range(0, DV, BV):
        columns = start + tl.arange(0, BV)
        Z = product(solved, load_vectors(d_written, token, head, rows, columns, length, HV, DV))
        store_vectors(d_v, rates[:, None] * Z, token, head, rows, columns, length, HV, DV)
        d_rates += tl.sum(Z * load_vectors(v, token, head, rows, columns, length, HV, DV), axis=1)
        N = load_vectors(written, token, head, rows, columns, length, HV, DV)
        ZN += product(Z.to(solved.dtype), tl.trans(N))
        dON += product(load_vectors(d_output, token, head, rows, columns, length, HV, DV), tl.trans(N))
    return dON, ZN, d_rates


@jit
def state_products(
    written,  # [B, T, HV, DV]
    states,  # [B, HV, chunks, DK, DV]
    d_output,  # [B, T, HV, DV]
    d_written,  # [B, T, HV, DV]
    d_states,  # [B, HV, chunks, DK, DV]
    solved,  # [C, C], Xᵀ
    index,  # of the chunk's state
    token,
    head,
    rows,
    wide,  # [BK], of the keys' features
    length,
    HV: constexpr,
    DK: constexpr,
    DV: constexpr,
    C: constexpr,
    BK: constexpr,
    BV: constexpr,
):
    """dO Sᵀ, Z Sᵀ and N D'ᵀ [C, BK] for these features of the keys, and their part of <S, D'>."""
    from_reads, from_recalls = tl.zeros((C, BK), tl.float32), tl.zeros((C, BK), tl.float32)
    from_writes, kept = tl.zeros((C, BK), tl.float32), 0.0
    for start in range(0, DV, BV):
        columns = start + tl.arange(0, BV)
        S = load_state(states, index, wide, columns, DK, DV)
        D = load_state(d_states, index, wide, columns, DK, DV)
        dO = load_vectors(d_output, token, head, rows, columns, length, HV, DV)
        N = load_vectors(written, token, head, rows, columns, length, HV, DV)
        Z = product(solved, load_vectors(d_written, token, head, rows, columns, length, HV, DV))
        from_reads += product(dO, tl.trans(S))
        from_recalls += product(Z.to(solved.dtype), tl.trans(S))
        from_writes += product(N, tl.trans(D))
        kept += tl.sum(S.to(tl.float32) * D.to(tl.float32))
    return from_reads, from_recalls, from_writes, kept


@tuned
@jit
def gradients_kernel(
    q,  # [B, T, H, DK]
    k,  # [B, T, H, DK]
    v,  # [B, T, HV, DV]
    beta,  # [B, T, HV] fp32
    segment,  # [B, T] int32
    cumulative,  # [B, T, HV] fp32
    recall,  # [B, T, HV] fp32
    inverse,  # [B, T, HV, C] fp32
    written,  # [B, T, HV, DV]
    states,  # [B, HV, chunks, DK, DV]
    d_output,  # [B, T, HV, DV]
    d_written,  # [B, T, HV, DV]
    d_states,  # [B, HV, chunks, DK, DV]
    d_q,  # [B, T, HV, DK], written, as are those below
    d_k,  # [B, T, HV, DK]
    d_v,  # [B, T, HV, DV]
    d_beta,  # [B, T, HV] fp32
    d_g,  # [B, T, HV] fp32
    scale,
    T,
    H: constexpr,
    HV: constexpr,
    DK: constexpr,
    DV: constexpr,
    C: constexpr,
    BK: constexpr,
    BV: constexpr,
    UNDECAYED: constexpr,
):
    """Grid: chunks, B HV."""
    owner, chunk, head, rows = tl.program_id(1), tl.program_id(0), tl.program_id(1) % HV, tl.arange(0, C)
    begin, token, length = chunk_place(owner, chunk, T, HV, C)
    rates = load_numbers(beta, token, head, rows, length, HV)
    solved = tl.trans(load_vectors(inverse, token, head, rows, rows, length, HV, C)).to(k.dtype.element_ty)
    dON, ZN, d_rates = value_gradients(
        v, written, d_output, d_written, d_v, rates, solved, token, head, rows, length, HV, DV, C, BV
    )

    G, segments = load_numbers(cumulative, token, head, rows, length, HV), load_segments(segment, token, rows, length)
    later = load_numbers(recall, token, head, rows, length, HV)
    reads = scale * decay_entering(G, segments, segment, begin, token)
    recalls = decay_entering(later, segments, segment, begin, token)
    leaves, through = decays_leaving(G, segments, cumulative, segment, begin, token, head, length, HV, C)
    between_reads = (scale * dON * decay_to_reads(G, segments, rows)).to(solved.dtype)
    between_recalls = -ZN * decay_between(later, G, segments, rows[:, None] > rows[None, :])
    # Rounded once for the row and for the column that it adds to: in the gradient of a decay the two cancel.
    between_writes = (rates[:, None] * between_recalls).to(solved.dtype)
    between_recalls = between_recalls.to(solved.dtype)

    # Over the keys: dQ and dK, and what is left of dβ and the decays.
    index = owner.to(tl.int64) * tl.cdiv(T, C) + chunk
    d_later, d_G, d_last = tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32), 0.0
    for start in range(0, DK, BK):
        wide = start + tl.arange(0, BK)
        from_reads, from_recalls, from_writes, kept = state_products(
            *(written, states, d_output, d_written, d_states, solved, index),
            *(token, head, rows, wide, length, HV, DK, DV, C, BK, BV),
        )
        queries = load_vectors(q, token, head // (HV // H), rows, wide, length, H, DK)
        keys = load_vectors(k, token, head // (HV // H), rows, wide, length, H, DK)
        dQ = reads[:, None] * from_reads + product(between_reads, keys)
        from_recalls *= recalls[:, None]
        BR = product(between_writes, keys) - rates[:, None] * from_recalls
        from_writes *= leaves[:, None]
        L = from_writes + product(tl.trans(between_reads), queries) + product(tl.trans(between_writes), keys)
        store_vectors(d_q, dQ, token, head, rows, wide, length, HV, DK)
        store_vectors(d_k, BR + L, token, head, rows, wide, length, HV, DK)
        d_rates += tl.sum(keys * (product(between_recalls, keys) - from_recalls), axis=1)
        d_later += tl.sum(keys * BR, axis=1)
        d_G += tl.sum(queries * dQ - keys * L, axis=1)
        d_last += tl.sum(keys * from_writes) + through * kept
    store_numbers(d_beta, d_rates, token, head, rows, length, HV)
    d_decay = d_last + tl.cumsum(d_G + d_later, 0, reverse=True)
    if UNDECAYED:
        d_decay -= d_later
    store_numbers(d_g, d_decay, token, head, rows, length, HV)


# ops/delta_rule/kernel_forward.py

"""The delta rule's forward kernels: one matrix inverse a chunk, then states chunk after chunk, then outputs.

With G the cumulative log decay within a chunk, Γ_ij = exp(G_i - G_j) for j <= i, and S the state that enters it:

    A = strictLower(diag(β) (Γ ⊙ K Kᵀ))        X = (I + A)⁻¹                             `solve_kernel`
    U = X (β ⊙ V)                              W = X (β exp(G) ⊙ K)                      `project_kernel`
    N = U - W S                                S' = exp(G_C) S + (exp(G_C - G) ⊙ K)ᵀ N   `states_kernel`
    O = scale (exp(G) ⊙ Q S + (Γ ⊙ Q Kᵀ) N)                                              `outputs_kernel`

Only the states wait for the chunk before. Predicting from the undecayed memory takes the G of the token before for G_i
in A and in W.

Tensors are contiguous. Products take operands in the dtype of q, k and v and accumulate in fp32; X, G and the running
state are fp32.

1. Yang et al. 2024, DeltaNet, arXiv 2406.06484.  2. Yang et al. 2025, Gated DeltaNet, arXiv 2412.06464.
"""

@tuned
@jit
def solve_kernel(
    k,  # [B, T, H, DK]
    beta,  # [B, T, HV] fp32
    g,  # [B, T, HV] fp32
    segment,  # [B, T] int32
    cumulative,  # [B, T, HV] fp32, written: G
    recall,  # [B, T, HV] fp32, written: G, or that of the token before
    inverse,  # [B, T, HV, C] fp32, written: the rows of X
    T,
    H: constexpr,
    HV: constexpr,
    DK: constexpr,
    DV: constexpr,
    C: constexpr,
    BK: constexpr,
    BV: constexpr,
    UNDECAYED: constexpr,
):
    """Grid: chunks, B HV."""
    head, rows = tl.program_id(1) % HV, tl.arange(0, C)
    _, token, length = chunk_place(tl.program_id(1), tl.program_id(0), T, HV, C)
    decay = load_numbers(g, token, head, rows, length, HV)
    strict = rows[:, None] > rows[None, :]
    G = sum_of_row(decay, rows[:, None] >= rows[None, :])
    # The same bits as the G of the token before: what is left of its write must be all of it.
    later = sum_of_row(decay, strict) if UNDECAYED else G
    store_numbers(cumulative, G, token, head, rows, length, HV)
    store_numbers(recall, later, token, head, rows, length, HV)
    gram = dot_products(k, k, token, head // (HV // H), rows, length, H, DK, C, BK)
    rates = load_numbers(beta, token, head, rows, length, HV)
    A = rates[:, None] * gram * decay_between(later, G, load_segments(segment, token, rows, length), strict)
    store_vectors(inverse, inverse_of_one_plus(A, C), token, head, rows, rows, length, HV, C)


@tuned
@jit
def project_kernel(
    k,  # [B, T, H, DK]
    v,  # [B, T, HV, DV]
    beta,  # [B, T, HV] fp32
    segment,  # [B, T] int32
    recall,  # [B, T, HV] fp32
    inverse,  # [B, T, HV, C] fp32
    w,  # [B, T, HV, DK], written
    u,  # [B, T, HV, DV], written
    T,
    H: constexpr,
    HV: constexpr,
    DK: constexpr,
    DV: constexpr,
    C: constexpr,
    BK: constexpr,
    BV: constexpr,
):
    """Grid: chunks, B HV."""
    head, rows = tl.program_id(1) % HV, tl.arange(0, C)
    begin, token, length = chunk_place(tl.program_id(1), tl.program_id(0), T, HV, C)
    later, segments = load_numbers(recall, token, head, rows, length, HV), load_segments(segment, token, rows, length)
    solved = load_vectors(inverse, token, head, rows, rows, length, HV, C)
    solved *= load_numbers(beta, token, head, rows, length, HV)[None, :]
    for column in range(0, DV, BV):
        columns = column + tl.arange(0, BV)
        values = load_vectors(v, token, head, rows, columns, length, HV, DV)
        store_vectors(u, product(solved.to(values.dtype), values), token, head, rows, columns, length, HV, DV)
    solved *= decay_entering(later, segments, segment, begin, token)[None, :]
    for column in range(0, DK, BK):
        columns = column + tl.arange(0, BK)
        keys = load_vectors(k, token, head // (HV // H), rows, columns, length, H, DK)
        store_vectors(w, product(solved.to(keys.dtype), keys), token, head, rows, columns, length, HV, DK)


@tuned
@jit
def states_kernel(
    k,  # [B, T, H, DK]
    w,  # [B, T, HV, DK]
    u,  # [B, T, HV, DV]
    segment,  # [B, T] int32
    cumulative,  # [B, T, HV] fp32
    state,  # [B, HV, DK, DV] fp32, before the first token
    written,  # [B, T, HV, DV], written: N
    states,  # [B, HV, chunks, DK, DV], written: the state that enters each chunk
    final,  # [B, HV, DK, DV] fp32, written
    T,
    H: constexpr,
    HV: constexpr,
    DK: constexpr,
    DV: constexpr,
    C: constexpr,
    BK: constexpr,  # all of DK
    BV: constexpr,
):
    """Grid: blocks of DV, B HV."""
    owner, head = tl.program_id(1).to(tl.int64), tl.program_id(1) % HV
    chunks, rows, wide = tl.cdiv(T, C), tl.arange(0, C), tl.arange(0, BK)
    columns = tl.program_id(0) * BV + tl.arange(0, BV)
    S = load_state(state, owner, wide, columns, DK, DV)
    for chunk in range(chunks):
        begin, token, length = chunk_place(owner, chunk, T, HV, C)
        store_state(states, S, owner * chunks + chunk, wide, columns, DK, DV)
        reads = load_vectors(w, token, head, rows, wide, length, HV, DK)
        N = load_vectors(u, token, head, rows, columns, length, HV, DV) - product(reads, S.to(reads.dtype))
        store_vectors(written, N, token, head, rows, columns, length, HV, DV)
        G = load_numbers(cumulative, token, head, rows, length, HV)
        segments = load_segments(segment, token, rows, length)
        leaves, through = decays_leaving(G, segments, cumulative, segment, begin, token, head, length, HV, C)
        keys = load_vectors(k, token, head // (HV // H), rows, wide, length, H, DK)
        S *= through
        S += product(tl.trans(keys), (N * leaves[:, None]).to(keys.dtype))
    store_state(final, S, owner, wide, columns, DK, DV)


@tuned
@jit
def outputs_kernel(
    q,  # [B, T, H, DK]
    k,  # [B, T, H, DK]
    segment,  # [B, T] int32
    cumulative,  # [B, T, HV] fp32
    written,  # [B, T, HV, DV]
    states,  # [B, HV, chunks, DK, DV]
    output,  # [B, T, HV, DV], written
    scale,
    T,
    H: constexpr,
    HV: constexpr,
    DK: constexpr,
    DV: constexpr,
    C: constexpr,
    BK: constexpr,
    BV: constexpr,
):
    """Grid: blocks of DV, chunks, B HV."""
    owner, chunk, head, rows = tl.program_id(2), tl.program_id(1), tl.program_id(2) % HV, tl.arange(0, C)
    begin, token, length = chunk_place(owner, chunk, T, HV, C)
    index, columns = owner.to(tl.int64) * tl.cdiv(T, C) + chunk, tl.program_id(0) * BV + tl.arange(0, BV)
    gram, from_state = tl.zeros((C, C), tl.float32), tl.zeros((C, BV), tl.float32)
    for start in range(0, DK, BK):
        wide = start + tl.arange(0, BK)
        queries = load_vectors(q, token, head // (HV // H), rows, wide, length, H, DK)
        keys = load_vectors(k, token, head // (HV // H), rows, wide, length, H, DK)
        gram += product(queries, tl.trans(keys))
        from_state += product(queries, load_state(states, index, wide, columns, DK, DV))
    G = load_numbers(cumulative, token, head, rows, length, HV)
    segments = load_segments(segment, token, rows, length)
    enters, weights = decay_entering(G, segments, segment, begin, token), gram * decay_to_reads(G, segments, rows)
    N = load_vectors(written, token, head, rows, columns, length, HV, DV)
    result = scale * (enters[:, None] * from_state + product(weights.to(N.dtype), N))
    store_vectors(output, result, token, head, rows, columns, length, HV, DV)


# ops/delta_rule/kernel.py

"""The delta rule on a GPU: chunks of 64 tokens in Triton kernels, as an operator that torch.compile leaves whole.

Kept for the backward: the arguments, the inverse of every chunk and the cumulative decays; the rest is computed again.
"""

KERNEL_CHUNK = 64
LARGEST_HEAD = 256


def kernel_delta_rule(
    q: Tensor,  # [B, T, H, Dk]
    k: Tensor,  # [B, T, H, Dk]
    v: Tensor,  # [B, T, Hv, Dv], in fp16, bf16 or fp32
    beta: Tensor,  # [B, T, Hv]
    g: Tensor | None = None,  # [B, T, Hv]
    state: Tensor | None = None,  # [B, Hv, Dk, Dv] fp32
    *,
    scale: float | None = None,
    predict_from: str = "decayed",
    starts: Tensor | None = None,  # [B, T] bool
) -> tuple[Tensor, Tensor]:  # [B, T, Hv, Dv] in v's dtype; [B, Hv, Dk, Dv] fp32
    """What `delta_rule_reference` returns, on CUDA (and on a CPU under Triton's interpreter, for tests).

    Raises UserError as it does, for values in fp64, and for heads larger than 256.
    """
    check_delta_rule(q, k, v, beta, g, state, predict_from, starts)
    B, T, Hv, Dv = v.shape
    Dk = k.shape[-1]
    if v.dtype == torch.float64:
        raise UserError("the delta rule's kernels take fp16, bf16 or fp32, got torch.float64; nearest torch.float32")
    if max(Dk, Dv) > LARGEST_HEAD:
        raise UserError(
            f"the delta rule's kernels take heads of at most {LARGEST_HEAD}, got {Dk} and {Dv}; "
            f"nearest {min(Dk, LARGEST_HEAD)} and {min(Dv, LARGEST_HEAD)}"
        )
    g = v.new_zeros(B, T, Hv, dtype=torch.float32) if g is None else g.float()
    state = v.new_zeros(B, Hv, Dk, Dv, dtype=torch.float32) if state is None else state
    segment = v.new_zeros(B, T, dtype=torch.int32) if starts is None else starts.cumsum(1, dtype=torch.int32)
    tensors = (x.contiguous() for x in (q, k, v, beta.float(), g, state, segment))
    return _KernelDeltaRule.apply(*tensors, Dk**-0.5 if scale is None else scale, predict_from == "undecayed")


class _KernelDeltaRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *arguments: Tensor | float | bool) -> tuple[Tensor, Tensor]:
        *tensors, scale, undecayed = arguments
        output, final, *kept = delta_rule_forward(*tensors, scale, undecayed)
        ctx.save_for_backward(*tensors, *kept)
        ctx.settings = scale, undecayed
        return output, final

    @staticmethod
    @once_differentiable
    def backward(ctx, d_output: Tensor, d_final: Tensor) -> tuple[Tensor | None, ...]:
        gradients = delta_rule_backward(*ctx.saved_tensors, d_output.contiguous(), d_final.contiguous(), *ctx.settings)
        # None for the segments, the scale and the flag.
        return *gradients, None, None, None


@torch.library.custom_op("sixteen::delta_rule_forward", mutates_args=())
def delta_rule_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor,
    state: Tensor,
    segment: Tensor,  # [B, T] int32, counts the resets of the state
    scale: float,
    undecayed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Output, last state, and for the backward the inverses [B, T, Hv, C] and two cumulative decays [B, T, Hv]."""
    sizes, (chunks, owners) = kernel_sizes(k, v), _chunks_and_owners(v)
    output, final, inverse, cumulative, recall = _empty_results(v, state)
    solve_kernel[chunks, owners](k, beta, g, segment, cumulative, recall, inverse, UNDECAYED=undecayed, **sizes)
    _, written, states = _walked(k, v, beta, state, segment, inverse, cumulative, recall, final)
    blocks = -(-v.shape[-1] // sizes["BV"])
    outputs_kernel[blocks, chunks, owners](q, k, segment, cumulative, written, states, output, scale, **sizes)
    return output, final, inverse, cumulative, recall


@torch.library.custom_op("sixteen::delta_rule_backward", mutates_args=())
def delta_rule_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor,
    state: Tensor,
    segment: Tensor,
    inverse: Tensor,
    cumulative: Tensor,
    recall: Tensor,
    d_output: Tensor,
    d_final: Tensor,
    scale: float,
    undecayed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v, beta, g and state."""
    sizes, walk, (chunks, owners) = kernel_sizes(k, v), walk_sizes(k, v), _chunks_and_owners(v)
    w, written, states = _walked(k, v, beta, state, segment, inverse, cumulative, recall, torch.empty_like(state))
    d_local, d_written, d_states, d_state = (torch.empty_like(x) for x in (v, v, states, state))
    local_kernel[chunks, owners](q, k, segment, cumulative, d_output, d_local, scale, **sizes)
    state_gradients_kernel[-(-v.shape[-1] // walk["BV"]), owners](
        *(q, k, w, segment, cumulative, d_output, d_local, d_final, d_written, d_states, d_state, scale), **walk
    )
    # Value heads that share a key head add up, so they are not rounded before.
    (B, T, H, Dk), Hv = k.shape, v.shape[2]
    d_q, d_k = (k.new_empty(B, T, Hv, Dk, dtype=k.dtype if Hv == H else torch.float32) for _ in range(2))
    d_v, d_beta, d_g = (torch.empty_like(x) for x in (v, beta, g))
    gradients_kernel[chunks, owners](
        *(q, k, v, beta, segment, cumulative, recall, inverse, written, states, d_output, d_written, d_states),
        *(d_q, d_k, d_v, d_beta, d_g, scale),
        UNDECAYED=undecayed,
        **sizes,
    )
    if Hv != H:
        d_q, d_k = (x.view(B, T, H, Hv // H, Dk).sum(3).to(k.dtype) for x in (d_q, d_k))
    return d_q, d_k, d_v, d_beta, d_g, d_state


@delta_rule_forward.register_fake
def _(q, k, v, beta, g, state, segment, scale, undecayed):
    return _empty_results(v, state)


@delta_rule_backward.register_fake
def _(q, k, v, beta, g, state, segment, inverse, cumulative, recall, d_output, d_final, scale, undecayed):
    return tuple(torch.empty_like(x) for x in (q, k, v, beta, g, state))


def _empty_results(v: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    B, T, Hv, _ = v.shape
    sizes = ((B, T, Hv, KERNEL_CHUNK), (B, T, Hv), (B, T, Hv))
    return torch.empty_like(v), torch.empty_like(state), *(v.new_empty(size, dtype=torch.float32) for size in sizes)


def _walked(
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    state: Tensor,
    segment: Tensor,
    inverse: Tensor,
    cumulative: Tensor,
    recall: Tensor,
    final: Tensor,  # written: the last state
) -> tuple[Tensor, Tensor, Tensor]:  # W [B, T, Hv, Dk], N [B, T, Hv, Dv], states [B, Hv, chunks, Dk, Dv]
    """What the keys recall and write, and the state before every chunk."""
    walk, (chunks, owners) = walk_sizes(k, v), _chunks_and_owners(v)
    (B, T, Hv, Dv), Dk = v.shape, k.shape[-1]
    w, u, written = k.new_empty(B, T, Hv, Dk), torch.empty_like(v), torch.empty_like(v)
    states = v.new_empty(B, Hv, chunks, Dk, Dv)
    project_kernel[chunks, owners](k, v, beta, segment, recall, inverse, w, u, **kernel_sizes(k, v))
    states_kernel[-(-Dv // walk["BV"]), owners](k, w, u, segment, cumulative, state, written, states, final, **walk)
    return w, written, states


def _chunks_and_owners(v: Tensor) -> tuple[int, int]:
    """How many chunks a sequence has, and how many states there are."""
    B, T, Hv, _ = v.shape
    return -(-T // KERNEL_CHUNK), B * Hv


def walk_sizes(k: Tensor, v: Tensor) -> dict[str, int]:
    """The sizes for a kernel that goes from chunk to chunk: it holds all of the keys and few of the values."""
    return {
        **kernel_sizes(k, v),
        "BK": _block(k.shape[-1], LARGEST_HEAD),
        "BV": _block(v.shape[-1], 64 // v.element_size()),
    }


def kernel_sizes(k: Tensor, v: Tensor) -> dict[str, int]:
    """The sizes for a kernel that does all chunks at once, by blocks of keys and of values."""
    (T, H, Dk), (Hv, Dv), block = k.shape[1:], v.shape[2:], 128 // v.element_size()
    blocks = {"BK": _block(Dk, block), "BV": _block(Dv, block)}
    return {"T": T, "H": H, "HV": Hv, "DK": Dk, "DV": Dv, "C": KERNEL_CHUNK, **blocks}


def _block(size: int, most: int) -> int:
    """The power of two that holds `size`, at most `most`, and at least 16: less is no tensor core product."""
    return max(16, min(most, 1 << (size - 1).bit_length()))


# ops/delta_rule/padded.py

"""The kernels for heads of up to 128, as heads of 128: padded with zeros, which add nothing to any product.

Heads of 128 were right on a GPU; with heads of 64 a kernel of the backward read beyond its shared memory
(benchmarks/h200.md). Padded ones take the time and the memory of heads of 128.
"""

SOUND_HEAD = 128


def padded_kernel_delta_rule(
    q: Tensor,  # [B, T, H, Dk]
    k: Tensor,  # [B, T, H, Dk]
    v: Tensor,  # [B, T, Hv, Dv], in fp16, bf16 or fp32
    beta: Tensor,  # [B, T, Hv]
    g: Tensor | None = None,  # [B, T, Hv]
    state: Tensor | None = None,  # [B, Hv, Dk, Dv] fp32
    *,
    scale: float | None = None,  # None: Dk ** -0.5
    predict_from: str = "decayed",
    starts: Tensor | None = None,  # [B, T] bool
) -> tuple[Tensor, Tensor]:  # [B, T, Hv, Dv] in v's dtype; [B, Hv, Dk, Dv] fp32
    """What `kernel_delta_rule` returns, and its errors; a UserError for heads larger than 128."""
    check_delta_rule(q, k, v, beta, g, state, predict_from, starts)
    Dk, Dv = k.shape[-1], v.shape[-1]
    if max(Dk, Dv) > SOUND_HEAD:
        raise UserError(
            f"the delta rule's kernels were right on a GPU with heads of at most {SOUND_HEAD}, got {Dk} and {Dv}; "
            f"nearest {min(Dk, SOUND_HEAD)} and {min(Dv, SOUND_HEAD)}"
        )
    if state is not None:
        state = F.pad(state, (0, SOUND_HEAD - Dv, 0, SOUND_HEAD - Dk))
    output, final = kernel_delta_rule(
        *(F.pad(x, (0, SOUND_HEAD - x.shape[-1])) for x in (q, k, v)),
        *(beta, g, state),
        scale=Dk**-0.5 if scale is None else scale,
        predict_from=predict_from,
        starts=starts,
    )
    return output[..., :Dv], final[..., :Dk, :Dv]


# ops/delta_rule/step.py

"""One token of the delta rule, for decoding: what `delta_rule_reference` does once, by autograd's own backward."""

def delta_rule_step(
    q: Tensor,  # [B, 1, H, Dk]
    k: Tensor,  # [B, 1, H, Dk]
    v: Tensor,  # [B, 1, Hv, Dv]
    beta: Tensor,  # [B, 1, Hv]
    g: Tensor | None = None,  # [B, 1, Hv]
    state: Tensor | None = None,  # [B, Hv, Dk, Dv]
    *,
    scale: float | None = None,
    predict_from: str = "decayed",
) -> tuple[Tensor, Tensor]:  # [B, 1, Hv, Dv] in v's dtype; [B, Hv, Dk, Dv]
    """What the token reads and the state after it; `state` itself stays as it was.

    Raises UserError as `delta_rule_reference` does, and for more than one token.
    """
    check_delta_rule(q, k, v, beta, g, state, predict_from, None)
    (B, T, H, Dk), (Hv, Dv) = q.shape, v.shape[2:]
    if T != 1:
        raise UserError(f"a step of the delta rule takes one token, got {T}; nearest 1")
    S = v.new_zeros(B, Hv, Dk, Dv, dtype=state_dtype(v)) if state is None else state
    q, k, v_wide, beta = (x.squeeze(1).to(S.dtype) for x in (q, k, v, beta))
    q, k = (x.repeat_interleave(Hv // H, dim=1) for x in (q, k))
    decayed = S if g is None else S * g.squeeze(1).to(S.dtype).exp()[..., None, None]
    recalled = torch.matmul(k[:, :, None], decayed if predict_from == "decayed" else S)
    write = beta[..., None, None] * (v_wide[:, :, None] - recalled)
    S = torch.addcmul(decayed, k[..., None], write)
    read = torch.matmul(q[:, :, None], S) * (Dk**-0.5 if scale is None else scale)
    return read.transpose(1, 2).to(v.dtype), S


# ops/delta_rule/dispatch.py

"""The delta rule as a model calls it: the form that is fastest where the tensors are."""

def delta_rule(
    q: Tensor,  # [B, T, H, Dk], normalised by the caller
    k: Tensor,  # [B, T, H, Dk], of length one
    v: Tensor,  # [B, T, Hv, Dv]
    beta: Tensor,  # [B, T, Hv]
    g: Tensor | None = None,  # [B, T, Hv], log decay, at most 0; None: no decay
    state: Tensor | None = None,  # [B, Hv, Dk, Dv] in fp32 (fp64 for fp64 values); None: zeros
    *,
    scale: float | None = None,  # None: Dk ** -0.5
    predict_from: str = "decayed",  # or "undecayed"
    starts: Tensor | None = None,  # [B, T] bool: the state is emptied before this token
) -> tuple[Tensor, Tensor]:  # [B, T, Hv, Dv] in v's dtype; [B, Hv, Dk, Dv]
    """What `delta_rule_reference` returns: one token by a step, on CUDA by the kernels, else by chunks.

    Raises UserError as the reference does.
    """
    if v.shape[1:2] == (1,) and starts is None:
        return delta_rule_step(q, k, v, beta, g, state, scale=scale, predict_from=predict_from)
    form = padded_kernel_delta_rule if _has_kernel(k, v) else chunked_delta_rule
    return form(q, k, v, beta, g, state, scale=scale, predict_from=predict_from, starts=starts)


def _has_kernel(k: Tensor, v: Tensor) -> bool:
    return triton is not None and v.is_cuda and v.element_size() <= 4 and max(k.shape[-1], v.shape[-1]) <= SOUND_HEAD


# model/deltanet.py

"""DeltaNet and Gated DeltaNet: a memory of fixed size a head, corrected towards each key's value (ops/delta_rule).

    q, k, v = SiLU(conv(W x));  q, k of length one;  beta = sigmoid(W x);  y = W_out readout(delta rule, x)

1. Yang et al. 2024, DeltaNet, arXiv 2406.06484.  2. Yang et al. 2025, Gated DeltaNet, arXiv 2412.06464.
3. Grazzi et al. 2025, negative eigenvalues, arXiv 2411.12537.
"""

@dataclass(frozen=True)
class DeltaNetConfig:
    """Gated DeltaNet as published; keys are `expand_k` x width wide and values `expand_v` x width, all heads together.

    Imli has `l2_eps` 1e-24, which stands for a division by max(|x|, 1e-12), and `q_scale` 1.
    """

    num_heads: int = 4
    num_value_heads: int | None = None  # None: num_heads; a multiple of it shares keys among values
    expand_k: float = 0.75
    expand_v: float = 1.5
    conv_size: int = 4
    decay: StepDecayConfig = StepDecayConfig()
    readout: NormedReadoutConfig = NormedReadoutConfig()
    linear: LinearConfig = LinearConfig()
    predict_from: Literal["decayed", "undecayed"] = "decayed"
    q_scale: float | None = None  # None: Dk ** -0.5
    l2_eps: float = 1e-6
    largest_beta: float = 1.0  # 2 allows negative eigenvalues
    gate_init_std: float | None = None  # of the matrices of beta and the decay; None: as all others
    has_bounded_state: ClassVar[bool] = True

    def build(self, dim: int) -> "DeltaNet":
        self.head_sizes(dim)
        return DeltaNet(self, dim)

    @property
    def value_heads(self) -> int:
        """Heads of the values, and so of the memory."""
        return self.num_heads if self.num_value_heads is None else self.num_value_heads

    def head_sizes(self, dim: int) -> tuple[int, int]:
        """Dk and Dv at this width. Raises UserError where heads do not divide."""
        check_positive("num_heads", self.num_heads)
        check_positive("num_value_heads", self.value_heads)
        if self.value_heads % self.num_heads:
            raise UserError(
                f"value heads must be a multiple of the {self.num_heads} key heads, got {self.value_heads}; "
                f"nearest {nearest_multiple(self.value_heads, self.num_heads)}"
            )
        return (
            _head_size("expand_k", self.expand_k, dim, self.num_heads),
            _head_size("expand_v", self.expand_v, dim, self.value_heads),
        )


class DeltaNet(ConvolvedMixer):
    """A mixer: y, state = mixer(x, state) with x and y [B, T, dim]."""

    def __init__(self, config: DeltaNetConfig, dim: int) -> None:
        (Dk, Dv), linear = config.head_sizes(dim), config.linear
        values = config.value_heads * Dv
        super().__init__(dim, config.num_heads * Dk, values, config.conv_size, linear)
        self.config, self.Dk, self.Dv = config, Dk, Dv
        self.beta = linear.build(dim, config.value_heads)
        self.decay = config.decay.build(dim, config.value_heads, linear)
        self.readout = config.readout.build(dim, config.value_heads, Dv, linear)
        self.project = linear.build(values, dim, zero_init=True)

    def reset_parameters(self) -> None:
        if self.config.gate_init_std is not None:
            for gate in (self.beta, *self.decay.children()):
                nn.init.normal_(gate.weight, std=self.config.gate_init_std)

    def forward(
        self,
        x: Tensor,  # [B, T, dim]
        state: MemoryState | None = None,  # of what came before x; None at the start of a text
    ) -> tuple[Tensor, MemoryState]:
        q, k, v, tails, S = self.convolved(x, state)
        q, k = (l2_norm(part.unflatten(-1, (-1, self.Dk)), self.config.l2_eps) for part in (q, k))
        v = v.unflatten(-1, (-1, self.Dv))
        beta = self.config.largest_beta * torch.sigmoid(self.beta(x))
        o, S = delta_rule(
            q, k, v, beta, self.decay(x), S, scale=self.config.q_scale, predict_from=self.config.predict_from
        )
        return self.project(self.readout(o, x)), (*tails, S)


def _head_size(name: str, expand: float, dim: int, num_heads: int) -> int:
    # Six digits of a fraction, as the error gives them, must do.
    width = round(expand * dim, 2)
    if width < num_heads or width % num_heads:
        raise UserError(
            f"{name} times the width must be a multiple of the {num_heads} heads, got {expand:g} x {dim} = {width:g}; "
            f"nearest {name} {nearest_multiple(width, num_heads) / dim:g}"
        )
    return int(width) // num_heads


# ops/cross_entropy/softcap.py

"""Nats of a soft-capped, tied head: z = x Eᵀ, logits = cap tanh(z / cap), nats = logsumexp(logits) - logits[target].

Without a cap the logits are z. The projection runs in x's dtype; cap, softmax and nats are fp32.
"""

def softcapped_logits(
    x: Tensor,  # [N, D]
    table: Tensor,  # [V, D] fp32
    cap: float | None,
) -> Tensor:  # [N, V] fp32
    """The capped logits themselves, for sampling and for tests."""
    z = F.linear(x, table.to(x.dtype)).float()
    return z if cap is None else cap * torch.tanh(z / cap)


def softcapped_nats(
    x: Tensor,  # [N, D]
    table: Tensor,  # [V, D] fp32
    targets: Tensor,  # [N] int64
    cap: float | None,
) -> Tensor:  # [N] fp32
    """-log p(target) in nats, unreduced."""
    return F.cross_entropy(softcapped_logits(x, table, cap), targets, reduction="none")


# model/language_model.py

"""What every model has in common: from tokens to a residual, from the residual to nats through the tied table."""

class LanguageModel(nn.Module):
    """The model contract: unreduced nats in fp32, and a state with one entry a layer, the embedding's first.

    A model adds two methods: `hidden(tokens, state)` gives what the head reads, [B, T, dim], and the state after;
    `initialise(linear, name)` fills the weight of a matrix. The config's `embed` makes the first residual and holds
    `tokens.weight`, which is also the head. Activations run in `compute_dtype`; parameters stay fp32.
    """

    def __init__(
        self,
        config: Any,  # has embed, vocab_size, dim and softcap
        compute_dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype, self.nats_of = compute_dtype, softcapped_nats
        self.embed = config.embed.build(config.vocab_size, config.dim)

    @property
    def head_table(self) -> Tensor:
        """What makes logits of the last residual, [vocab_size, dim]: the embedding's table, where nothing is untied."""
        return self.embed.tokens.weight

    def forward(
        self,
        tokens: Tensor,  # [B, T] int64
        targets: Tensor,  # [B, S] int64, S <= T: what follows each of the last S tokens
        state: tuple | None = None,  # of the text before `tokens`; None at its start
    ) -> tuple[Tensor, tuple]:  # nats [B, S] fp32, the state after `tokens`
        x, state = self.hidden(tokens, state)
        scored = x[:, x.shape[1] - targets.shape[1] :]
        nats = self.nats_of(scored.flatten(0, 1), self.head_table, targets.flatten(), self.config.softcap)
        return nats.view(targets.shape), state

    def logits(self, tokens: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        """fp32 logits [B, T, vocab_size] of what follows each token, and the state after: for samplers and judges."""
        x, state = self.hidden(tokens, state)
        flat = softcapped_logits(x.flatten(0, 1), self.head_table, self.config.softcap)
        return flat.view(*tokens.shape, -1), state

    @torch.no_grad()
    def reset_parameters(self, seed: int) -> "LanguageModel":
        """Initialises everything that starts at random from `seed`; the same on every rank and device."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for name, module in self.named_modules():
                if isinstance(module, Linear):
                    self.initialise(module, name)
            for module in self.modules():
                if module is not self and hasattr(module, "reset_parameters"):
                    module.reset_parameters()
        return self


# model/gpt.py

"""The residual stack of the competition: embed -> layers -> tied, soft-capped head -> nats.

Each layer mixes the running residual with the first one (x0), adds its mixer and its MLP through learned vectors; the
first half of the layers hands its outputs to the second half, last to first (U-Net skips). No norm carries a weight, no
matrix a bias.

    nats, state = model(tokens, targets, state)

1. Parameter Golf, the organisers' train_gpt.py. 2. Ronneberger et al. 2015, U-Net, arXiv 1505.04597.
3. Gemma 2, arXiv 2408.00118 (soft cap).
"""

@dataclass(frozen=True)
class LayerConfig:
    """One layer: a token mixer and a feed-forward part. A different model is a different tuple of these."""

    mixer: AttentionConfig | DeltaNetConfig
    mlp: MLPConfig


@dataclass(frozen=True)
class GPTConfig:
    """`orthogonal_init` replaces the default uniform initialisation of every matrix of at least 64 x 64."""

    vocab_size: int
    dim: int
    embed: SmearBigramConfig
    layers: tuple[LayerConfig, ...]
    softcap: float = 30.0
    orthogonal_init: bool = False

    def build(self, compute_dtype: torch.dtype = torch.float32) -> "GPT":
        return GPT(self, compute_dtype)


class Layer(nn.Module):
    """x <- m0 x + m1 x0; x <- x + a Mixer(RMS x); x <- x + b MLP(RMS x)."""

    def __init__(self, config: LayerConfig, dim: int) -> None:
        super().__init__()
        self.attention = config.mixer.build(dim)
        self.mlp = config.mlp.build(dim)
        self.attn_scale = nn.Parameter(torch.ones(dim))
        self.mlp_scale = nn.Parameter(torch.ones(dim))
        self.resid_mix = nn.Parameter(torch.stack((torch.ones(dim), torch.zeros(dim))))

    def forward(self, x: Tensor, x0: Tensor, state: Any) -> tuple[Tensor, Any]:
        keep, first = self.resid_mix.to(x.dtype)
        x = torch.addcmul(keep * x, first, x0)
        y, state = self.attention(rms_norm(x), state)
        x = torch.addcmul(x, self.attn_scale.to(x.dtype), y)
        return torch.addcmul(x, self.mlp_scale.to(x.dtype), self.mlp(rms_norm(x))), state


class GPT(LanguageModel):
    """U-Net skips over layers that all see the first residual."""

    def __init__(self, config: GPTConfig, compute_dtype: torch.dtype) -> None:
        super().__init__(config, compute_dtype)
        self.layers = nn.ModuleList(Layer(layer, config.dim) for layer in config.layers)
        self.num_skips = len(config.layers) // 2
        self.skip_weights = nn.Parameter(torch.ones(self.num_skips, config.dim))

    def hidden(self, tokens: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        """The normalised output of the last layer [B, T, dim], and the state after `tokens`."""
        before = state or (None,) * (1 + len(self.layers))
        x, embed_state = self.embed(tokens, self.compute_dtype, before[0])
        x0, after, skips = x, [embed_state], []
        first_decoder = len(self.layers) // 2
        for index, layer in enumerate(self.layers):
            if index >= first_decoder and skips:
                x = torch.addcmul(x, self.skip_weights[index - first_decoder].to(x.dtype), skips.pop())
            x, layer_state = layer(x, x0, before[1 + index])
            after.append(layer_state)
            if index < first_decoder:
                skips.append(x)
        return rms_norm(x), tuple(after)

    def initialise(self, linear: Linear, name: str) -> None:
        """Zero, orthogonal, or uniform within 1 / sqrt(in_features)."""
        if linear.zero_init:
            nn.init.zeros_(linear.weight)
        elif self.config.orthogonal_init and min(linear.weight.shape) >= 64:
            nn.init.orthogonal_(linear.weight)
            if name.endswith(".project"):
                linear.weight.mul_(1 / math.sqrt(2 * len(self.layers)))
        else:
            nn.init.kaiming_uniform_(linear.weight, a=math.sqrt(5))


# ops/attention/blocked.py

"""Causal attention by blocks of queries, for CPUs: what lies above the diagonal is left out a block at a time.

Heads that share keys are one product. The probabilities are kept, so that going back takes four products a block and no
exponentials:  dV = Pᵀ g;  dS = P (g Vᵀ - sum(g y));  dQ = dS K;  dK = dSᵀ Q.

1. Dao et al. 2022, FlashAttention, arXiv 2205.14135 (the gradient by blocks; it recomputes P).
"""

# Queries a block: small enough that little above the diagonal is computed, and that its scores stay in the cache.
QUERIES_A_BLOCK = 64


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape, (T, D) = q.shape, q.shape[2:]
        q = (q * D**-0.5).reshape(k.shape[0] * k.shape[1], -1, T, D)
        k, v = k.flatten(0, 1), v.flatten(0, 1)
        y, kept = torch.empty_like(q), []
        for start, stop in _blocks(T):
            scores = torch.bmm(q[:, :, start:stop].flatten(1, 2), k[:, :stop].mT)
            later = torch.ones(stop - start, stop - start, dtype=torch.bool, device=q.device).triu_(1)
            scores.unflatten(1, (-1, stop - start))[..., start:].masked_fill_(later, -torch.inf)
            p = scores.softmax(-1)
            y[:, :, start:stop] = torch.bmm(p, v[:, :stop]).unflatten(1, (-1, stop - start))
            kept.append(p)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(q, k, v, y, *kept)
        return y.view(shape)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, y, *kept = ctx.saved_tensors
        shape, T, scale = g.shape, g.shape[2], g.shape[3] ** -0.5
        g = g.reshape(q.shape)
        along = (g * y).sum(-1, keepdim=True)
        d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for p, (start, stop) in zip(kept, _blocks(T), strict=True):
            g_block, q_block, sums = (part[:, :, start:stop].flatten(1, 2) for part in (g, q, along))
            d_v[:, :stop].baddbmm_(p.mT, g_block)
            d_scores = torch.bmm(g_block, v[:, :stop].mT).sub_(sums).mul_(p)
            d_q[:, :, start:stop] = torch.bmm(d_scores, k[:, :stop]).unflatten(1, (-1, stop - start))
            d_k[:, :stop].baddbmm_(d_scores.mT, q_block)
        d_k, d_v = (part.unflatten(0, (shape[0], -1)) for part in (d_k, d_v))
        return d_q.mul_(scale).view(shape), d_k, d_v


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + QUERIES_A_BLOCK, length)) for start in range(0, length, QUERIES_A_BLOCK)]


def blocked_attention(
    q: Tensor,  # [B, H, T, D]
    k: Tensor,  # [B, Hkv, T, D], Hkv a divisor of H
    v: Tensor,  # [B, Hkv, T, D]
) -> Tensor:  # [B, H, T, D]
    """Softmax attention in which query t sees keys up to its own position. Its twin is torch's, with `is_causal`."""
    return _BlockedAttention.apply(q, k, v)


# ops/cross_entropy/chunked.py

"""The same nats a chunk of rows at a time, for CPUs: the logits of a chunk never leave the cache.

With t = tanh(z / cap), p = softmax(cap t) and a one-hot target o:  d nats / dz = (p - o) (1 - t²). It is computed going
forward, while the chunk is at hand, and is all that is kept: [N, V] once instead of four times. t is 2 u - 1 with
u = sigmoid(2 z / cap), which torch's CPUs have six times faster; then softmax(cap t) = softmax(2 cap u) and
1 - t² = 4 (u - u²), whose 4 waits for the backward.
"""

# Logits a chunk: a megabyte in fp32.
LOGITS_A_CHUNK = 2**18


class _ChunkedNats(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, table: Tensor, targets: Tensor, cap: float | None) -> Tensor:
        matrix, wanted = table.to(x.dtype), ctx.needs_input_grad[0]
        nats = torch.empty(targets.shape, dtype=torch.float32, device=x.device)
        slopes = x.new_empty((len(x), len(table)) if wanted else 0)
        rows = max(1, LOGITS_A_CHUNK // len(table))
        for start in range(0, len(x), rows):
            here = slice(start, start + rows)
            z, target = F.linear(x[here], matrix).float(), targets[here, None]
            u = None if cap is None else z.mul_(2 / cap).sigmoid_()
            scores = z.sub_(z.amax(1, keepdim=True)) if cap is None else 2 * cap * u
            score = scores.gather(1, target)
            powers = scores.exp_()
            total = powers.sum(1, keepdim=True)
            nats[here] = (total.log() - score)[:, 0]
            if wanted:
                slope = powers.div_(total).scatter_add_(1, target, total.new_full(total.shape, -1.0))
                slopes[here] = slope if cap is None else slope.mul_(u.addcmul_(u, u, value=-1))
        if wanted:
            ctx.save_for_backward(x, matrix, slopes)
        ctx.dtype, ctx.scale = table.dtype, 1 if cap is None else 4
        return nats

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, matrix, slopes = ctx.saved_tensors
        g = (ctx.scale * g[:, None]).to(x.dtype)
        return (slopes @ matrix) * g, (slopes.mT @ (x * g)).to(ctx.dtype), None, None


def chunked_nats(
    x: Tensor,  # [N, D]
    table: Tensor,  # [V, D] fp32
    targets: Tensor,  # [N] int64
    cap: float | None,
) -> Tensor:  # [N] fp32
    """-log p(target) in nats, unreduced. Its twin is `softcapped_nats`."""
    return _ChunkedNats.apply(x, table, targets, cap)


# model/laptop_gpt.py

"""The same model for CPUs: its attention by blocks and its nats by chunks, which keep what they compute in the cache.

Weights, results and their names are those of `GPT`; on a GPU the compiler makes more of the plain operators.
"""

@dataclass(frozen=True)
class LaptopGPTConfig(GPTConfig):
    """A `GPTConfig` whose model is fast on a CPU."""

    def build(self, compute_dtype: torch.dtype = torch.float32) -> "LaptopGPT":
        return LaptopGPT(self, compute_dtype)


class LaptopGPT(GPT):
    """GPT with other operators; mixers of a kind of their own keep theirs."""

    def __init__(self, config: LaptopGPTConfig, compute_dtype: torch.dtype) -> None:
        super().__init__(config, compute_dtype)
        self.nats_of = chunked_nats
        for layer in self.layers:
            if type(layer.attention) is Attention:
                layer.attention.attend = _attend


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    # Blocks are of a text from its start; what continues one is short.
    return blocked_attention(q, k, v) if q.shape[2] == k.shape[2] else causal_attention(q, k, v)


# data/tokenizer.py

"""SentencePiece tokenizers: the competition's trainer settings, and the same ones without normalisation.

Byte-pair encoding with byte fallback, digits split, no dummy prefix, character coverage .999, pad 0, bos 1, eos 2,
unk 3 [1]. A run of spaces stays a row of single U+2581 pieces (SentencePiece's default), so each is charged one byte.

[1] openai/parameter-golf, its tokenizer options; SentencePiece: Kudo and Richardson, arXiv:1808.06226.
"""

# SentencePiece writes a space as this character; a literal one in a text is read back as a space.
SPACE_MARK = "\u2581"


def load_tokenizer(path: str | Path) -> SentencePieceProcessor:
    """The tokenizer in a SentencePiece model file. Raises UserError when it is missing or something else."""
    model = read_bytes(path, "the tokenizer")
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise UserError(f"the tokenizer must be a SentencePiece model, got {path} ({len(model)} bytes)") from error
    return processor


# data/bytecount.py

"""How many UTF-8 bytes of text a token stands for, given the token before it: the competition's three tables.

    bytes charged for target y after x = piece_bytes[y] + (lead[y] and not boundary[x])

A piece that begins with U+2581 stands for a space and the rest; the space is charged only after something real, so not
after a BOS. A byte piece is one byte; control, unknown and unused pieces are none and count as a boundary [1].

The charges of BOS + encode(text) sum to the UTF-8 length of the decoded text, less one if that begins with a space.

[1] openai/parameter-golf, the organisers' train_gpt.py.
"""

@dataclass(frozen=True, eq=False)
class ByteTable:
    """The three tables over the V token ids, all on one device."""

    piece_bytes: Tensor  # [V] int16: bytes without the leading space
    lead: Tensor  # [V] bool: begins with a space
    boundary: Tensor  # [V] bool: nothing real, a space after it is free

    @classmethod
    def from_tokenizer(cls, tokenizer: SentencePieceProcessor, vocab_size: int) -> "ByteTable":
        """The tables of a tokenizer for a model of `vocab_size` tokens.

        Raises UserError when the two vocabularies differ, and when the rule would count wrongly: no piece for a lone
        space (it would be three byte pieces), or a piece with U+2581 past its start (3 bytes for a space).
        """
        num_pieces = tokenizer.get_piece_size()
        if vocab_size != num_pieces:
            raise UserError(
                f"the model's vocabulary must be the tokenizer's, got {vocab_size} and {num_pieces}; "
                f"nearest {num_pieces}"
            )
        if tokenizer.is_unknown(tokenizer.piece_to_id(SPACE_MARK)):
            raise UserError(
                "the tokenizer has no piece for a lone space (U+2581), so its spaces count three bytes each"
            )
        rows = [_count_piece(tokenizer, index) for index in range(vocab_size)]
        sizes, leads, boundaries = zip(*rows, strict=True)
        return cls(torch.tensor(sizes, dtype=torch.int16), torch.tensor(leads), torch.tensor(boundaries))

    def to(self, device: torch.device | str) -> "ByteTable":
        """The same tables on another device."""
        return ByteTable(self.piece_bytes.to(device), self.lead.to(device), self.boundary.to(device))

    def count(
        self,
        targets: Tensor,  # [...] int64 ids
        previous: Tensor,  # [...] int64, the id before each target
    ) -> Tensor:
        """The bytes charged for each target, int64 of the targets' shape."""
        space = self.lead[targets] & ~self.boundary[previous]
        return self.piece_bytes[targets].to(torch.int64) + space


def _count_piece(tokenizer: SentencePieceProcessor, index: int) -> tuple[int, bool, bool]:
    if tokenizer.is_control(index) or tokenizer.is_unknown(index) or tokenizer.is_unused(index):
        return 0, False, True
    if tokenizer.is_byte(index):
        return 1, False, False
    piece = tokenizer.id_to_piece(index)
    rest = piece.removeprefix(SPACE_MARK)
    if SPACE_MARK in rest:
        raise UserError(
            f"piece {index} of the tokenizer, {piece!r}, has U+2581 past its start, which would count 3 bytes for a "
            f"space; train without allow_whitespace_only_pieces and treat_whitespace_as_suffix"
        )
    return len(rest.encode("utf-8")), piece != rest, False


# eval/sliding.py

"""Scoring with windows, so that every token is scored exactly once with as much context as its window holds.

Windows of `window` tokens start every `stride` tokens. The first scores all of its targets, every later one only those
that no window before it reached: its last `stride`, fewer at the end of the text. stride = window gives the plain,
non-overlapping evaluation. Only the scored positions are projected to logits.

A trap that cost records: keeping every start below the length scores the last tokens up to window / stride times.
"""

# The model contract: (tokens [B, T], targets [B, S]) -> (nats [B, S] fp32, state).
Scorer = Callable[[Tensor, Tensor], tuple[Tensor, tuple]]


@dataclass(frozen=True)
class EvalConfig:
    """Window and stride in tokens; `batch_tokens` is how many tokens one forward runs at most."""

    window: int = 2048
    stride: int = 64
    batch_tokens: int = 65_536

    @property
    def claim(self) -> dict[str, str | int]:
        """What a record says of how it was scored."""
        return {"protocol": "sliding windows", "window": self.window, "stride": self.stride}

    def score(self, model: Scorer, tokens: Tensor, byte_table: ByteTable, machine: Machine) -> tuple[Score, int]:
        """The score of the text `tokens` [N + 1], and how many tokens went through the trunk, overlap included.

        Raises UserError for a text shorter than a window.
        """
        plain_windows(len(tokens) - 1, self.window)
        windows = plan_windows(len(tokens) - 1, self.window, self.stride)
        return score_windows(model, tokens, windows, byte_table, machine, self.batch_tokens), tokens_run(windows)


@dataclass(frozen=True)
class Window:
    """Reads tokens start .. start + length - 1; scores the last `scored` of targets start + 1 .. start + length."""

    start: int
    length: int
    scored: int


def plan_windows(num_targets: int, window: int, stride: int) -> list[Window]:
    """Windows that score each of `num_targets` targets exactly once, in order.

    Raises UserError for a stride outside 1 .. window.

    >>> plan_windows(num_targets=10, window=4, stride=2)[:2]
    [Window(start=0, length=4, scored=4), Window(start=2, length=4, scored=2)]
    >>> sum(w.scored for w in plan_windows(10_000, 1024, 64))
    10000
    """
    if not 1 <= stride <= window:
        raise UserError(
            f"the stride lies in 1..{window} for windows of {window}, got {stride}; nearest "
            f"{min(max(stride, 1), window)}"
        )
    windows, reached, start = [], 0, 0
    while reached < num_targets:
        end = min(start + window, num_targets)
        windows.append(Window(start, end - start, end - reached))
        reached, start = end, start + stride
    return windows


def plain_windows(num_targets: int, window: int) -> list[Window]:
    """The competition's non-overlapping windows: whole ones only, the tail dropped.

    Raises UserError when the text is shorter than one window.
    """
    if num_targets < window:
        raise UserError(
            f"the validation split must hold at least one window of {window} targets, got {num_targets}; "
            f"nearest window {num_targets}"
        )
    return plan_windows(num_targets // window * window, window, window)


def tokens_run(windows: Sequence[Window]) -> int:
    """Tokens that the windows put through the trunk: what evaluation speed is counted in."""
    return sum(window.length for window in windows)


@torch.inference_mode()
def score_windows(
    model: Scorer,
    tokens: Tensor,  # [N + 1] int64 on the CPU: the text, N targets
    windows: Sequence[Window],
    byte_table: ByteTable,
    machine: Machine,
    batch_tokens: int = 65_536,
) -> Score:
    """The score of all windows, shared out among the ranks in contiguous runs and summed in float64."""
    share = -(-len(windows) // machine.world_size)
    own = windows[machine.rank * share : (machine.rank + 1) * share]
    totals = torch.zeros(3, dtype=torch.float64, device=machine.device)
    table = byte_table.to(machine.device)
    for batch in _batches(own, batch_tokens):
        x, y, previous = (part.to(machine.device) for part in _gather(tokens, batch))
        nats, _ = model(x, y)
        totals += torch.stack((nats.double().sum(), table.count(y, previous).double().sum(), _count(y)))
    nats, num_bytes, num_tokens = machine.sum_(totals).tolist()
    return Score(nats, int(num_bytes), int(num_tokens))


def _count(y: Tensor) -> Tensor:
    return torch.tensor(float(y.numel()), dtype=torch.float64, device=y.device)


def _batches(windows: Sequence[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """Runs of windows of one shape, as many as `batch_tokens` allows (at least one)."""
    for (length, _), run in groupby(windows, key=lambda window: (window.length, window.scored)):
        rows, size = list(run), max(1, batch_tokens // length)
        yield from (rows[i : i + size] for i in range(0, len(rows), size))


def _gather(tokens: Tensor, batch: list[Window]) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs [B, length], scored targets [B, scored] and the token before each of those."""
    length, scored = batch[0].length, batch[0].scored
    starts = torch.tensor([window.start for window in batch])
    rows = tokens[starts[:, None] + torch.arange(length + 1)]
    return rows[:, :-1], rows[:, length + 1 - scored :], rows[:, length - scored : -1]


# recipes/recipe.py

"""A recipe: everything that a run is, as one frozen value.

A recipe file holds one function of its own name that returns a Recipe; a variant is `dataclasses.replace` of another.
Nothing collects the recipes: `load_recipe` imports the one that is asked for.
"""

@dataclass(frozen=True)
class DataConfig:
    """`folder` holds the shards; the environment's DATA_PATH and TOKENIZER_PATH say where it is on this machine.

    `loader` makes what orders the training tokens.
    """

    folder: str = "data/datasets/sotu_sp1024"
    loader: type[SequentialLoader] | type[CoprimeLoader] = SequentialLoader


@dataclass(frozen=True)
class PackConfig:
    """What the weights become: a plan of grids, the share of small weights set to zero first (None: off), the bytes.

    `kinds` are storage kinds beyond the basic ones, which every reader knows; a tensor that several of them can store
    takes the smallest form. `quantizer` takes the place of the plan alone.
    """

    plan: tuple[Rule, ...]
    prune: float | None = None
    coder: Coder = ZSTD22
    kinds: tuple[GridKind, ...] = ()
    quantizer: RateQuantizer | None = None
    budget: int = 16_000_000  # bytes of code and model together


@dataclass(frozen=True)
class RecordConfig:
    """Whose record it is and on which track it stands."""

    title: str
    blurb: str
    track: str = "track_non_record_16mb"
    author: str = "Sixteen"
    github_id: str = "sixteen"


@dataclass(frozen=True)
class Recipe:
    """A whole run, tokens in and record out. `name` is the recipe file's; `trainer` runs the steps."""

    name: str
    model: GPTConfig
    pack: PackConfig
    record: RecordConfig
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    average: EMAConfig | None = None
    eval: EvalConfig = field(default_factory=EvalConfig)
    trainer: type[Trainer] = Trainer


def fingerprint(config: object) -> str:
    """Sixteen hexadecimal digits that change when any field of the frozen config does; modules do not matter."""
    spelled = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", repr(config))
    return hashlib.sha256(spelled.encode()).hexdigest()[:16]


# recipes/laptop.py

"""What the recipes for two CPU cores share: batches, learning rates and grids at the size of a laptop, and the pocket.

The pocket track (records/track_pocket/README.md) is ten minutes of two cores and a million bytes, code included.
"""

LAPTOP_DATA = DataConfig("data/datasets/sotu_sp1024", loader=CoprimeLoader)
LAPTOP_TRAIN = TrainConfig(
    seconds=120.0,
    tokens_per_step=4096,
    window=512,
    num_slices=2,
    log_every=20,
    validate_every=None,
    checkpoint_every=100,
)
LAPTOP_OPTIM = OptimConfig(
    momentum=0.95,
    momentum_start=0.85,
    momentum_warmup_steps=100,
    grad_clip=1.0,
    warmdown=WarmdownFraction(0.6),
)
LAPTOP_PLAN = (
    Rule("control", "fp16", max_elements=4096),
    Rule("tables", INT8, pattern=r"^embed\."),
    Rule("matrices", INT6),
)
LAPTOP_EVAL = EvalConfig(window=512, stride=64, batch_tokens=16_384)

# Some eight points of a curve: the clock stands still for each, which takes as long as some ten steps.
POCKET_TRAIN = replace(LAPTOP_TRAIN, seconds=600.0, validate_every=200)
POCKET_BYTES = 1_000_000
POCKET_TRACK = "track_pocket"


# recipes/demo.py

"""Two minutes on two CPU cores: the stack of pull request 465 at the size of a laptop, on the bundled speeches.

    make demo
    torchrun --standalone --nproc_per_node=1 train_gpt.py demo --train.seconds 300

Papers: those of recipes/int5_int6.py.
"""

def demo() -> Recipe:
    """4 x 160, 4 heads over 2, MLP 480, SmearGate, BigramHash 2048 x 32, windows of 512."""
    return Recipe(
        name="demo",
        data=LAPTOP_DATA,
        model=LaptopGPTConfig(
            vocab_size=1024,
            dim=160,
            embed=SmearBigramConfig(bigram_rows=2048, bigram_dim=32),
            layers=(LayerConfig(AttentionConfig(num_heads=4, num_kv_heads=2), MLPConfig(hidden=480)),) * 4,
            orthogonal_init=True,
        ),
        train=LAPTOP_TRAIN,
        optim=LAPTOP_OPTIM,
        average=EMAConfig(decay=0.98),
        pack=PackConfig(LAPTOP_PLAN),
        eval=LAPTOP_EVAL,
        record=RecordConfig(title="Demo", blurb="Two minutes of the #465 stack, scaled to two CPU cores."),
    )


# recipes/int5_int6_pocket.py

"""Pull request 465 on the pocket track: the demo's model for ten minutes, int5 MLP and int6 attention as published.

    torchrun --standalone --nproc_per_node=1 train_gpt.py int5_int6_pocket --train.seed 42

1,159,153 parameters. Beside its size it differs from recipes/int5_int6.py in what short runs need: the rates stay at
their height for less of the run, weights are averaged exponentially, and the tables are int8.
Papers: those of recipes/int5_int6.py.
"""

def int5_int6_pocket() -> Recipe:
    """`demo` for 600 seconds: 4 x 160, 4 heads over 2, MLP 480, SmearGate, BigramHash 2048 x 32, windows of 512."""
    plan = (
        Rule("control", "fp16", max_elements=4096),
        Rule("tables", INT8, pattern=r"^embed\."),
        Rule("mlp", INT5, pattern=r"\.mlp\."),
        Rule("attention", INT6, pattern=r"\.attention\."),
    )
    return replace(
        demo(),
        name="int5_int6_pocket",
        train=POCKET_TRAIN,
        pack=PackConfig(plan, budget=POCKET_BYTES),
        record=RecordConfig(
            title="Int5Int6Pocket",
            blurb="The #465 stack on two CPU cores: int5 MLP, int6 attention, SmearGate, BigramHash, OrthoInit, EMA.",
            track=POCKET_TRACK,
        ),
    )


# recipes/hybrid_pocket.py

"""The hybrid on the pocket track: Gated DeltaNet in three of four layers of the scaled #465 stack, attention in one.

    torchrun --standalone --nproc_per_node=1 train_gpt.py hybrid_pocket --train.seed 42

1,139,553 parameters, about as many as `int5_int6_pocket`; everything else as there. Papers: those of recipes/hybrid.py.
"""

def hybrid_pocket() -> Recipe:
    """4 x 160: Gated DeltaNet of 2 heads, keys of 40 and values of 80, attention in layer 1; MLP 400."""
    base = int5_int6_pocket()
    memory = LayerConfig(DeltaNetConfig(num_heads=2, expand_k=0.5, expand_v=1.0), MLPConfig(hidden=400))
    attention = LayerConfig(AttentionConfig(num_heads=4, num_kv_heads=2), MLPConfig(hidden=400))
    return replace(
        base,
        name="hybrid_pocket",
        model=replace(base.model, layers=(memory, attention, memory, memory)),
        train=replace(base.train, validate_every=125),
        record=RecordConfig(
            title="HybridPocket",
            blurb="The scaled #465 stack with Gated DeltaNet in three of four layers.",
            track=POCKET_TRACK,
        ),
    )


# compress/range_coder.py

"""Integers through a range coder [1]: one static distribution a tensor, and tables that cost next to nothing.

A table holds roots of counts, since counts vary by their root: for each pair of integers m and -m the mean of both
roots, rounded, and a quarter of their difference, rounded, which is 0 where they differ by chance. The squares of what
the roots thus become are the distribution, in fp64 on both sides. Tables are stored as differences of neighbours, the
sign in the lowest bit. To store each root by itself took 1.5 to 2.2 times the bytes (trained matrices).

All tensors of a group are one string of words. The streams are canonical: reading encodes again and compares, so the
tables are a checksum of the words, and what was cut, extended or changed is seen.

[1] Martin 1979, "Range encoding"; the implementation is constriction (Bamler 2022, arXiv 2201.01741): words of 32 bits,
first in first out.
"""

# What an integer that does not occur counts, so that no distribution is empty; a 2^24th is its least share anyway.
UNSEEN = 2.0**-10


@dataclass(frozen=True)
class RangeKind(GridKind):
    """Integers of a grid through the range coder. A grid with a memory replaces the methods about symbols."""

    labels = "data", "data", "scales", "scales"
    method = "-range"

    @property
    def reach(self) -> int:
        """The largest magnitude of an integer; what is coded is the integer plus this."""
        return -self.grid.lowest

    def sizes(self, shapes: Shapes) -> list[int | None]:
        """Bytes of words, tables and scales before coding."""
        return [None, 2 * (2 * self.reach + 1) * len(shapes), *super().sizes(shapes)[1:]]

    def pack(self, tensors: list[Coded]) -> list[bytes]:
        """The words, the tables, and the planes of the scales."""
        encoder, tables = stream.queue.RangeEncoder(), []
        for coded in tensors:
            symbols = coded.integers.numpy().astype(np.int32) + self.reach
            tables.append(root_table(symbols, self.reach))
            self.write(encoder, table_frequencies(tables[-1]), symbols)
        words = encoder.get_compressed().astype("<u4").tobytes()
        return [words, pack_tables(np.stack(tables)), *super().pack(tensors)[1:]]

    def unpack(self, streams: list[bytes], shapes: Shapes) -> list[Coded]:
        """The tensors. Raises UserError for streams that `pack` does not write."""
        words, tables, *scales = streams
        foreign = UserError(f"{self.name} data must be what its integers encode to, got {len(words):,} other bytes")
        if len(words) % 4:
            raise foreign
        decoder = stream.queue.RangeDecoder(np.frombuffer(words, "<u4").astype(np.uint32))
        try:
            pairs = zip(map(table_frequencies, unpack_tables(tables, 2 * self.reach + 1)), shapes, strict=True)
            integers = [(self.read(decoder, *pair) - self.reach).astype(np.int8).tobytes() for pair in pairs]
        # How constriction says that no symbols have these words.
        except AssertionError as error:
            raise foreign from error
        tensors = super().unpack([b"".join(integers), *scales], shapes)
        # Not self.pack: what inherits may store the scales in another way.
        if RangeKind.pack(self, tensors) != streams:
            raise foreign
        return tensors

    def write(self, encoder: stream.queue.RangeEncoder, frequencies: np.ndarray, symbols: np.ndarray) -> None:
        """Appends the symbols of a tensor; a grid with a memory does it in its own way."""
        encoder.encode(symbols.reshape(-1), distribution(frequencies))

    def read(self, decoder: stream.queue.RangeDecoder, frequencies: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The symbols of the next tensor, flat."""
        return decoder.decode(distribution(frequencies), prod(shape))


def distribution(frequencies: np.ndarray) -> stream.model.Categorical:
    """Symbols from 0 by how often they occur."""
    # perfect=True would search for a better rounding, and once did not end.
    return stream.model.Categorical(frequencies, perfect=False)


def root_table(symbols: np.ndarray, reach: int) -> np.ndarray:
    """Quarters of differences for the magnitudes `reach` to 1, then means for `reach` to 0: [2 * reach + 1] int16.

    >>> root_table(np.repeat([0, 1, 2, 3, 4], [1, 16, 36, 16, 81]), 2).tolist()
    [2, 0, 5, 4, 6]
    """
    roots = np.sqrt(np.bincount(symbols.reshape(-1), minlength=2 * reach + 1))
    below, above = roots[: reach + 1], roots[reach:][::-1]
    return np.concatenate([(above - below)[:-1] / 4, (above + below) / 2]).round().astype(np.int16)


def table_frequencies(table: np.ndarray) -> np.ndarray:
    """How often the symbols 0 to 2 * reach occur, in fp64, as far as the table knows.

    >>> table_frequencies(np.array([2, 0, 5, 4, 6])).round().tolist()
    [1.0, 16.0, 36.0, 16.0, 81.0]
    """
    differences, means = np.split(2.0 * table, [len(table) // 2])
    means, zero = np.split(means / 2, [-1])
    roots = np.concatenate([means - differences, zero, (means + differences)[::-1]])
    return np.square(roots.clip(min=0)) + UNSEEN


def pack_tables(tables: np.ndarray) -> bytes:
    """Tables [tables, size] as two planes of bytes, the high ones first.

    >>> pack_tables(np.array([[1, 300, 299]], np.int16)).hex()
    '000200025601'
    """
    steps = np.diff(tables, axis=1, prepend=np.int16(0))
    folded = ((steps << 1) ^ (steps >> 15)).astype(">u2")
    return folded.view(np.uint8).reshape(-1, 2).T.tobytes()


def unpack_tables(data: bytes, size: int) -> np.ndarray:
    """What `pack_tables` was given; any bytes are some tables."""
    planes = np.frombuffer(data, np.uint8).reshape(2, -1).T
    folded = np.ascontiguousarray(planes).view(">u2").astype(np.uint16)
    steps = (folded >> 1).astype(np.int16) ^ -(folded & 1).astype(np.int16)
    return np.cumsum(steps.reshape(-1, size), axis=1, dtype=np.int16)


# quantize/viterbi.py

"""The cheapest path through a machine of states, for many independent sequences ("lanes") at once (Viterbi, 1967).

A state has two ways on and two ways in, so each step keeps, for every state, the cheaper of two paths into it; reading
the choices backwards from the cheapest last state gives the path. Steps run one after the other, lanes side by side.
Numpy, as a step is a few operations on a few hundred numbers: 6 us, against 14 in torch (10 lanes, 8 states, one core).
"""

# (state before, label) of the two ways into each state: [2][states]
Arrivals = Sequence[Sequence[tuple[int, int]]]


def cheapest_path(
    costs: np.ndarray,  # [steps, labels, lanes]: what a transition of each label costs at each step
    arrivals: Arrivals,
) -> np.ndarray:  # [steps, lanes]
    """The labels of each lane's cheapest path from state 0 to any state; ties go to the first way in."""
    before, labels = np.moveaxis(np.array(arrivals), -1, 0).reshape(2, -1)  # [2 * states] each
    num_states = len(before) // 2
    branches = costs[:, labels]
    second = np.empty((len(costs), num_states, costs.shape[2]), bool)
    total = np.full(second.shape[1:], np.inf, costs.dtype)
    total[0] = 0
    for branch, choice in zip(branches, second, strict=True):
        ways = total.take(before, axis=0)
        ways += branch
        np.less(ways[num_states:], ways[:num_states], out=choice)
        np.minimum(ways[num_states:], ways[:num_states], out=total)
    taken = second * np.uint8(num_states) + np.arange(num_states, dtype=np.uint8)[:, None]
    return labels[_backwards(total.argmin(axis=0), taken, before)]


def _backwards(
    state: np.ndarray,  # [lanes], the last one
    taken: np.ndarray,  # [steps, states, lanes]: the number of the better way into each state
    before: np.ndarray,  # [2 * states]: where each way comes from
) -> np.ndarray:  # [steps, lanes]
    """The numbers of the ways along the path that ends in `state`."""
    path, lanes = np.empty((len(taken), len(state)), np.uint8), np.arange(len(state))
    for step in range(len(taken) - 1, -1, -1):
        path[step] = taken[step, state, lanes]
        state = before[path[step]]
    return path


# quantize/trellis.py

"""Trellis-coded quantisation: a grid twice as fine, of which a state machine allows every other code at a time [1, 2].

A code is the integer m itself and stands for scale * m, as on every grid: only the integers are stored, `dequantize`
needs no state. The machine restricts which of them may follow which. Down each column of a matrix, from state 0 in the
first row, m must be even in an even state and odd in an odd one, and bit 1 of m leads to the next state. An entropy
coder that runs the machine along knows the parity that is due, and codes m with one distribution for even and one for
odd: the rate of a grid twice as coarse, for an error closer to that of the fine one.

With the bits h_i of the parity-check polynomials, z0 = m & 1 and z1 = m >> 1 & 1: in state s_v..s_1, s_1 the lowest
bit, z0 = s_1 is due, and s_i becomes s_{i+1} xor h0_i z0 xor h1_i z1 [1].

A column is one sequence: to begin anew in state 0 costs 1.15 bits each time (8 states, 2.1 M Gaussian numbers; with
sequences of 128 rows 0.009 bits a weight, of 512 0.002).

[1] Ungerboeck, "Channel coding with multilevel/phase signals", 1982.
[2] Marcellin, Fischer, "Trellis coded quantization of memoryless and Gauss-Markov sources", 1990; under an entropy
coder: Fischer, Wang, "Entropy-constrained trellis-coded quantization", 1992.
"""

# Ungerboeck's parity-check polynomials (h0, h1) by number of states.
GENERATORS = {4: (0o5, 0o2), 8: (0o13, 0o4), 16: (0o23, 0o4), 32: (0o45, 0o10)}
# Squared steps that one bit is worth. In units of the (halved) step the error is about 0.27, and its slope against the
# rate 2 ln 2 times that; 0.3 to 0.5 give the same rate at equal error within 0.001 bits.
RATE = 0.4
# Lanes are taken in pieces of so many numbers, which bounds the memory of the search to some 300 MB.
PIECE = 2**20


@dataclass(frozen=True)
class TrellisGrid(Grid):
    """A grid of -128 to 127 walked by a machine of 4, 8, 16 or 32 states.

    The scale is the distance of neighbouring integers, half of that of codes in one state: with clip = 62 a step rule
    gives it half of what it gives int6.
    """

    states: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.states not in GENERATORS:
            nearest = min(GENERATORS, key=lambda known: abs(known - self.states))
            raise UserError(f"a trellis has {list(GENERATORS)} states, got {self.states}; nearest {nearest}")

    def rounder(self, values: Tensor) -> "TrellisRounder":
        """The search for the path of the least squared error + 0.4 * bits down the rows of each column."""
        return TrellisRounder(self, _bits_by_parity(values.flatten(-2)))

    def check(self, integers: Tensor) -> None:
        """Raises UserError for what is no matrix of int8, or for a column that leaves the machine's paths."""
        super().check(integers)
        if integers.ndim != 2:
            raise UserError(f"a trellis runs down the rows of a matrix, got codes of shape {list(integers.shape)}")
        wrong = (trellis_states(integers, self.states) ^ integers) & 1
        if wrong.any():
            row, column = wrong.nonzero()[0].tolist()
            raise UserError(f"codes on {self.name} must follow its states, row {row} of column {column} does not")


TRELLIS4, TRELLIS8, TRELLIS32 = (TrellisGrid(f"trellis{n}", -128, 127, 62, states=n) for n in (4, 8, 32))


@dataclass(frozen=True, eq=False)
class TrellisRounder:
    """Numbers [..., rows, columns] in units of the scale -> codes of the grid, still as floats."""

    grid: TrellisGrid
    bits: Tensor  # [..., 256]: what -128 to 127 cost in each matrix, given their parity

    def __call__(self, values: Tensor) -> Tensor:
        lanes = values.movedim(-2, 0).contiguous()  # [rows, ..., columns]
        bits = self.bits[..., None, :].expand(*lanes.shape[1:], 256).flatten(0, -2)
        width = max(1, PIECE // len(lanes))
        pieces = zip(lanes.flatten(1).split(width, dim=1), bits.split(width), strict=True)
        return torch.cat([self._rounded(*piece) for piece in pieces], dim=1).view(lanes.shape).movedim(0, -2)

    def _rounded(self, lanes: Tensor, bits: Tensor) -> Tensor:
        """[rows, lanes] with costs [lanes, 256] -> [rows, lanes]."""
        candidates = _nearest_of_each_subset(lanes)
        rates = bits.T.gather(0, candidates.long().flatten(0, 1) + 128).view(candidates.shape)
        costs = (lanes[:, None] - candidates).square() + RATE * rates
        path = torch.from_numpy(cheapest_path(costs.numpy(force=True), _arrivals(self.grid.states)))
        return candidates.gather(1, path.to(lanes.device)[:, None])[:, 0]


def next_states(states: int) -> list[list[int]]:
    """The state that follows each state when bit 1 of its code is 0 and when it is 1: [states][2].

    >>> next_states(4)
    [[0, 1], [2, 3], [1, 0], [3, 2]]
    """
    h0, h1 = (generator >> 1 for generator in GENERATORS[states])
    return [[state >> 1 ^ (state & 1) * h0 ^ z1 * h1 for z1 in (0, 1)] for state in range(states)]


def trellis_states(
    integers: Tensor,  # [rows, columns] int8
    states: int,
) -> Tensor:  # [rows, columns] uint8
    """The state in which the machine meets each code, going by bit 1 of those above it; its bit 0 is the parity due.

    >>> trellis_states(torch.tensor([[2], [4], [-1]], dtype=torch.int8), 4).flatten().tolist()
    [0, 1, 2]
    """
    following = torch.tensor(next_states(states), device=integers.device).flatten()
    met = torch.zeros(integers.shape, dtype=torch.uint8, device=integers.device)
    state = met.new_zeros(integers.shape[1:], dtype=torch.int64)
    for row, bit in zip(met, (integers >> 1 & 1).long(), strict=True):
        row.copy_(state)
        state = following[2 * state + bit]
    return met


def _arrivals(states: int) -> list[list[tuple[int, int]]]:
    """The two ways into each state, with the code modulo 4 that takes them."""
    ways: list[list[tuple[int, int]]] = [[] for _ in range(states)]
    for state, following in enumerate(next_states(states)):
        for z1, after in enumerate(following):
            ways[after].append((state, 2 * z1 + (state & 1)))
    return [list(way) for way in zip(*ways, strict=True)]


def _nearest_of_each_subset(values: Tensor) -> Tensor:
    """[rows, lanes] -> [rows, 4, lanes]: the nearest of the integers -128 to 127 that are 0, 1, 2, 3 modulo 4."""
    offsets = torch.arange(4.0, dtype=values.dtype, device=values.device)[:, None]
    return 4 * ((values[:, None] - offsets) / 4).round().clamp(-32, 31) + offsets


def _bits_by_parity(values: Tensor) -> Tensor:
    """[..., n] -> [..., 256]: bits of -128 to 127 among those of its parity, were each number rounded by itself.

    Codes that do not occur are counted as half a time. To count again after a search changes the rate at equal error
    by less than 0.001 bits.
    """
    bits = values.new_empty(*values.shape[:-1], 256)
    for parity in (0, 1):
        nearest = (2 * ((values - parity) / 2).round() + parity).clamp(parity - 128, parity + 126)
        counts = torch.zeros_like(bits).scatter_add_(-1, nearest.long() + 128, torch.ones_like(values))
        counts = counts[..., parity::2] + 0.5
        bits[..., parity::2] = (counts.sum(-1, keepdim=True) / counts).log2()
    return bits


# compress/trellis_kind.py

"""Integers of a trellis grid through the range coder: even and odd ones have distributions of their own.

The machine of `quantize.trellis` says which parity is due. It is known for a whole row once the rows above are, so a
row costs two calls: its even codes from the left, then its odd ones. Both distributions come out of one table.
"""

@dataclass(frozen=True)
class TrellisKind(RangeKind):
    """Matrices on a trellis grid."""

    grid: TrellisGrid = TRELLIS8

    def write(self, encoder: stream.queue.RangeEncoder, frequencies: np.ndarray, symbols: np.ndarray) -> None:
        """Appends the symbols of a matrix, row by row."""
        even, odd = _by_parity(frequencies)
        for row in symbols:
            encoder.encode(row[row % 2 == 0] // 2, even)
            encoder.encode(row[row % 2 == 1] // 2, odd)

    def read(self, decoder: stream.queue.RangeDecoder, frequencies: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The symbols of the next matrix. Raises UserError for a shape that is none."""
        if len(shape) != 2:
            raise UserError(f"a trellis runs down the rows of a matrix, got codes of shape {list(shape)}")
        even, odd = _by_parity(frequencies)
        symbols = np.empty(shape, np.int32)
        following = np.array(next_states(self.grid.states))
        states = np.zeros(symbols.shape[1], np.int64)
        for row in symbols:
            due = states % 2 == 1
            row[~due] = 2 * decoder.decode(even, int((~due).sum()))
            row[due] = 2 * decoder.decode(odd, int(due.sum())) + 1
            states = following[states, row // 2 % 2]
        return symbols


def _by_parity(frequencies: np.ndarray) -> tuple[stream.model.Categorical, stream.model.Categorical]:
    """The distributions of even and of odd integers; 0 stands for the lowest, which is even."""
    return distribution(frequencies[::2].copy()), distribution(frequencies[1::2].copy())


# quantize/steps.py

"""Steps by rate: how far apart the codes lie, chosen in standard deviations and not by the largest weight.

An entropy coder makes the range of the integers free, so what counts is the step D: a Gaussian weight costs
log2(sqrt(2 pi e) sigma / D) bits and gains an error of D^2 / 12. Where a tensor has many steps, they are taken from a
table of eighths of an octave before any weight is rounded, so that each is stored as one byte: its code.

[1] parameter-golf #1394: step = k std(row) / clip, k = 12.85 on int6.  [2] WaterSIC, arXiv 2603.04956.
"""

# Integers as wide as a byte, of which steps mean what they mean on int6: only the coder knows how many are in use.
UNIFORM = Grid("uniform", lowest=-128, highest=127, clip=31)

# round(1024 * 2^(i/8)): the fraction of an fp16 number has ten bits, so each entry of the table is one exactly.
EIGHTHS = (1024, 1117, 1218, 1328, 1448, 1579, 1722, 1878)
# From the smallest normal fp16 number, 2^-14, to just below the largest.
STEP_TABLE = tuple(eighth * 2.0**octave for octave in range(-24, 6) for eighth in EIGHTHS)
_BETWEEN = tuple((low * high) ** 0.5 for low, high in zip(STEP_TABLE, STEP_TABLE[1:], strict=False))


def log2_step(
    codes: Tensor,  # any shape, integers from 0 to 239
) -> Tensor:  # fp16, the same shape
    """The step of each code, 2^(code / 8 - 14) up to the rounding to fp16; the same number on every machine.

    >>> log2_step(torch.tensor([0, 112, 113])).tolist()
    [6.103515625e-05, 1.0, 1.0908203125]
    """
    low, high = map(int, codes.aminmax()) if codes.numel() else (0, 0)
    if low < 0 or high >= len(STEP_TABLE):
        raise UserError(f"step codes must lie in 0 to {len(STEP_TABLE) - 1}, got {low} to {high}")
    return torch.tensor(STEP_TABLE, dtype=torch.float16, device=codes.device)[codes.long()]


def nearest_step_code(
    steps: Tensor,  # any shape, positive
) -> Tensor:  # uint8, the same shape
    """The code whose step is nearest by ratio; what lies beyond the table gets its first or last.

    >>> nearest_step_code(torch.tensor([1e-9, 1.0, 1.05, 1e9])).tolist()
    [0, 112, 113, 239]
    """
    return torch.bucketize(steps.float(), torch.tensor(_BETWEEN, device=steps.device)).to(torch.uint8)


@dataclass(frozen=True)
class TensorStep:
    """One step a tensor, k std / clip, in fp16: a fitted size needs it finer than the table, and it is two bytes.

    Where every output counts alike, equal steps on all rows are the optimum under an entropy coder. Nothing is clipped:
    the step is never so fine that the largest weight leaves the grid.

    >>> from quantize.grid import INT6
    >>> TensorStep(k=15.5)(torch.tensor([[-2.0, 2.0], [-2.0, 2.0]]), INT6).item()
    1.0
    """

    k: float

    def __post_init__(self) -> None:
        _refuse_step(self.k)

    def __call__(self, weight: Tensor, grid: Grid) -> Tensor:
        rows = rows_of(weight)
        return stored_scale(torch.maximum(self.k / grid.clip * rows.std(correction=0), rows.abs().max() / grid.highest))


@dataclass(frozen=True)
class ColumnStep:
    """One step a column of a matrix, proportional to 1 / L_jj of GPTQ's factor, its geometric mean k std / clip [2].

    From the table, and never so fine that the largest weight of the column leaves the grid. Without a factor, as when
    no `GPTQ` asks for the steps, all columns count alike.

    >>> from quantize.grid import INT6
    >>> ColumnStep(k=15.5)(torch.tensor([[-2.0, 2.0]]), INT6, torch.tensor([1.0, 4.0])).tolist()
    [[2.0, 0.5]]
    """

    k: float

    def __post_init__(self) -> None:
        _refuse_step(self.k)

    def __call__(
        self,
        weight: Tensor,  # [rows, cols]
        grid: Grid,
        columns: Tensor | None = None,  # [cols]: L_jj
    ) -> Tensor:  # [1, cols] fp16
        relative = 1.0 if columns is None else (columns.log().mean() - columns.log()).exp()
        rows = rows_of(weight)
        steps = self.k / grid.clip * rows.std(correction=0) * relative
        return log2_step(nearest_step_code(torch.maximum(steps, rows.abs().amax(dim=0) / grid.highest)))[None]


def _refuse_step(k: float) -> None:
    if not 0 < k < float("inf"):
        raise UserError(f"a step must be a positive number of standard deviations, got {k}; #1394 takes 12.85 on int6")


# compress/step_scales.py

"""Scales that all lie in the table of steps (`quantize.steps`), as one byte each: its code.

Such a kind takes a tensor whose scales are exactly those of their codes, and no other; a recipe may list the kind with
fp16 scales too.
"""

class StepScales:
    """What a kind inherits first to store the codes of its scales."""

    labels = "data", "data", "scales"
    method = "-range-steps"

    def takes(self, tensor: Coded | Tensor) -> bool:
        """Whether a tensor is of this kind."""
        return super().takes(tensor) and torch.equal(log2_step(nearest_step_code(tensor.scale)), tensor.scale)

    def sizes(self, shapes: Shapes) -> list[int | None]:
        """Bytes of each stream before coding."""
        return super().sizes(shapes)[:-1]

    def pack(self, tensors: list[Coded]) -> list[bytes]:
        """The streams of the integers, and the codes of the scales."""
        *data, high, low = super().pack(tensors)
        return [*data, *split_planes(nearest_step_code(join_planes([high, low], torch.float16)))]

    def unpack(self, streams: list[bytes], shapes: Shapes) -> list[Coded]:
        """The tensors. Raises UserError for streams that `pack` does not write, and for codes beyond the table."""
        *data, codes = streams
        return super().unpack([*data, *split_planes(log2_step(join_planes([codes], torch.uint8)))], shapes)


@dataclass(frozen=True)
class StepTrellisKind(StepScales, TrellisKind):
    """Integers of a trellis grid through the range coder, scales as codes of steps."""


# quantize/gptq.py

"""GPTQ: rounding column after column, each making up for what the columns before it did to the outputs [1].

With E = W - Q and the second moment of the inputs H = X^T X / N = L L^T, the outputs are off by tr(E H E^T) = |E L|^2.
L is lower triangular, so column j of E L holds the errors of columns j and later only. From the last to the first,

    target_j = w_j + sum_{i > j} e_i L_ij / L_jj,    q_j = round(target_j),    e_j = w_j - q_j,

and sum_j L_jj^2 |target_j - q_j|^2 is what remains: GPTQ without an inverse. Columns with the largest H_jj go first, as
many others can still make up for them. The sum also says what step a column should have: under an entropy coder, one
proportional to 1 / L_jj, which makes all terms equal, is the best at a given rate (WaterSIC [2]; `ColumnStep`).

[1] Frantar et al. 2022, arXiv 2210.17323.  [2] arXiv 2603.04956.
"""

# Inside a block each column looks back at the block alone; what came before has been added for all of them at once.
COLUMN_BLOCK = 128


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes in one thread on the CPU: beside many small products the others would only wait, and spin."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class GPTQ:
    """The method of a `Rule`: matrices of one shape are rounded at once, each by the moment of its inputs.

    `damping` is the share of the mean of H's diagonal that is added to the diagonal.
    """

    damping: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.damping < float("inf"):
            raise UserError(f"the damping of GPTQ must be positive, got {self.damping}; usual is 0.01")

    @one_thread()
    def __call__(
        self,
        weights: Mapping[str, Tensor],  # of one shape, [rows, cols]
        grid: Grid,
        scale: ScaleRule,
        hessians: Mapping[str, Tensor],  # by name, [cols, cols], on the device to compute on
    ) -> dict[str, Coded]:
        """The codes, on the CPU. Raises UserError for a weight that is no matrix or has no finite moment."""
        factors = [factorise(_hessian_of(name, weight, hessians), self.damping) for name, weight in weights.items()]
        factor = Factor(*map(torch.stack, zip(*factors, strict=True)))
        stacked = torch.stack([*weights.values()]).to(factor.unit.device)
        extra = [(columns,) if isinstance(scale, ColumnStep) else () for columns in factor.columns]
        scales = [scale(weight, grid, *more) for weight, more in zip(stacked, extra, strict=True)]
        steps = torch.stack([spread_scale(*pair) for pair in zip(scales, stacked, strict=True)])
        integers = round_by_columns(stacked, steps, factor, grid).to("cpu", torch.int8)
        pairs = zip(integers, (one.cpu() for one in scales), strict=True)
        return {name: Coded(*pair, grid) for name, pair in zip(weights, pairs, strict=True)}


class Factor(NamedTuple):
    """H = L L^T with its columns in the order of rounding, the last one first; or several of them, stacked."""

    order: Tensor  # [cols] int64: where in the weight each of these columns stands
    unit: Tensor  # [cols, cols]: L_ij / L_jj, ones on the diagonal
    columns: Tensor  # [cols]: L_jj, in the weight's own order
    alive: Tensor  # [cols] bool, in the weight's own order: whether H_jj > 0


def factorise(
    hessian: Tensor,  # [cols, cols], symmetric, not negative
    damping: float,
) -> Factor:
    """The factor of the damped moment, computed in fp64; inputs that never were anything else than 0 stand alone."""
    diagonal = hessian.diagonal().double()
    alive = diagonal > 0
    mean = diagonal.mean() if alive.any() else 1.0
    order = diagonal.argsort(stable=True)
    damped = hessian.double() + torch.diag(damping * mean + torch.where(alive, 0.0, mean))
    lower = torch.linalg.cholesky(damped[order][:, order])
    columns = torch.empty_like(diagonal).scatter_(0, order, lower.diagonal())
    return Factor(order, (lower / lower.diagonal()).to(hessian.dtype), columns.to(hessian.dtype), alive)


def round_by_columns(
    weights: Tensor,  # [layers, rows, cols]
    steps: Tensor,  # [layers, 1 or rows, 1 or cols]
    factor: Factor,  # stacked: [layers, ...]
    grid: Grid,
) -> Tensor:  # [layers, rows, cols], integers as floats
    """The codes; a column that never had any input becomes 0, which changes no output and costs nothing."""
    weights = weights * factor.alive[:, None]
    rounded = grid.rounder(weights / steps)
    places = factor.order[:, :, None].expand(weights.mT.shape)
    columns, steps = weights.mT.gather(1, places), steps.expand_as(weights).mT.gather(1, places)
    errors, codes = torch.zeros_like(columns), torch.empty_like(columns)
    for end in range(columns.shape[1], 0, -COLUMN_BLOCK):
        begin = max(0, end - COLUMN_BLOCK)
        targets = columns[:, begin:end] + factor.unit[:, end:, begin:end].mT @ errors[:, end:]
        for column in range(end - 1, begin - 1, -1):
            carried = factor.unit[:, column + 1 : end, column, None].mT @ errors[:, column + 1 : end]
            values = (targets[:, column - begin] + carried[:, 0]) / steps[:, column]
            codes[:, column] = rounded(values[..., None])[..., 0]
            errors[:, column] = columns[:, column] - codes[:, column] * steps[:, column]
    return torch.empty_like(codes).scatter_(1, places, codes).mT


def _hessian_of(name: str, weight: Tensor, hessians: Mapping[str, Tensor]) -> Tensor:
    if weight.ndim != 2:
        raise UserError(f"GPTQ rounds matrices, {name} is {tuple(weight.shape)}; give it a rule without a method")
    if name not in hessians:
        raise UserError(
            f"GPTQ needs the second moment of what {name} is multiplied with, there is none; collect it with "
            "InputMoments, or give the tensor a rule without a method"
        )
    hessian = hessians[name]
    if hessian.shape != (weight.shape[1],) * 2 or not hessian.isfinite().all():
        raise UserError(
            f"the second moment for {name} {tuple(weight.shape)} must be finite numbers {(weight.shape[1],) * 2}, "
            f"got {tuple(hessian.shape)}, {int((~hessian.isfinite()).sum())} of them not finite"
        )
    return hessian


# recipes/int5_int6_rate.py

"""`int5_int6` with steps by rate instead of widths: GPTQ, a trellis, a range coder, and a file that fills the budget.

Moments of the inputs of every matrix are measured on one step's training batch, in the last two seconds of the ten
minutes. The fit to the budget follows after training, on the CPU: about five tries, each 19 s of one core (the six
matrices of ten layers with Gaussian weights, n = 1). Not yet run by this project on eight GPUs.

    torchrun --standalone --nproc_per_node=8 train_gpt.py int5_int6_rate --train.seed 42

Papers: those of recipes/int5_int6.py; GPTQ, arXiv 2210.17323; WaterSIC, arXiv 2603.04956; entropy-constrained
trellis-coded quantisation, Fischer and Wang 1992.
"""

def rate_pack(quantizer: RateQuantizer, budget: int) -> PackConfig:
    """Matrices on a trellis by GPTQ, steps by column; the bigram table, which multiplies nothing, on a plain grid."""
    return PackConfig(
        plan=(
            Rule("bigrams", UNIFORM, pattern=r"^embed\.bigram\.table\.", scale=TensorStep(12.85)),
            Rule("tokens", TRELLIS8, pattern=r"^embed\.tokens\.", scale=ColumnStep(6.4), method=GPTQ()),
            Rule("matrices", TRELLIS8, pattern=r"\.weight$", scale=ColumnStep(12.85), method=GPTQ()),
            Rule("control", "fp16"),
        ),
        kinds=(RangeKind(UNIFORM, "tensor"), StepTrellisKind(TRELLIS8, "column")),
        quantizer=quantizer,
        budget=budget,
    )


# recipes/pocket.py

"""The best that this project knows on the pocket track: a narrow hybrid over 4,096 pieces, packed by rate.

    make pocket SEED=42

1,698,897 parameters. Narrow, so that many tokens fit into the time; the bytes that are left hold a large bigram table,
which costs no time; a slow average of the weights takes back some of what several epochs learn by heart. What was
tried, one thing at a time, stands in records/LOG.md.
Papers: those of recipes/hybrid.py and recipes/int5_int6_rate.py.
"""

def pocket() -> Recipe:
    """4 x 128: `hybrid_pocket`'s mixers, MLP 384, BigramHash 16384 x 32, steps of 2,048 tokens in windows of 512."""
    base = hybrid_pocket()
    return replace(
        base,
        name="pocket",
        data=replace(base.data, folder="data/datasets/sotu_sp4096"),
        model=replace(
            base.model,
            vocab_size=4096,
            dim=128,
            embed=SmearBigramConfig(bigram_rows=16_384, bigram_dim=32),
            layers=tuple(replace(layer, mlp=MLPConfig(hidden=384)) for layer in base.model.layers),
        ),
        train=replace(base.train, tokens_per_step=2048, num_slices=1, validate_every=400),
        average=EMAConfig(decay=0.998),
        pack=rate_pack(RateQuantizer(batches=8, seconds=4.0), budget=POCKET_BYTES),
        record=RecordConfig(
            title="Pocket",
            blurb="Gated DeltaNet and attention at 4x128, 4,096 pieces: GPTQ, trellis, range coder, fitted to size.",
            track=POCKET_TRACK,
        ),
    )


# recipes/override.py

"""`--train.steps 20 --model.dim 64`: changes of a recipe on the command line.

A path names a field of the nested dataclasses, a number an entry of a tuple, `*` all of its entries; `.length` repeats
or cuts a tuple: `--model.layers.length 6 --model.layers.*.mlp.hidden 256`. A value must have the field's declared type;
"none" is None, also for a whole part (`--average none`); a type with `from_name` (a Grid) is given by name. It is the
standard library and not a package because the counted single file needs it, and because an error here is one line that
names the nearest path.
"""

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
    entries = _entries_override(config)
    if entries is None:
        yield prefix, config
        return
    for name, value in entries.items():
        yield from leaves(value, f"{prefix}.{name}" if prefix else name)


def _entries_override(config: Any) -> dict[str, Any] | None:
    """The parts of a dataclass or tuple by path segment; None for a leaf."""
    if dataclasses.is_dataclass(config) and not hasattr(config, "from_name"):
        return {entry.name: getattr(config, entry.name) for entry in dataclasses.fields(config)}
    return {str(index): value for index, value in enumerate(config)} if isinstance(config, tuple) else None


def _value_at(config: Any, path: list[str]) -> Any:
    for part in path:
        config = (_entries_override(config) or {}).get(part)
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


# recipes/packed.py

"""A model in bytes and back: what model.bin says of itself, and the model that it becomes with nothing else at hand."""

# Overrides that reading and scoring the model depend on travel in the file; how it was trained does not, but for what
# it computes in: another machine's choice would be another score.
_TRAVELLING = ("--model.", "--eval.", "--pack.coder", "--pack.kinds.", "--train.compute_dtype")


@dataclass(frozen=True)
class PackedModel:
    """What came out of a file: the recipe, the model on its device, and whose tokens it speaks."""

    recipe: Recipe
    model: LanguageModel
    tokenizer_sha256: str


def pack_model(recipe: Recipe, overrides: list[str], codes: Codes, tokenizer_sha256: str) -> bytes:
    """The artifact: codes, and the header from which the model is rebuilt."""
    config = {
        "recipe": recipe.name,
        "overrides": travelling_overrides(overrides),
        "model": fingerprint(recipe.model),
        "tokenizer": tokenizer_sha256,
    }
    return pack(codes, config=config, coder=recipe.pack.coder, kinds=recipe.pack.kinds)


def open_packed(path: str | Path, machine: Machine) -> PackedModel:
    """The model in the file `path`, computing in what it was trained in; reads that file alone.

    Raises UserError for a file that is damaged in any bit, or whose recipe has changed since it was packed.
    """
    config, codes = unpack(read_bytes(path, "the packed model"), _expected)
    recipe = _recipe_of(config)
    machine = machine.computing_in(recipe.train.compute_dtype)
    return PackedModel(recipe, model_from_codes(recipe.model, codes, machine), config["tokenizer"])


def model_from_codes(config: GPTConfig, codes: Codes, machine: Machine) -> LanguageModel:
    """The model with the dequantised codes as weights, in evaluation mode on the machine's device."""
    with torch.device("meta"):
        model = config.build(machine.compute_dtype)
    model.load_state_dict(dequantize(codes), assign=True)
    for name, module in model.named_modules():
        # What comes off a grid is what training saw; rounded once more, ternary weights would shrink.
        if isinstance(codes.get(f"{name}.weight"), Coded):
            module.weight_map = stored_weight
    return model.to(machine.device).eval().requires_grad_(False)


def parameter_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter, without allocating any."""
    with torch.device("meta"):
        model = config.build()
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def travelling_overrides(overrides: list[str]) -> list[str]:
    """The overrides that the packed model carries, each as `--path=value`."""
    joined, rest = [], list(overrides)
    while rest:
        word = rest.pop(0)
        joined.append(word if "=" in word else f"{word}={rest.pop(0)}")
    return [word for word in joined if word.startswith(_TRAVELLING)]


def _expected(config: dict) -> Expected:
    recipe = _recipe_of(config)
    return Expected(parameter_shapes(recipe.model), recipe.pack.coder, recipe.pack.kinds)


def _recipe_of(config: dict) -> Recipe:
    try:
        recipe = load_recipe(config["recipe"], config["overrides"])
        packed, now = config["model"], fingerprint(recipe.model)
    except (KeyError, TypeError) as error:
        raise UserError(f"the packed model's header must name its recipe, overrides and model: {error!r}") from error
    if packed != now:
        raise UserError(
            f"the packed model was made with another version of recipe {recipe.name!r} (model fingerprint {packed}, "
            f"now {now}); use the source that its record ships"
        )
    return recipe


# recipes/run_folder.py

"""runs/ID: one folder a run, one file a stage.

recipe.json  train.log  log.jsonl  checkpoint.safetensors  weights.safetensors  moments.safetensors  codes.safetensors
model.bin  ledger.json  score.json  sample.txt  code/train_gpt.py  train_gpt_readable.py
"""

def choose_run_id(recipe: Recipe) -> str:
    """RUN_ID from the environment; else the recipe and torchrun's id, which survives restarts; else recipe and time."""
    elastic = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    if chosen := os.environ.get("RUN_ID"):
        return chosen
    if elastic != "none":
        return f"{recipe.name}-{elastic[:8]}"
    return f"{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}"


# data/dataset.py

"""A data set on disk as training and scoring want it: its shards and its tokenizer, checked against a recipe."""

@dataclass(frozen=True)
class Dataset:
    """The files of one data set; every shard path is sorted by name."""

    folder: Path
    train_paths: tuple[Path, ...]
    val_paths: tuple[Path, ...]
    tokenizer_path: Path
    vocab_size: int


def open_dataset(
    folder: str | Path,
    vocab_size: int,  # the recipe's
    tokenizer_path: str | Path | None = None,  # None: where a build or the published layout keeps it
) -> Dataset:
    """The data set in `folder`, checked against the recipe's vocabulary; shards are opened later, by who reads them.

    Raises UserError for a missing folder (with the command that makes it), no shards, no tokenizer, or a tokenizer
    of another vocabulary.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"the data set {folder} does not exist; make it: {command_for(folder, vocab_size)}")
    try:
        train, val = find_shards(folder, "train"), find_shards(folder, "val")
    except UserError as error:
        raise UserError(f"{error}; make the data set: {command_for(folder, vocab_size)}") from error
    path = Path(tokenizer_path) if tokenizer_path else _find_tokenizer(folder, vocab_size)
    num_pieces = load_tokenizer(path).get_piece_size()
    if num_pieces != vocab_size:
        raise UserError(
            f"the recipe's vocabulary must be the tokenizer's, got {vocab_size} and {num_pieces} ({path}); "
            f"nearest {num_pieces}"
        )
    return Dataset(folder, tuple(train), tuple(val), path, vocab_size)


def command_for(folder: Path, vocab_size: int) -> str:
    """The command that makes the data set `folder`: a download for a published name, else a build."""
    published = re.fullmatch(r"fineweb10B_(\w+)", folder.name)
    if published:
        return f"python -m data download --variant {published.group(1)} --train-shards 10"
    return f"python -m data build --corpus sotu --vocab {vocab_size} --out {folder}"


def tokenizer_places(folder: Path, vocab_size: int) -> list[Path]:
    """Where a tokenizer can lie: beside the shards (our builds), or in ../../tokenizers (as published)."""
    # The folder's own name says its vocabulary better than the recipe does: the mismatch is then named as such.
    variant = re.search(r"_sp(\d+)$", folder.name)
    num_pieces = variant.group(1) if variant else vocab_size
    published = folder.resolve().parent.parent / "tokenizers" / f"fineweb_{num_pieces}_bpe.model"
    return [folder / "tokenizer.model", published]


def _find_tokenizer(folder: Path, vocab_size: int) -> Path:
    places = tokenizer_places(folder, vocab_size)
    for path in places:
        if path.is_file():
            return path
    raise UserError(f"the data set {folder} has no tokenizer; looked for {' and '.join(map(str, places))}")


# recipes/stages.py

"""The stages after training, each a function over the run folder: the commands call them, train_gpt.py composes them.

weights.safetensors -> quantize -> codes.safetensors -> compress -> model.bin, ledger.json -> eval -> score.json

Recipes that calibrate have moments.safetensors beside the weights.
"""

@dataclass(frozen=True)
class Validation:
    """The text that is scored: all validation tokens, and what each is worth in bytes."""

    tokens: Tensor  # [N + 1] int64
    byte_table: ByteTable

    @property
    def num_targets(self) -> int:
        return len(self.tokens) - 1


def recipe_dataset(recipe: Recipe) -> Dataset:
    """The recipe's data set, where DATA_PATH and TOKENIZER_PATH say it is."""
    folder = os.environ.get("DATA_PATH", recipe.data.folder)
    return open_dataset(folder, recipe.model.vocab_size, os.environ.get("TOKENIZER_PATH"))


def open_validation(dataset: Dataset) -> Validation:
    """The whole validation split of `dataset`, ids checked against the vocabulary."""
    table = ByteTable.from_tokenizer(load_tokenizer(dataset.tokenizer_path), dataset.vocab_size)
    return Validation(read_tokens(dataset.val_paths, dataset.vocab_size), table)


def plain_score(model, validation: Validation, window: int, machine: Machine, batch_tokens: int) -> Score:
    """Non-overlapping windows: the val_bpb that training reports."""
    windows = plain_windows(validation.num_targets, window)
    return score_windows(model, validation.tokens, windows, validation.byte_table, machine, batch_tokens)


@dataclass(frozen=True)
class EvalReport:
    """A score from the bytes alone, and how it was made."""

    score: Score
    config: EvalConfig
    seconds: float
    tokens_run: int  # through the trunk, overlap included
    artifact_bytes: int
    artifact_sha256: str

    def to_json(self) -> str:
        """What score.json holds."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def to_dict(self) -> dict:
        """The figures by name, losses in nats a token, times in seconds."""
        score = self.score
        return {
            **self.config.claim,
            "val_loss": score.loss,
            "val_bpb": score.bpb,
            "tokens": score.tokens,
            "bytes": score.bytes,
            "implied_bytes": score.implied_bytes,
            "seconds": self.seconds,
            "tokens_run": self.tokens_run,
            "artifact_bytes": self.artifact_bytes,
            "artifact_sha256": self.artifact_sha256,
        }

    def line(self) -> str:
        score, claim = self.score, self.config.claim
        how = " ".join([claim.pop("protocol").split()[0], *(f"{name}={value}" for name, value in claim.items())])
        return (
            f"{how} val_loss:{score.loss:.8f} val_bpb:{score.bpb:.8f} "
            f"tokens:{score.tokens} bytes:{score.bytes} implied_bytes:{score.implied_bytes:.1f} "
            f"eval_time:{1000 * self.seconds:.0f}ms"
        )


def eval_artifact(
    path: Path,  # model.bin; nothing else of the run is read
    machine: Machine,
    choose: object = lambda recipe: recipe.eval,
) -> tuple[EvalReport, PackedModel]:
    """Scores the packed model on the validation split as `choose` says, every token once."""
    packed = open_packed(path, machine)
    config = choose(packed.recipe)
    dataset = recipe_dataset(packed.recipe)
    if sha256_of(dataset.tokenizer_path) != packed.tokenizer_sha256:
        raise UserError(
            f"the packed model speaks the tokens of another tokenizer: {dataset.tokenizer_path} has SHA-256 "
            f"{sha256_of(dataset.tokenizer_path)[:16]}..., the model wants {packed.tokenizer_sha256[:16]}..."
        )
    validation = open_validation(dataset)
    start = time.perf_counter()
    score, num_run = config.score(packed.model, validation.tokens, validation.byte_table, machine)
    seconds = time.perf_counter() - start
    return EvalReport(score, config, seconds, num_run, path.stat().st_size, sha256_of(path)), packed


# recipes/telling.py

"""What a run says: header, steps, validation, stages, ledger, each as a line for people and as facts for programs.

Step and validation lines follow the grammar of the competition's scripts, which its parsers read:

    step:N/20000 train_loss:… train_time:…ms step_avg:…ms
    step:N/20000 val_loss:… val_bpb:… train_time:…ms step_avg:…ms
"""

def is_logged(report: StepReport, recipe: Recipe) -> bool:
    """Whether a step has a line of its own: the first one and every `log_every`."""
    return report.step % recipe.train.log_every == 0 or report.step == 1


def step_text(report: StepReport, recipe: Recipe) -> str:
    """The line of a step."""
    return (
        f"step:{report.step}/{recipe.train.steps or 0} train_loss:{report.loss:.4f} "
        f"{_times(report.step, report.seconds)} grad_norm:{report.grad_norm:.3f} lr_multiplier:{report.multiplier:.3f}"
    )


def validation_text(label: str, trainer: Trainer, score: Score) -> str:
    """The line of a validation; `label` says of which weights."""
    return (
        f"step:{trainer.step}/{trainer.config.steps or 0} val_loss:{score.loss:.4f} val_bpb:{score.bpb:.4f} "
        f"{_times(trainer.step, trainer.clock.seconds())} weights:{label.replace(' ', '_')}"
    )


def stop_text(trainer: Trainer) -> str:
    """Why training ended before its last step; "" when it did not."""
    if trainer.stopped_by_signal:
        return f"stopped by SIGTERM after step {trainer.step}; the same RUN_ID continues it"
    if trainer.step >= (trainer.config.steps or math.inf):
        return ""
    seconds, steps = trainer.clock.seconds(), trainer.config.steps or 0
    return f"stopping_early: wallclock_cap train_time:{1000 * seconds:.0f}ms step:{trainer.step}/{steps}"


def calibration_text(trainer: Trainer) -> str:
    """That the quantiser has seen training data, and how long training has taken with that."""
    return f"calibrated on training batches: {trainer.clock.seconds():.1f} s of training in all"


def _times(step: int, seconds: float) -> str:
    return f"train_time:{1000 * seconds:.0f}ms step_avg:{1000 * seconds / max(1, step):.2f}ms"


def ledger_text(recipe: Recipe, ledger: Ledger) -> str:
    """The ledger and the competition's three size lines."""
    coder = recipe.pack.coder
    return (
        f"{ledger.table()}\n"
        f"Serialized model {coder}: {ledger.model_total} bytes\n"
        f"Code size: {ledger.code_total} bytes\n"
        f"Total submission size {coder}: {ledger.total} bytes"
    )


def final_text(recipe: Recipe, report: EvalReport) -> str:
    """The score in our words and in the competition's."""
    score, label = report.score, f"final_{recipe.pack.coder}_roundtrip"
    return (
        f"{report.line()}\n"
        f"{label} val_loss:{score.loss:.4f} val_bpb:{score.bpb:.4f} eval_time:{1000 * report.seconds:.0f}ms\n"
        f"{label}_exact val_loss:{score.loss:.8f} val_bpb:{score.bpb:.8f}"
    )


# train_gpt.py

"""The whole run on one page: tokens in, record out.

    torchrun --standalone --nproc_per_node=1 train_gpt.py demo
    torchrun --standalone --nproc_per_node=8 train_gpt.py int5_int6 --train.seed 42

The first argument names the recipe, the rest are overrides of its fields (`python -m recipes demo` lists them). The
environment says only where: DATA_PATH, TOKENIZER_PATH, RUN_ID (an earlier run of that id is resumed) and SEED.

Exit codes: 0 done, 2 a mistake in what was given, 3 a loss that is not finite, 75 stopped by SIGTERM and resumable.
"""

def build_trainer(recipe: Recipe, dataset: Dataset, machine: Machine) -> Trainer:
    """The model at its initial weights, and everything that moves it."""
    torch.manual_seed(recipe.train.seed)
    model = recipe.model.build(machine.compute_dtype).reset_parameters(recipe.train.seed).to(machine.device)
    loader = recipe.data.loader(
        dataset.train_paths,
        window=recipe.train.window,
        tokens_per_slice=recipe.train.tokens_per_slice,
        rank=machine.rank,
        world_size=machine.world_size,
        vocab_size=dataset.vocab_size,
    )
    quantizer = recipe.pack.quantizer
    return recipe.trainer(
        quantizer.before(recipe.train) if quantizer else recipe.train,
        model=model,
        # A default recipe on the CPU must not wait a minute for the compiler.
        forward=torch.compile(model) if machine.on_cuda else model,
        optimizers=Optimizers(model, recipe.optim, machine),
        average=recipe.average.build(dict(model.named_parameters())) if recipe.average else None,
        warmdown=recipe.optim.warmdown,
        loader=loader,
        machine=machine,
        identity=fingerprint(recipe),
    )


def train(recipe: Recipe, trainer: Trainer, validation: Validation, checkpoint: Path, tell: object) -> bool:
    """Trains, and puts the average in the place of the weights; False when SIGTERM stopped it first."""
    machine, config = trainer.machine, recipe.train

    def score(label: str) -> None:
        tell.validation(
            label, trainer, plain_score(trainer.model, validation, config.window, machine, recipe.eval.batch_tokens)
        )

    def on_step(report: StepReport) -> None:
        tell.step(report)
        if config.validate_every and report.step % config.validate_every == 0:
            trainer.clock.pause()
            score("training")
            trainer.clock.start()

    if machine.on_cuda and trainer.step == 0:
        trainer.warm_up(config.warmup_steps)
    trainer.run(on_step, checkpoint)
    tell.end_of_training(trainer)
    if trainer.stopped_by_signal:
        return False
    score("last weights")
    if trainer.average:
        trainer.use_average()
        score(f"average of {trainer.average.count}")
    return True


def seed_override() -> list[str]:
    """The environment's SEED as an override."""
    return ["--train.seed", os.environ["SEED"]] if os.environ.get("SEED") else []


def resumed_dtype(checkpoint: Path) -> str | None:
    """The compute dtype that an interrupted run was using, which its continuation keeps; None for a new run."""
    return checkpoint_facts(checkpoint)["compute_dtype"] if checkpoint.exists() else None


def run_command(command: Callable[[], int]) -> NoReturn:
    """Leaves the process with the exit code of `command`; a mistake or a lost run is one line on stderr."""
    try:
        code = command()
    except (UserError, NonFiniteLossError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    leave(code)


# recipes/counted.py

"""The conductor of a counted file: one recipe, tokens in, score out, and nothing kept between the stages.

    torchrun --standalone --nproc_per_node=8 train_gpt.py [--path value ...]    trains it and writes runs/ID
    python train_gpt.py --score model.bin [--stride 64 ...]                     scores a packed model

It composes the parts that train_gpt.py of the repository composes, and ends in the same bytes. DATA_PATH,
TOKENIZER_PATH, RUN_ID, SEED and the exit codes are the same; the ledger counts the file that runs. It is written in the
name of the recipe `pocket`, and bundling puts another in its place. What it defines takes the place of the repository's
definition of the same name: `load_recipe` knows one recipe and imports none.
"""

def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of this file with overrides applied. Raises UserError when another is asked for."""
    if name != "pocket":
        raise UserError(f"this file holds the recipe pocket alone, got {name!r}")
    return overridden(pocket(), overrides)


class Printer:
    """Prints the lines of the competition's grammar, on the first rank."""

    def __init__(self, recipe: Recipe, machine: Machine) -> None:
        self.recipe, self.machine = recipe, machine

    def line(self, text: str) -> None:
        if text and self.machine.is_main:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()

    def step(self, report: StepReport) -> None:
        if is_logged(report, self.recipe):
            self.line(step_text(report, self.recipe))

    def validation(self, label: str, trainer: Trainer, score: Score) -> None:
        self.line(validation_text(label, trainer, score))

    def end_of_training(self, trainer: Trainer) -> None:
        self.line(stop_text(trainer))

    def calibrated(self, trainer: Trainer) -> None:
        self.line(calibration_text(trainer))


def counted_main(arguments: list[str]) -> int:
    """Trains the recipe of this file, or scores a packed model of it, and returns the exit code."""
    options = dict(override_pairs(arguments))
    if "score" not in options:
        return train_alone([*arguments, *seed_override()])
    artifact = Path(options.pop("score"))
    changes = [f"--{path}={text}" for path, text in options.items()]
    score_alone(artifact, Printer(load_recipe("pocket"), start_machine()), changes)
    return 0


def train_alone(overrides: list[str]) -> int:
    """Tokens -> checkpoint, model.bin, ledger.json and score.json in runs/ID; returns the exit code."""
    recipe = load_recipe("pocket", overrides)
    dataset = recipe_dataset(recipe)
    validation = open_validation(dataset)
    run = Path("runs") / choose_run_id(recipe)
    checkpoint, artifact = run / "checkpoint.safetensors", run / "model.bin"
    tell = Printer(recipe, start_machine(recipe.train.compute_dtype or resumed_dtype(checkpoint)))
    trainer = build_trainer(recipe, dataset, tell.machine)
    tell.line(f"recipe pocket (fingerprint {fingerprint(recipe)}) seed:{recipe.train.seed} run:{run}")
    if trainer.resume(checkpoint):
        tell.line(f"resuming at step {trainer.step}")
    if not train(recipe, trainer, validation, checkpoint, tell):
        return TerminationRequest.EXIT_CODE
    pack, quantizer = recipe.pack, recipe.pack.quantizer
    moments = quantizer.moments(trainer, tell) if quantizer else {}
    if tell.machine.is_main:
        overrides = [*overrides, f"--train.compute_dtype={dtype_name(tell.machine.compute_dtype)}"]
        packed = partial(pack_model, recipe, overrides, tokenizer_sha256=sha256_of(dataset.tokenizer_path))
        if quantizer:
            size = Path(__file__).stat().st_size
            codes = quantizer.codes(trainer.weights, moments, pack, packed, size, tell.line)
        else:
            codes = quantize(trainer.weights, pack.plan, pack.prune)
        write_bytes(artifact, packed(codes))
    tell.machine.barrier()
    ledger, report = score_alone(artifact, tell)
    if tell.machine.is_main:
        write_text(run / "ledger.json", json.dumps(ledger.to_json(), indent=1) + "\n")
        write_text(run / "score.json", report.to_json())
    check_budget(ledger)
    return 0


def score_alone(artifact: Path, tell: Printer, changes: Sequence[str] = ()) -> tuple[Ledger, EvalReport]:
    """The bytes of a packed model and of the file that runs, and the score from those bytes; both are printed.

    `changes` are overrides of the recipe's evaluation.
    """
    code = {Path(__file__).name: Path(__file__).stat().st_size}
    report, packed = eval_artifact(artifact, tell.machine, lambda recipe: overridden(recipe.eval, changes))
    # Coder and kinds are those that the file names, the budget that of this run.
    budget, kinds = tell.recipe.pack.budget, packed.recipe.pack.kinds
    ledger = build_ledger(read_bytes(artifact, "the packed model"), code, budget, kinds)
    tell.line(ledger_text(packed.recipe, ledger))
    tell.line(final_text(packed.recipe, report))
    return ledger, report


if __name__ == "__main__":
    run_command(lambda: counted_main(sys.argv[1:]))

"""Recipe int5_int6_pocket of Sixteen as one file: the source of the counted train_gpt.py before it is minified.

Made by `python -m compress bundle int5_int6_pocket`; every part names the file of the repository that it is from.
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
import zstandard
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import accumulate, groupby, pairwise
from math import gcd, prod
from pathlib import Path
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from sentencepiece import SentencePieceProcessor
from torch import Tensor, empty, nn
from types import FrameType
from typing import Any, BinaryIO, ClassVar, Literal, NoReturn, Union, get_args, get_origin, get_type_hints


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

    mixer: AttentionConfig
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
            log_p = torch.log_softmax(z if cap is None else 2 * cap * u, dim=-1)
            nats[here] = -log_p.gather(1, target)[:, 0]
            if wanted:
                slope = log_p.exp_().scatter_add_(1, target, log_p.new_full(target.shape, -1.0))
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
    quantizer: None = None
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
name of the recipe `int5_int6_pocket`, and bundling puts another in its place. What it defines takes the place of the repository's
definition of the same name: `load_recipe` knows one recipe and imports none.
"""

def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of this file with overrides applied. Raises UserError when another is asked for."""
    if name != "int5_int6_pocket":
        raise UserError(f"this file holds the recipe int5_int6_pocket alone, got {name!r}")
    return overridden(int5_int6_pocket(), overrides)


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


def counted_main(arguments: list[str]) -> int:
    """Trains the recipe of this file, or scores a packed model of it, and returns the exit code."""
    options = dict(override_pairs(arguments))
    if "score" not in options:
        return train_alone([*arguments, *seed_override()])
    artifact = Path(options.pop("score"))
    changes = [f"--{path}={text}" for path, text in options.items()]
    score_alone(artifact, Printer(load_recipe("int5_int6_pocket"), start_machine()), changes)
    return 0


def train_alone(overrides: list[str]) -> int:
    """Tokens -> checkpoint, model.bin, ledger.json and score.json in runs/ID; returns the exit code."""
    recipe = load_recipe("int5_int6_pocket", overrides)
    dataset = recipe_dataset(recipe)
    validation = open_validation(dataset)
    run = Path("runs") / choose_run_id(recipe)
    checkpoint, artifact = run / "checkpoint.safetensors", run / "model.bin"
    tell = Printer(recipe, start_machine(recipe.train.compute_dtype or resumed_dtype(checkpoint)))
    trainer = build_trainer(recipe, dataset, tell.machine)
    tell.line(f"recipe int5_int6_pocket (fingerprint {fingerprint(recipe)}) seed:{recipe.train.seed} run:{run}")
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

"""Ten thousand damaged and forged files, of every kind and coder: a UserError each, or exactly what a writer writes."""

import hashlib
import json
import random
import tracemalloc
from collections.abc import Iterator

import pytest
import torch

from compress.coder import LZMA, RAW, ZSTD22, Coder, encode
from compress.container import CHECKSUM_BYTES, MAGIC, PREFIX, pack, read_layout, unpack
from compress.expected import Expected
from compress.header import canonical_json
from compress.ledger import build_ledger
from compress.range_coder import RangeKind
from compress.step_scales import StepRangeKind, StepTrellisKind
from compress.trellis_kind import TrellisKind
from compress.trits import TritKind
from quantize.grid import INT4, INT5, INT6, INT8, TERNARY, Coded, Codes, Grid, nearest_codes, scale_shapes
from quantize.trellis import TRELLIS4, TRELLIS8
from runtime.errors import UserError

KINDS = (TritKind(layout="block"), RangeKind(INT5), StepRangeKind(INT6), TrellisKind(TRELLIS4), StepTrellisKind())
ABSURD = (-1, 0, 1, 7, 2**31 - 1, 2**31, 2**62, 10**30, True, None, 0.5, "", "x" * 300, "int8", "int6-range", [], {})


def coded(grid: Grid, layout: str = "row", scale: float = 1.0) -> Coded:
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(6, 9, generator=draw) * grid.clip / 3
    scales = scale_shapes((6, 9))[layout]
    return Coded(nearest_codes(values, torch.tensor(1.0), grid).to(torch.int8), torch.full(scales, scale).half(), grid)


def model() -> Codes:
    """Six rows of nine in every kind of storage, two of them in groups of two."""
    return {
        "half": torch.arange(9.0).half(),
        "single": torch.arange(6.0),
        "tensor": coded(INT4, "tensor"),
        "row.0": coded(INT8),
        "row.1": coded(INT8, scale=0.3),
        "column": coded(INT8, "column"),
        "block": coded(INT8, "block"),
        "trits": coded(TERNARY, "block"),
        "range": coded(INT5, scale=0.3),
        "step.0": coded(INT6),
        "step.1": coded(INT6, scale=0.5),
        "trellis": coded(TRELLIS4, scale=0.3),
        "path": coded(TRELLIS8),
    }


def sealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def flipped(data: bytes, source: random.Random) -> bytes:
    """Some bytes changed, cut out, doubled or added, anywhere."""
    body = bytearray(data)
    for _ in range(source.randint(1, 3)):
        begin = source.randrange(len(body))
        end = begin + source.choice((1, 1, 1, 4, 50))
        body[begin:end] = source.choice(
            (
                bytes([source.randrange(256)]),
                bytes(source.randrange(256) for _ in body[begin:end]),
                b"",
                body[begin:end] * 2,
                source.choice((b"\0", b"\xff")) * len(body[begin:end]),
            )
        )
    return bytes(body)


def with_absurd_header(data: bytes, source: random.Random) -> bytes:
    """One value anywhere in the header replaced, everything else as it was."""
    layout = read_layout(data)
    fields = json.loads(canonical_json({"coder": layout.header.coder, "config": {}, "groups": groups_of(layout)}))
    place = fields
    while True:
        key = source.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not isinstance(place[key], (dict, list)) or not place[key] or source.random() < 0.1:
            break
        place = place[key]
    place[key] = source.choice((*ABSURD, source.randrange(100)))
    text = canonical_json(fields).encode()
    header = encode(text, ZSTD22)
    rest = data[layout.header_bytes : -CHECKSUM_BYTES]
    return PREFIX.pack(MAGIC, 1, 0, len(header), len(text)) + header + rest


def groups_of(layout) -> list[dict]:
    return [vars(group) for group in layout.header.groups]


def mutations(data: bytes, count: int) -> Iterator[bytes]:
    source = random.Random(0)
    for index in range(count):
        if index % 4 == 0:
            yield flipped(data, source)
        elif index % 4 == 1:
            yield sealed(with_absurd_header(data, source))
        else:
            # Half of the time within the streams, behind a header that stays right.
            begin = read_layout(data).header_bytes if index % 4 == 2 else 0
            body = data[:-CHECKSUM_BYTES]
            yield sealed(body[:begin] + flipped(body[begin:], source))


@pytest.mark.parametrize(("coder", "count"), [(RAW, 5000), (ZSTD22, 4000), (LZMA, 1000)], ids=str)
def test_mutated_files_are_refused_or_are_what_is_written(coder: Coder, count: int):
    codes = model()
    shapes = {name: tuple(tensor.shape) for name, tensor in codes.items()}
    expected = lambda config: Expected(shapes, coder, KINDS)  # noqa: E731
    data = pack(codes, config={}, coder=coder, kinds=KINDS)
    assert {group.kind for group in read_layout(data).header.groups} > {kind.name for kind in KINDS}
    files = list(mutations(data, count))
    traced = files[: count // 20]
    read = 0
    tracemalloc.start()
    for index, file in enumerate(files):
        if index == len(traced):
            assert tracemalloc.get_traced_memory()[1] < (10_000_000 if coder == LZMA else 1_500_000)
            tracemalloc.stop()
        try:
            config, found = unpack(file, expected)
            build_ledger(file, {}, kinds=KINDS)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 600
            continue
        read += 1
        assert {name: tuple(tensor.shape) for name, tensor in found.items()} == shapes
        if coder == RAW:
            assert pack(found, config=config, coder=RAW, kinds=KINDS) == file
    # Numbers under a right hash may change: a tenth of the files at most, since words and trits are checked.
    assert 0 < read < count / 10

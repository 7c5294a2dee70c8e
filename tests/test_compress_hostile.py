"""Artifacts built to hurt, under a hash that is right: one clear error each, quickly and in little memory."""

import hashlib
import tracemalloc
from collections.abc import Callable

import pytest
import torch
import zstandard

from compress.coder import LZMA, RAW, ZSTD22, Coder, decode, encode
from compress.container import MAGIC, PREFIX, unpack
from compress.expected import Expected
from compress.header import MAX_HEADER_BYTES, canonical_json
from runtime.errors import UserError

GROUP = {"kind": "fp16", "names": ["x"], "shapes": [[3]], "stored": [3, 3]}
STREAMS = b"abcdef"


def sealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def forged(header: bytes, streams: bytes = STREAMS, length: int | None = None) -> bytes:
    """An artifact with this header and a hash that is right."""
    encoded = encode(header, ZSTD22)
    length = len(header) if length is None else length
    return sealed(PREFIX.pack(MAGIC, 1, 0, len(encoded), length) + encoded + streams)


def with_groups(*groups: dict, coder: Coder = RAW, streams: bytes = STREAMS) -> bytes:
    return forged(canonical_json({"coder": coder.name, "config": {}, "groups": list(groups)}).encode(), streams)


def expecting(*, shapes: dict | None = None, coder: Coder = RAW) -> Callable[[dict], Expected]:
    return lambda config: Expected(shapes, coder)


def refused(
    make: Callable[[], bytes],
    message: str,
    megabytes: float = 16,
    expected: Callable[[dict], Expected] = lambda config: Expected(coder=RAW),
) -> None:
    """Reading fails with `message` in one line and without large allocations."""
    data = make()
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=message) as caught:
            unpack(data, expected)
        assert tracemalloc.get_traced_memory()[1] < megabytes * 1e6
    finally:
        tracemalloc.stop()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500


def test_the_forger_can_forge():
    assert unpack(with_groups(GROUP), expecting())[1]["x"].view(torch.uint8).tolist() == list(b"daebfc")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shapes": [[2**40]]}, "a list of sizes from 0 to"),
        ({"shapes": [[2**30, 2**30]]}, r"must hold at most 268,435,456 numbers, its header says 1,152,921,504,"),
        ({"shapes": [[2**31 - 1] * 8]}, "must hold at most"),
        ({"shapes": [[1] * 100_000]}, "at most 8 dimensions"),
        ({"shapes": [[-3]]}, "a list of sizes from 0 to"),
        ({"shapes": [[True, 3]]}, "a list of sizes from 0 to"),
        ({"shapes": [[3.0]]}, "a list of sizes from 0 to"),
        ({"shapes": [["3"]]}, "a list of sizes from 0 to"),
        ({"shapes": [3]}, "a list of sizes from 0 to"),
        ({"shapes": []}, "one shape a tensor"),
        ({"shapes": [[4]]}, "must decode to 4 bytes"),
        ({"shapes": [[0]]}, "must decode to 0 bytes"),
        ({"names": ["x", "x"], "shapes": [[1], [2]]}, "x stands there twice"),
        ({"names": ["x", "y"], "shapes": [[1], [2]]}, "must differ in numbers only"),
        ({"names": [], "shapes": []}, "one shape a tensor"),
        ({"names": [7]}, "printable ASCII"),
        ({"names": ["\ud800"]}, "printable ASCII"),
        ({"names": ["two\nlines"]}, "printable ASCII"),
        ({"names": ["x" * 100_000]}, "printable ASCII"),
        ({"stored": [6]}, "must give 2 stream lengths"),
        ({"stored": [1] * 6}, "must give 2 stream lengths"),
        ({"stored": [7, -1]}, "stream lengths of x must be numbers of bytes"),
        ({"stored": [3, 4]}, "must fill it, got 7 bytes for 6"),
        ({"stored": [3, 2]}, "must fill it, got 5 bytes for 6"),
        ({"stored": [2**62, 3]}, "must fill it"),
        ({"stored": [2, 4]}, "must decode to 3 bytes"),
        ({"stored": [None, "x" * 100_000]}, "stream lengths of x must be numbers of bytes"),
        ({"kind": "fp17"}, "unknown storage kind 'fp17'; nearest: fp16"),
        ({"kind": "x" * 100_000}, "unknown storage kind"),
        ({"kind": 5}, "exactly the fields"),
        ({"more": 1}, "exactly the fields"),
    ],
)
def test_hostile_groups_are_refused(change, message):
    refused(lambda: with_groups(GROUP | change), message)


def test_a_tensor_in_two_groups_is_refused():
    refused(lambda: with_groups(GROUP, GROUP | {"kind": "fp32", "stored": [3] * 4}), "x stands there twice")


def test_totals_count_over_all_groups():
    groups = [GROUP | {"names": [name], "shapes": [[2**27]]} for name in "abc"]
    refused(lambda: with_groups(*groups, streams=STREAMS * 3), "must hold at most")


def test_integers_beyond_the_grid_are_refused():
    group = {"kind": "int4", "names": ["x"], "shapes": [[1, 2]], "stored": [2, 1, 1]}
    refused(lambda: with_groups(group, streams=b"\x01\x08\x3c\x00"), "codes on int4 must lie in -8 to 7, got 1 to 8")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "must be JSON"),
        (b"{", "must be JSON"),
        (b"\xff\xfe", "must be JSON"),
        (b"[]", "exactly the fields"),
        (b"null", "exactly the fields"),
        (b"{}", "exactly the fields"),
        (b'{"coder":"raw","config":{},"groups":{}}', "exactly the fields"),
        (b'{"coder":"raw","config":[],"groups":[]}', "exactly the fields"),
        (b'{"coder":"raw","config":{},"groups":[1]}', "exactly the fields"),
        (b'{"coder":"raw", "config":{},"groups":[]}', "must be canonical JSON"),
        (b'{"coder":"raw","coder":"raw","config":{},"groups":[]}', "must be canonical JSON"),
        (b'{"coder":"raw","config":{"x":NaN},"groups":[]}', "must be JSON"),
        (b'{"coder":"raw","config":{"x":1e999},"groups":[]}', "must be JSON"),
        (b'{"coder":"raw","config":{"x":' + b"9" * 10_000 + b'},"groups":[]}', "must be JSON"),
        (b'{"coder":"raw","config":{"x":' + b"[" * 500_000 + b"]" * 500_000 + b'},"groups":[]}', "must be JSON"),
        (b"[" * 1_000_000, "must be JSON"),
        (b'{"coder":"zip","config":{},"groups":[]}', "must be coded by its recipe's raw, got 'zip'"),
        (b'{"coder":"' + b"x" * 500_000 + b'","config":{},"groups":[]}', "must be coded by its recipe's raw"),
        (b" " * MAX_HEADER_BYTES, "must be JSON"),
        (b" " * (MAX_HEADER_BYTES + 1), "decode to at most 1,048,576 bytes"),
    ],
    ids=range(20),
)
def test_hostile_headers_are_refused(header, message):
    refused(lambda: forged(header, b""), message, megabytes=40)


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ((MAGIC, 2, 0, 0, 0), "version 1 without flags, got version 2"),
        ((MAGIC, 1, 1, 0, 0), "got version 1, flags 1"),
        ((MAGIC, 1, 0, 2**32 - 1, 10), "header must fit the file"),
        ((MAGIC, 1, 0, 3, 2**32 - 1), "header must fit the file"),
        ((MAGIC, 1, 0, 3, 10), "zstd22 data must be one whole frame"),
        ((MAGIC, 1, 0, 0, 0), "must be JSON"),
    ],
)
def test_hostile_prefixes_are_refused(prefix, message):
    refused(lambda: sealed(PREFIX.pack(*prefix) + b"abc"), message)


def bomb(size: int, declared: bool) -> bytes:
    compressor = zstandard.ZstdCompressor(level=1, write_content_size=declared)
    return compressor.compress(bytes(size))


def lying_frame(size: int) -> bytes:
    """A zstd frame that declares `size` bytes and holds five: magic, descriptor, eight bytes of size, one raw block."""
    block = (1 | 5 << 3).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + block + b"abcde"


@pytest.mark.parametrize("declared", [True, False])
def test_zstd_bombs_are_not_set_off(declared):
    streams = bomb(100_000_000, declared)
    group = {"kind": "int5-tensor", "names": ["x"], "shapes": [[3]], "stored": [len(streams), 0, 0]}
    refused(lambda: with_groups(group, coder=ZSTD22, streams=streams), "to 3 bytes", expected=expecting(coder=ZSTD22))


def test_frames_that_lie_about_their_size_get_no_memory():
    for size in (5, 100_000, 400_000_000, 2**63):
        frame = lying_frame(size)
        tracemalloc.start()
        if size == 5:
            assert decode(frame, ZSTD22, 5) == b"abcde"
        else:
            with pytest.raises(UserError):
                decode(frame, ZSTD22, size)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
        tracemalloc.stop()


def test_header_bombs_are_not_set_off():
    encoded = bomb(100_000_000, declared=True)
    data = sealed(PREFIX.pack(MAGIC, 1, 0, len(encoded), 1_000_000) + encoded)
    refused(lambda: data, "must decode to 1000000 bytes", megabytes=2)


def test_lzma_bombs_are_not_set_off():
    streams = encode(bytes(20_000_000), LZMA)
    group = {"kind": "int5-tensor", "names": ["x"], "shapes": [[3]], "stored": [len(streams), 0, 0]}
    refused(lambda: with_groups(group, coder=LZMA, streams=streams), "to 3 bytes", expected=expecting(coder=LZMA))


def test_shapes_are_compared_before_anything_is_allocated():
    streams = bomb(200_000_000, declared=True)
    group = {"kind": "int5-tensor", "names": ["x"], "shapes": [[200_000_000]], "stored": [len(streams), 0, 0]}
    message = r"x must have the shape \(4,\) of the model, the artifact has \(200000000,\)"
    expected = expecting(shapes={"x": (4,)}, coder=ZSTD22)
    refused(lambda: with_groups(group, coder=ZSTD22, streams=streams), message, megabytes=1, expected=expected)

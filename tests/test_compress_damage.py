"""Artifacts that are damaged, cut short, foreign, or another model's: one clear error each."""

import hashlib
import random

import pytest
import torch

from compress.coder import LZMA, RAW, ZSTD22, Coder
from compress.container import CHECKSUM_BYTES, pack, read_config, unpack
from compress.expected import Expected
from compress.ledger import build_ledger
from quantize.grid import INT5, Coded
from runtime.errors import UserError

SHAPES = {**{f"layers.{layer}.up": (10, 64) for layer in range(3)}, "gain": (40,)}


def artifact(coder: Coder = ZSTD22) -> bytes:
    integers = (torch.arange(640) * 11 % 31 - 15).to(torch.int8).reshape(10, 64)
    codes = {f"layers.{layer}.up": Coded(integers, torch.ones(10).half(), INT5) for layer in range(3)}
    return pack({**codes, "gain": torch.arange(40.0)}, config={"recipe": "demo"}, coder=coder)


@pytest.mark.parametrize("coder", [ZSTD22, LZMA, RAW], ids=str)
def test_any_flipped_bit_is_found(coder):
    data = artifact(coder)
    places = {*range(400), *range(len(data) - 40, len(data)), *random.Random(0).sample(range(len(data)), 200)}
    for place in places & set(range(len(data))):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        with pytest.raises(UserError, match="an artifact must"):
            unpack(bytes(flipped), lambda _: Expected(coder=coder))


def test_every_truncation_and_extension_is_found():
    data = artifact()
    for end in range(len(data)):
        with pytest.raises(UserError, match="an artifact must"):
            unpack(data[:end])
    for tail in (b"\0", data, b"\0" * 1000):
        with pytest.raises(UserError, match="damaged, cut short or extended"):
            unpack(data + tail)


@pytest.mark.parametrize("read", [unpack, read_config, lambda data: build_ledger(data, {})])
@pytest.mark.parametrize("data", [b"", b"SXTN", b"PK\x03\x04" + bytes(500), b"{}" * 40])
def test_foreign_files_are_refused(read, data):
    with pytest.raises(UserError, match="an artifact must begin with b'SXTN'"):
        read(data)


@pytest.mark.parametrize("coder", [ZSTD22, LZMA, RAW], ids=str)
def test_mutations_under_a_right_hash_never_crash(coder):
    source = random.Random(7)
    data = artifact(coder)[:-CHECKSUM_BYTES]
    for _ in range(300):
        body = bytearray(data)
        for _ in range(source.randint(1, 4)):
            body[source.randrange(len(body))] = source.randrange(256)
        try:
            unpack(bytes(body) + hashlib.sha256(body).digest(), lambda _: Expected(coder=coder))
        except UserError as error:
            assert "\n" not in str(error)


def test_shapes_come_from_the_config():
    seen = []
    config, codes = unpack(artifact(), lambda config: seen.append(config) or Expected(SHAPES))
    assert seen == [config] == [{"recipe": "demo"}]
    assert codes.keys() == SHAPES.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gain": (41,)}, r"gain must have the shape \(41,\) of the model, the artifact has \(40,\)"),
        ({"gain": (40, 1)}, r"gain must have the shape \(40, 1\) of the model, the artifact has \(40,\)"),
        ({"bias": (5,)}, r"bias \(5,\) is missing"),
        ({"gain": None}, r"gain \(40,\) is not one of them"),
    ],
)
def test_another_models_artifact_is_refused(change, message):
    shapes = {name: shape for name, shape in (SHAPES | change).items() if shape is not None}
    with pytest.raises(UserError, match=message):
        unpack(artifact(), lambda config: Expected(shapes))


def test_another_coder_than_the_recipes_is_refused():
    with pytest.raises(UserError, match="must be coded by its recipe's zstd22, got 'lzma'"):
        unpack(artifact(LZMA))

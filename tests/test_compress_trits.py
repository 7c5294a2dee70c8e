"""Trits in bytes: ggml's layout, sizes to the byte, and nothing but trits."""

from itertools import product

import numpy as np
import pytest
import torch

from compress.coder import RAW
from compress.container import pack, read_layout, unpack
from compress.expected import Expected
from compress.range_coder import RangeKind
from compress.trits import TritKind, pack_trits, unpack_trits
from quantize.grid import TERNARY, Coded, scale_shapes
from runtime.errors import UserError

KIND = TritKind(layout="block")


def ternary(*shape: int, layout: str = "block", zeros: float = 1 / 3, seed: int = 0) -> Coded:
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, shape, generator=generator) * 2 - 1
    integers = (signs * (torch.rand(shape, generator=generator) >= zeros)).to(torch.int8)
    return Coded(integers, torch.rand(scale_shapes(shape)[layout], generator=generator).half(), TERNARY)


def block_by_hand(trits: list[int]) -> list[int]:
    """The 52 bytes of a block, one weight at a time."""
    packed = []
    for first, stride, size, count in ((0, 32, 32, 5), (160, 16, 16, 5), (240, 4, 4, 4)):
        for m in range(size):
            value = 0
            for digit in range(count):
                value = 3 * value + trits[first + m + digit * stride] + 1
            packed.append(-(-value * 3 ** (5 - count) * 256 // 243))
    return packed


def test_blocks_are_laid_out_as_in_tq1_0():
    trits = ternary(3, 256).integers.numpy()
    assert pack_trits(trits).tolist() == [block_by_hand(row) for row in trits.tolist()]


def test_the_digits_of_a_byte_are_read_by_multiplication():
    for trits in product((-1, 0, 1), repeat=5):
        block = np.zeros((1, 256), np.int8)
        block[0, :160:32] = trits
        rest, read = int(pack_trits(block)[0, 0]), []
        for _ in range(5):
            rest *= 3
            read.append((rest >> 8) - 1)
            rest &= 255
        assert tuple(read) == trits


def test_every_pattern_survives():
    fives = np.array(list(product((-1, 0, 1), repeat=5)), np.int8)
    for offset in range(13):
        flat = np.resize(np.roll(fives, offset), 256 * 20)
        blocks = flat.reshape(-1, 256)
        assert (unpack_trits(pack_trits(blocks)) == blocks).all()


@pytest.mark.parametrize("layout", ["tensor", "block"])
def test_every_length_survives_and_takes_its_blocks(layout):
    kind = TritKind(layout=layout)
    for length in range(1, 1001):
        coded = ternary(length, layout=layout, seed=length)
        streams = kind.pack([coded])
        blocks = -(-length // 256)
        assert [len(stream) for stream in streams] == kind.sizes([(length,)])
        assert kind.sizes([(length,)]) == [52 * blocks] + [blocks if layout == "block" else 1] * 2
        (read,) = kind.unpack(streams, [(length,)])
        assert torch.equal(read.integers, coded.integers) and torch.equal(read.scale, coded.scale)


def test_a_block_with_its_scale_takes_54_bytes():
    """The ternary body of a model of 12,132 blocks: 1.6875 bits a weight."""
    data = pack({"x": ternary(12_132 * 256 // 192, 192)}, config={}, coder=RAW, kinds=(KIND,))
    (group,) = read_layout(data).header.groups
    assert (group.kind, group.stored) == ("ternary-trits-block", [12_132 * 52, 12_132, 12_132])
    assert sum(group.stored) == 655_128


def test_tensors_of_a_group_begin_blocks_of_their_own():
    codes = {f"layers.{layer}.up": ternary(3, 100 + layer, seed=layer) for layer in range(3)}
    found = unpack(pack(codes, config={}, kinds=(KIND,)), lambda _: Expected(kinds=(KIND,)))[1]
    for name, coded in codes.items():
        assert torch.equal(found[name].integers, coded.integers) and torch.equal(found[name].scale, coded.scale)


@pytest.mark.parametrize(
    ("size", "zeros", "kind"), [(256, 1 / 3, "ternary-trits-block"), (25_600, 0.6, "ternary-range-block")]
)
def test_the_smaller_form_is_stored_and_named(size, zeros, kind):
    kinds = (KIND, RangeKind(TERNARY, "block"))
    coded = ternary(size, zeros=zeros)
    data = pack({"x": coded}, config={}, coder=RAW, kinds=kinds)
    assert read_layout(data).header.groups[0].kind == kind
    sizes = [len(pack({"x": coded}, config={}, coder=RAW, kinds=(one,))) for one in kinds]
    assert len(data) == min(sizes) < max(sizes)
    assert torch.equal(unpack(data, lambda _: Expected(None, RAW, kinds))[1]["x"].integers, coded.integers)


@pytest.mark.parametrize(("place", "count"), [(0, 5), (31, 5), (32, 5), (47, 5), (48, 4), (51, 4)])
def test_bytes_that_no_trits_make_are_refused(place, count):
    good = {-(-value * 3 ** (5 - count) * 256 // 243) for value in range(3**count)}
    streams = KIND.pack([ternary(256)])
    for byte in range(256):
        forged = bytearray(streams[0])
        forged[place] = byte
        if byte in good:
            KIND.unpack([bytes(forged), *streams[1:]], [(256,)])
        else:
            with pytest.raises(UserError, match="ternary-trits-block data must be trits and zeros after them"):
                KIND.unpack([bytes(forged), *streams[1:]], [(256,)])


def test_what_fills_the_last_block_is_zero():
    streams = KIND.pack([ternary(250)])
    with pytest.raises(UserError, match="trits and zeros after them"):
        KIND.unpack(KIND.pack([ternary(256)])[:1] + streams[1:], [(250,)])

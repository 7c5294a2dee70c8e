"""The range coder: identity, sizes next to the entropy, and streams that are what their integers encode to."""

import numpy as np
import pytest
import torch

from compress.coder import RAW, ZSTD22, encode
from compress.container import pack, read_layout, unpack
from compress.expected import Expected
from compress.kinds import LAYOUTS
from compress.range_coder import RangeKind, pack_tables, root_table, table_frequencies, unpack_tables
from compress.step_scales import StepRangeKind, StepTrellisKind
from compress.trellis_kind import TrellisKind
from quantize.grid import GRIDS, INT5, INT6, INT8, TERNARY, Coded, Grid, nearest_codes, round_to_grid, scale_shapes
from quantize.steps import Deviation, TensorStep
from quantize.trellis import TRELLIS4, TRELLIS8, TRELLIS32
from runtime.errors import UserError

EMPTY = [(0, 3), (3, 0)]


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def coded(*shape: int, grid: Grid = INT6, layout: str = "row", step: float = 3.0, seed: int = 0) -> Coded:
    """Gaussian numbers of `step` grid steps; for a trellis grid along its paths."""
    scale = torch.ones(scale_shapes(shape)[layout]).half()
    integers = nearest_codes(step * gaussian(*shape, seed=seed), torch.tensor(1.0), grid).to(torch.int8)
    return Coded(integers, scale, grid)


def entropy_bytes(integers: torch.Tensor) -> float:
    counts = integers.flatten().int().unique(return_counts=True)[1].double()
    return float(-(counts * (counts / counts.sum()).log2()).sum() / 8)


def assert_survives(kind: RangeKind, tensors: list[Coded]) -> list[bytes]:
    assert all(kind.takes(tensor) for tensor in tensors)
    shapes = [tuple(tensor.shape) for tensor in tensors]
    streams = kind.pack(tensors)
    sizes = kind.sizes(shapes)
    assert len(kind.labels) == len(streams) == len(sizes)
    assert all(size in (None, len(stream)) for size, stream in zip(sizes, streams, strict=True))
    for found, tensor in zip(kind.unpack(streams, shapes), tensors, strict=True):
        assert found.grid == tensor.grid
        assert torch.equal(found.integers, tensor.integers) and torch.equal(found.scale, tensor.scale)
    return streams


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_integers_of_every_grid_and_layout_survive(grid, layout):
    shapes = [(), (0,), (1,), (300,), (0, 4), (4, 0), (3, 200), (2, 1, 3)]
    fitting = [shape for shape in shapes if layout in scale_shapes(shape)]
    tensors = [coded(*shape, grid=grid, layout=layout, step=grid.clip / 2, seed=7) for shape in fitting]
    assert_survives(RangeKind(grid, layout), tensors)
    for tensor in tensors:
        assert_survives(RangeKind(grid, layout), [tensor])


def test_extremes_and_constants_survive():
    ends = torch.tensor([[-127, 127] * 50], dtype=torch.int8)
    rare = torch.zeros(1, 100_000, dtype=torch.int8)
    rare[0, 777] = -127
    constant = torch.full((1, 5000), -3, dtype=torch.int8)
    streams = assert_survives(
        RangeKind(INT8), [Coded(one, torch.ones(1).half(), INT8) for one in (ends, rare, constant)]
    )
    assert len(streams[0]) < 40


@pytest.mark.parametrize("grid, step, tolerance", [(INT6, 3.0, 1.0003), (INT5, 5.0, 1.0003), (TERNARY, 1.0, 1.0003)])
def test_sizes_are_next_to_the_entropy(grid, step, tolerance):
    tensors = [coded(512, 512, grid=grid, step=step * (1 + seed / 3), seed=seed) for seed in range(3)]
    words = len(RangeKind(grid).pack(tensors)[0])
    wanted = sum(entropy_bytes(tensor.integers) for tensor in tensors)
    assert wanted <= words <= tolerance * wanted


def test_tables_cost_a_fraction_of_a_bit_for_each_integer_that_occurs():
    tensors = [coded(64, 64, grid=INT6, step=10.0, seed=seed) for seed in range(20)]
    lost = 0.0
    for tensor in tensors:
        symbols = tensor.integers.numpy() + 32
        counts, known = np.bincount(symbols.ravel(), minlength=65), table_frequencies(root_table(symbols, 32))
        occurring = counts > 0
        shares = counts[occurring] / counts.sum(), known[occurring] / known.sum()
        lost += (counts[occurring] * np.log2(shares[0] / shares[1])).sum() / occurring.sum()
    assert 0 < lost / len(tensors) < 0.8


@pytest.mark.parametrize("one_sided", [torch.Tensor.abs, torch.Tensor.negative])
def test_tails_that_differ_are_told_apart(one_sided):
    values = 4 * one_sided(gaussian(256, 256).abs()) + 2
    tensor = Coded(values.round().to(torch.int8), torch.ones(256).half(), INT6)
    words = len(assert_survives(RangeKind(INT6), [tensor])[0])
    assert entropy_bytes(tensor.integers) <= words < 1.01 * entropy_bytes(tensor.integers)


def test_tables_of_symmetric_integers_are_short():
    tensors = [coded(256, 256, seed=seed) for seed in range(6)]
    tables = RangeKind(INT6).pack(tensors)[1]
    # 24 integers occur in each; what is stored of them is half as many roots, and how each differs from the next.
    assert len(encode(tables, ZSTD22)) < 6 * 16
    assert len(tables) == 6 * 2 * 65


def test_tables_of_any_numbers_survive():
    tables = np.array([[0, 23_170, 0, 1], [32_767, 0, 32_767, 5]], np.int16)
    assert (unpack_tables(pack_tables(tables), 4) == tables).all()
    every = np.arange(2**16, dtype=np.uint32).astype(np.uint16).view(np.int16).reshape(-1, 256)
    assert (unpack_tables(pack_tables(every), 256) == every).all()
    noise = np.random.default_rng(0).bytes(2048)
    assert pack_tables(unpack_tables(noise, 64)) == noise


def test_golden_words():
    """Bytes that must stay readable: constriction is a dependency with a range, not a pinned one."""
    integers = (torch.arange(300) ** 2 * 7 % 31 - 15).to(torch.int8).reshape(3, 100)
    tensors = [Coded(part, torch.ones(len(part)).half(), INT5) for part in (integers, integers[:1])]
    words, tables, *_ = RangeKind(INT5).pack(tensors)
    assert (words[:12].hex(), words[-4:].hex(), len(words)) == ("82e5f10577fa0b3b8af87e0d", "e6ce7e07", 204)
    assert tables[-33:].hex() == "000001020001020001000002020001000002000405020203020000040300010403"


def test_words_are_stored_as_they_are_and_tables_are_coded():
    codes = {f"layers.{layer}.up": coded(40, 30, seed=layer) for layer in range(3)}
    kinds = (RangeKind(INT6),)
    (group,) = read_layout(pack(codes, config={}, kinds=kinds)).header.groups
    words, tables, *_ = kinds[0].pack(list(codes.values()))
    assert (group.kind, group.stored[0]) == ("int6-range", len(words))
    assert group.stored[1] < len(tables) / 2


def refused(kind: RangeKind, streams: list[bytes], shapes: list[tuple[int, ...]], message: str = "") -> None:
    with pytest.raises(UserError, match=message or "must be what its integers encode to|must lie in -32 to 31"):
        kind.unpack(streams, shapes)


@pytest.mark.parametrize(
    "kind", [RangeKind(INT6), StepRangeKind(INT6), TrellisKind(), StepTrellisKind()], ids=lambda kind: kind.name
)
def test_streams_that_are_not_what_their_integers_encode_to_are_refused(kind):
    tensors = [coded(20, 16, grid=kind.grid, seed=seed) for seed in range(2)]
    shapes = [(20, 16)] * 2
    words, tables, *scales = assert_survives(kind, tensors)
    for other in (
        b"",
        words[:-4],
        words[4:],
        words[:-1],
        words + bytes(4),
        words + b"\1",
        bytes(len(words)),
        words * 2,
    ):
        refused(kind, [other, tables, *scales], shapes)
    refused(kind, [words, bytes(len(tables)), *scales], shapes)
    source = np.random.default_rng(0)
    for _ in range(100):
        stream = int(source.integers(2))
        forged = [bytearray(words), bytearray(tables)]
        forged[stream][source.integers(len(forged[stream]))] ^= 1 << source.integers(8)
        refused(kind, [bytes(forged[0]), bytes(forged[1]), *scales], shapes)


def test_steps_take_one_byte_and_nothing_else_is_a_step():
    weight = gaussian(64, 48) * torch.linspace(0.01, 3, 64)[:, None]
    kind = StepRangeKind(INT6)
    steps = round_to_grid(weight, Deviation(12.85)(weight, INT6), INT6)
    streams = assert_survives(kind, [steps])
    assert (kind.name, kind.labels, len(streams[2])) == ("int6-range-steps", ("data", "data", "scales"), 64)
    assert not kind.takes(Coded(steps.integers, (steps.scale * 1.01).half(), INT6))
    refused(kind, [*streams[:2], b"\xf0" * 64], [(64, 48)], "step codes must lie in 0 to 239, got 240 to 240")
    other = {"x": round_to_grid(weight, TensorStep(12.85)(weight, INT6), INT6), "y": steps}
    kinds = (kind, RangeKind(INT6), RangeKind(INT6, "tensor"))
    groups = read_layout(pack(other, config={}, kinds=kinds)).header.groups
    assert [group.kind for group in groups] == ["int6-range-tensor", "int6-range-steps"]


@pytest.mark.parametrize("grid", [TRELLIS4, TRELLIS8, TRELLIS32], ids=lambda grid: grid.name)
def test_a_trellis_is_coded_with_one_distribution_for_each_parity(grid):
    shapes = [(300, 100), (1, 7), (40, 1)]
    tensors = [coded(*shape, grid=grid, step=6.0, seed=seed) for seed, shape in enumerate(shapes)]
    tensors += [Coded(torch.zeros(*shape, dtype=torch.int8), torch.ones(shape[0]).half(), grid) for shape in EMPTY]
    words = len(assert_survives(TrellisKind(grid), tensors)[0])
    blind = len(assert_survives(RangeKind(grid), tensors)[0])
    # Which parity is due is known, so nearly a bit a weight is saved; the rest is as close to the entropy as ever.
    assert 0.95 < (blind - words) * 8 / 30_047 < 1.01
    parities = [[tensor.integers[tensor.integers % 2 == parity] for parity in (0, 1)] for tensor in tensors]
    wanted = sum(entropy_bytes(part) for pair in parities for part in pair)
    assert wanted <= words <= 1.002 * wanted + 8


def test_a_trellis_survives_the_container():
    weight = gaussian(96, 64)
    codes = {"x": round_to_grid(weight, Deviation(12.85)(weight, TRELLIS8), TRELLIS8)}
    kinds = (TrellisKind(), StepTrellisKind())
    data = pack(codes, config={}, coder=RAW, kinds=kinds)
    assert read_layout(data).header.groups[0].kind == "trellis8-range-steps"
    found = unpack(data, lambda _: Expected({"x": (96, 64)}, RAW, kinds))[1]["x"]
    assert torch.equal(found.integers, codes["x"].integers) and torch.equal(found.scale, codes["x"].scale)
    with pytest.raises(UserError, match="must be coded on a known grid"):
        pack(codes, config={})


def test_a_trellis_runs_through_matrices_alone():
    streams = TrellisKind(layout="tensor").pack([coded(1, 12, grid=TRELLIS8, layout="tensor")])
    for shape in ((12,), (1, 1, 12)):
        refused(TrellisKind(layout="tensor"), streams, [shape], "a trellis runs down the rows of a matrix")

"""python -m compress bench: what quantisers do to trained weights, and what coders make of the integers.

Every quantiser is packed with the range coder; every coder is given the integers of one of them, int6 with steps of
12.85 / 31 deviations. Bytes are those of the matrices with their scales, ratios to the order-0 entropy of the integers.
"""

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from compress.brotli11 import BROTLI11
from compress.coder import LZMA, ZSTD22
from compress.container import pack, unpack
from compress.expected import Expected
from compress.kinds import GridKind
from compress.range_coder import RangeKind
from compress.step_scales import StepRangeKind, StepTrellisKind
from quantize.fit import code_bits
from quantize.gptq import GPTQ, output_error
from quantize.grid import INT5, INT6, Coded, Codes, Grid, dequantize
from quantize.plan import Rule, quantize
from quantize.scale import RowMax, ScaleRule
from quantize.steps import UNIFORM, ColumnStep, Deviation
from quantize.trellis import TRELLIS8
from runtime.machine import Machine

# Smaller tensors, and what is no matrix, stay fp16 beside every quantiser.
SMALLEST_MATRIX = 4096
# Steps of the record plans, in deviations times 31.
K = 12.85


@dataclass(frozen=True)
class BenchQuantizer:
    """A line of the table of quantisers."""

    name: str
    grid: Grid
    scale: ScaleRule
    kind: GridKind
    method: GPTQ | None = None

    def plan(self, moments: Mapping[str, Tensor]) -> tuple[Rule, ...]:
        """The rules; matrices without a moment, such as tables that are only looked up, are rounded one by one."""
        known = "|".join(map(re.escape, moments))
        by_method = Rule("by method", self.grid, f"^({known})$", self.scale, self.method, SMALLEST_MATRIX, ndim=2)
        matrices = Rule("matrices", self.grid, scale=self.scale, min_elements=SMALLEST_MATRIX, ndim=2)
        return (*((by_method,) if self.method else ()), matrices, Rule("rest", "fp16"))


COLUMNS = ColumnStep(K)
BY_DEVIATION = BenchQuantizer("int6, 12.85 deviations / 31", INT6, Deviation(K), StepRangeKind(INT6))
QUANTIZERS = (
    BenchQuantizer("int5 rows", INT5, RowMax(), RangeKind(INT5)),
    BenchQuantizer("int6 rows", INT6, RowMax(), RangeKind(INT6)),
    BY_DEVIATION,
    BenchQuantizer("GPTQ rows", UNIFORM, Deviation(K), StepRangeKind(UNIFORM), GPTQ()),
    BenchQuantizer("GPTQ columns", UNIFORM, COLUMNS, StepRangeKind(UNIFORM, "column"), GPTQ()),
    BenchQuantizer("GPTQ columns trellis", TRELLIS8, COLUMNS, StepTrellisKind(TRELLIS8, "column"), GPTQ()),
)


def quantizer_rows(
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],  # by weight; none: without the quantisers that ask for them
    score: Callable[[Codes], float] | None,  # bits per byte of a model with these codes
    machine: Machine,
) -> Iterator[dict[str, str]]:
    """One row a quantiser, as it is measured; decibels are of squared errors over squares, mean over the matrices.

    Output errors are those of matrices with a moment. Seconds are those of all threads, the memory is the most that the
    process has held until then.
    """
    for quantizer in QUANTIZERS:
        if quantizer.method and not moments:
            continue
        start = time.process_time()
        codes = quantize(weights, quantizer.plan(moments), hessians=moments)
        seconds = time.process_time() - start
        matrices = {name: coded for name, coded in codes.items() if isinstance(coded, Coded)}
        size, bits = len(pack(matrices, config={}, kinds=(quantizer.kind,))), sum(map(code_bits, matrices.values()))
        count = sum(coded.integers.numel() for coded in matrices.values())
        yield {
            "quantiser": quantizer.name,
            "bytes": f"{size:,}",
            "bits a weight": f"{8 * size / count:.3f}",
            "/ entropy": f"{8 * size / bits:.4f}",
            "weights dB": f"{mean_decibels(weights, dequantize(matrices)):.2f}",
            "outputs dB": f"{mean_decibels(weights, dequantize(matrices), moments):.2f}" if moments else "-",
            "bits per byte": f"{score(codes):.4f}" if score else "-",
            "s": f"{seconds:.1f}",
            "MiB": f"{machine.peak_memory_bytes() / 2**20:.0f}",
        }


def coder_rows(weights: Mapping[str, Tensor]) -> Iterator[dict[str, str]]:
    """One row a coder, over the same integers with their scales; seconds are those of all threads."""
    codes = quantize(weights, BY_DEVIATION.plan({}))
    matrices = {name: coded for name, coded in codes.items() if isinstance(coded, Coded)}
    bits = sum(map(code_bits, matrices.values()))
    general = [(coder.name, Expected(coder=coder)) for coder in (ZSTD22, BROTLI11, LZMA)]
    for name, way in (*general, ("range", Expected(kinds=(BY_DEVIATION.kind,)))):
        times = [time.process_time()]
        packed = pack(matrices, config={}, coder=way.coder, kinds=way.kinds)
        times.append(time.process_time())
        unpack(packed, lambda _, way=way: way)
        times.append(time.process_time())
        yield {
            "coder": name,
            "bytes": f"{len(packed):,}",
            "/ entropy": f"{8 * len(packed) / bits:.4f}",
            "pack s": f"{times[1] - times[0]:.2f}",
            "unpack s": f"{times[2] - times[1]:.2f}",
        }


def mean_decibels(
    weights: Mapping[str, Tensor],
    rounded: Mapping[str, Tensor],
    moments: Mapping[str, Tensor] | None = None,  # by weight: errors are those of outputs, where there are any
) -> float:
    """10 log10 of squared error over square, the mean over the matrices."""
    ratios = []
    for name in rounded.keys() & moments.keys() if moments else rounded:
        weight = weights[name].float()
        if moments:
            error, signal = (output_error(weight, other, moments[name]) for other in (rounded[name], 0 * weight))
        else:
            error, signal = (weight - rounded[name]).square().sum(), weight.square().sum()
        ratios.append(10 * math.log10(error / signal))
    return sum(ratios) / len(ratios)


def bench_table(rows: Iterator[dict[str, str]]) -> Iterator[str]:
    """The lines of a table, each as soon as its row is there.

    >>> print(*bench_table(iter([{"coder": "raw", "bytes": "8"}])), sep="\\n")
    | coder | bytes |
    |---|---|
    | raw | 8 |
    """
    for index, row in enumerate(rows):
        if index == 0:
            yield f"| {' | '.join(row)} |"
            yield "|" + "---|" * len(row)
        yield f"| {' | '.join(row.values())} |"

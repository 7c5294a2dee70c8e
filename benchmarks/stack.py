"""What the parts of quantisation by rate save on given weights: range coder, trellis, and all of it at equal error.

Errors are made equal by the steps: a step twice as coarse adds 6.02 dB. Squared errors are taken over the squares, in
decibels, the mean over the matrices, as `python -m compress bench` gives them.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from benchmarks.row import Row
from compress.bench import QUANTIZERS, BenchQuantizer, K, mean_decibels
from compress.brotli11 import BROTLI11
from compress.container import pack, read_layout
from compress.kinds import GridKind
from compress.step_scales import StepRangeKind, StepTrellisKind
from quantize.fit import code_bits
from quantize.gptq import GPTQ
from quantize.grid import INT6, Coded, Codes, dequantize
from quantize.plan import quantize
from quantize.steps import UNIFORM, Deviation
from quantize.trellis import TRELLIS8

SCALAR = BenchQuantizer("rows", UNIFORM, Deviation(K), StepRangeKind(UNIFORM))
PATHS = BenchQuantizer("rows, trellis", TRELLIS8, Deviation(K), StepTrellisKind(TRELLIS8))
# What records were packed from: #1394, arXiv 2210.17323.
RECORD = BenchQuantizer("GPTQ rows int6", INT6, Deviation(K), GridKind(INT6), GPTQ())
STACK = QUANTIZERS[-1]
# So close below the first error the second one should end; 0.02 dB are a tenth of a percent of the bytes.
CLOSE_DECIBELS = 0.02
MOST_FITS = 8


def stack_rows(name: str, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> list[Row]:
    """The rows for one set of weights, with the moments of the inputs of its matrices."""
    scalar = matrices_of(SCALAR, weights)
    bits, size = sum(map(code_bits, scalar.values())), integer_bytes(scalar, SCALAR.kind)
    coder = Row(
        f"range_coder_{name}", 8 * size / bits, "of the entropy", ("<=", 1.002), 1, f"{size:,} bytes, with tables"
    )
    target = mean_decibels(weights, dequantize(scalar))
    paths, reached = equally_wrong(PATHS, weights, {}, target)
    size = integer_bytes(paths, PATHS.kind)
    note = f"{size:,} for {bits / 8:,.0f} bytes of entropy; weights {reached:.3f} and {target:.3f} dB"
    return [
        coder,
        Row(f"trellis_{name}", 8 * size / bits, "of scalar bytes", ("<=", 0.952), 1, note),
        _stack_row(name, {known: weights[known] for known in moments}, moments),
    ]


def _stack_row(name: str, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> Row:
    record = matrices_of(RECORD, weights, moments)
    target = mean_decibels(weights, dequantize(record), moments)
    stack, reached = equally_wrong(STACK, weights, moments, target)
    old, new = len(pack(record, config={}, coder=BROTLI11)), len(pack(stack, config={}, kinds=(STACK.kind,)))
    note = f"{new:,} for {old:,} bytes, with scales; outputs {reached:.3f} and {target:.3f} dB"
    return Row(f"stack_{name}", new / old, "of bytes", ("<=", 0.92), 1, note)


def matrices_of(
    quantizer: BenchQuantizer, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor] | None = None
) -> Codes:
    """The codes of those tensors that the quantiser puts on its grid."""
    codes = quantize(weights, quantizer.plan(moments or {}), hessians=moments)
    return {name: coded for name, coded in codes.items() if isinstance(coded, Coded)}


def equally_wrong(
    quantizer: BenchQuantizer,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    target: float,  # decibels
) -> tuple[Codes, float]:
    """The codes with those steps at which the error comes up to the target, and their error in decibels."""

    def attempt(k: float) -> tuple[Codes, float]:
        codes = matrices_of(replace(quantizer, scale=replace(quantizer.scale, k=k)), weights, moments)
        return codes, mean_decibels(weights, dequantize(codes), moments)

    return _reach(attempt, target)


def _reach(attempt: Callable[[float], tuple[Codes, float]], target: float) -> tuple[Codes, float]:
    """The attempt that came closest from below; where steps are few, and jump, that is not as close as wanted."""
    k, best = K, None
    for _ in range(MOST_FITS):
        codes, reached = attempt(k)
        if reached <= target and (best is None or reached > best[1]):
            best = codes, reached
        if best and best[1] >= target - CLOSE_DECIBELS:
            break
        k *= 10 ** ((target - CLOSE_DECIBELS / 2 - reached) / 20)
    if best is None:
        raise RuntimeError(f"no steps found for {target:.3f} dB, the last were at {reached:.3f} dB")
    return best


def integer_bytes(codes: Codes, kind: GridKind) -> int:
    """What the integers take packed, their tables included and the scales not."""
    groups = read_layout(pack(codes, config={}, kinds=(kind,))).header.groups
    pairs = (pair for group in groups for pair in zip(kind.labels, group.stored, strict=True))
    return sum(size for label, size in pairs if label == "data")

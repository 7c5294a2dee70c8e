"""How fast the chunked delta rule is: against the reference, against causal attention, over the length; its memory.

Forward and backward in fp32, heads of 64, as many threads as OMP_NUM_THREADS says; forms take turns within a round.
"""

import time
from collections.abc import Callable
from itertools import accumulate
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.row import Row, median_row
from ops.delta_rule.chunked import chunked_delta_rule
from ops.delta_rule.reference import delta_rule_reference

HEADS = 4
HEAD_SIZE = 64
LENGTHS = (1024, 2048, 4096, 8192, 16384)
# The reference keeps every token's state for its backward: 64 KiB a token here.
TOKENS = 4096


def delta_rule_rows() -> list[Row]:
    """Every figure with its target, about four minutes on two cores."""
    return [
        _ratio_row("delta_rule_vs_reference", (">=", 25.0), delta_rule_reference, 1, 2048, rounds=15),
        _growth_row(),
        _ratio_row("delta_rule_vs_sdpa_2048", (">=", 1.0), fused_attention, 1, 2048, rounds=9),
        _ratio_row("delta_rule_vs_sdpa_8192", (">=", 3.0), fused_attention, 1, 8192, rounds=5),
        _flatness_row(),
        _memory_row(),
    ]


def fused_attention(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor) -> tuple[Tensor]:
    """torch's own attention over the same heads."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return (F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2),)


def turn(form: Callable[..., tuple[Tensor, ...]], batch: int, length: int) -> Callable[[], float]:
    """A function that runs `form` forward and backward once on random heads and returns the seconds."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(batch, length, HEADS, HEAD_SIZE, generator=generator) for _ in range(3))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    beta, fade = torch.rand(2, batch, length, HEADS, generator=generator).unbind()
    arguments = [x.requires_grad_() for x in (q, k, v, beta, -0.1 * fade)]
    upstream = torch.randn(v.shape, generator=generator)

    def once() -> float:
        start = time.perf_counter()
        torch.autograd.grad(form(*arguments)[0], arguments, upstream, allow_unused=True)
        return time.perf_counter() - start

    return once


def in_turns(turns: list[Callable[[], float]], rounds: int) -> list[tuple[float, ...]]:
    """The seconds of each, a tuple a round, after one round that is not counted.

    A turn is two runs, of which the second counts: the first finds caches and heap as the other form left them.
    """

    def warm(once: Callable[[], float]) -> float:
        once()
        return once()

    return [tuple(warm(once) for once in turns) for _ in range(rounds + 1)][1:]


def _ratios(other: Callable[..., tuple[Tensor, ...]], batch: int, length: int, rounds: int) -> list[float]:
    seconds = in_turns([turn(other, batch, length), turn(chunked_delta_rule, batch, length)], rounds)
    return [theirs / ours for theirs, ours in seconds]


def _ratio_row(name: str, target: tuple[str, float], other: Callable, batch: int, length: int, rounds: int) -> Row:
    note = f"B={batch} T={length}, {HEADS} heads of {HEAD_SIZE}, fp32, {torch.get_num_threads()} threads"
    return median_row(name, _ratios(other, batch, length, rounds), "times as fast", target, note)


def _growth_row() -> Row:
    """How much the advantage over the reference grows with the length when the number of tokens stays."""
    speedups = {length: median(_ratios(delta_rule_reference, TOKENS // length, length, 3)) for length in (512, TOKENS)}
    note = ", ".join(f"T={length}: {speedup:.1f} times" for length, speedup in speedups.items())
    return Row("delta_rule_growth_with_length", speedups[TOKENS] / speedups[512], "times", (">=", 1.0), 3, note)


def _flatness_row() -> Row:
    """The largest time a token over the smallest, among lengths."""
    seconds = in_turns([turn(chunked_delta_rule, 1, length) for length in LENGTHS], 25)
    each = {length: median(column) / length for length, column in zip(LENGTHS, zip(*seconds, strict=True), strict=True)}
    note = "µs a token: " + ", ".join(f"T={length} {1e6 * value:.1f}" for length, value in each.items())
    return Row("delta_rule_time_a_token", max(each.values()) / min(each.values()), "max / min", ("<=", 1.15), 25, note)


def peak_tensor_bytes(once: Callable[[], float]) -> int:
    """The most bytes of tensors that `once` holds at a time, beyond those that it was made with."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        once()
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def _memory_row() -> Row:
    """The growth of that peak from T = 8192 to 16384 over twice that from 4096 to 8192: 1 if it is linear."""
    sizes = [peak_tensor_bytes(turn(chunked_delta_rule, 1, length)) for length in LENGTHS[2:]]
    first, second = sizes[1] - sizes[0], sizes[2] - sizes[1]
    note = (
        f"{second / LENGTHS[3] / HEADS:.0f} bytes a token and head beside the inputs, {sizes[2] / 2**20:.0f} MiB in all"
    )
    return Row("delta_rule_memory_growth", second / (2 * first), "of linear", ("<=", 1.1), 1, note)

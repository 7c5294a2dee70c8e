"""The delta rule as a model calls it on a GPU, in bf16, beside plain torch, attention and flash-linear-attention.

The shapes are those that flash-linear-attention publishes for its own kernels and FlashAttention-2 on a GB200; the
target of each is their ratio there, forward and backward. `make gpu` runs it, the comparison with plain torch first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.row import Row
from ops.delta_rule.bench import fused_attention
from ops.delta_rule.chunked import chunked_delta_rule
from ops.delta_rule.dispatch import delta_rule

try:
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule
except ImportError:
    chunk_gated_delta_rule = None

# Milliseconds of one call of a function, None where its memory does not suffice.
Clock = Callable[[Callable[[], object]], float | None]
# The largest relative RMS error against plain torch in fp32, output and gradients.
LARGEST_ERROR = 0.02


@dataclass(frozen=True)
class GpuShape:
    """A batch of sequences, and milliseconds forward and backward as published."""

    batch: int
    length: int
    heads: int
    head_size: int
    published_delta: float
    published_attention: float

    @property
    def name(self) -> str:
        """ "1x8192x96x128" """
        return f"{self.batch}x{self.length}x{self.heads}x{self.head_size}"


PUBLISHED = (
    GpuShape(1, 8192, 96, 128, 4.738, 15.371),
    GpuShape(2, 16384, 16, 128, 3.616, 19.960),
    GpuShape(4, 2048, 16, 128, 2.085, 0.902),
    GpuShape(4, 4096, 64, 128, 5.964, 10.815),
    GpuShape(8, 1024, 8, 64, 1.974, 0.477),
    GpuShape(8, 2048, 32, 256, 8.644, 6.748),
)
SMALL = (GpuShape(2, 200, 2, 128, 1.0, 1.0), GpuShape(1, 130, 2, 64, 1.0, 1.0), GpuShape(1, 65, 1, 256, 1.0, 1.0))


def delta_rule_gpu_rows(
    device: torch.device,
    clock: Clock,
    shapes: tuple[GpuShape, ...] = PUBLISHED,
    checked: tuple[GpuShape, ...] = SMALL,
) -> tuple[list[Row], str]:
    """A row a shape, attention's time over ours, and a table of all times.

    Raises RuntimeError when ours is wrong at one of the shapes to be `checked`.
    """
    check_on_device(device, checked)
    rows, lines = [], [f"{'B x T x H x D':<18}{'form':<10}{'forward ms':>12}{'with backward':>15}"]
    for shape in shapes:
        times = {name: timed_form(form, gpu_arguments(shape, device), clock) for name, form in _forms().items()}
        lines += [f"{shape.name:<18}{name:<10}{_shown(a):>12}{_shown(b):>15}" for name, (a, b) in times.items()]
        (_, ours), (_, attention) = times["ours"], times["attention"]
        if ours and attention:
            target = (">=", shape.published_attention / shape.published_delta)
            rows.append(Row(f"delta_rule_{shape.name}", attention / ours, "x attention", target, 1, f"{ours:.3f} ms"))
    return rows, "\n".join(lines)


def check_on_device(device: torch.device, shapes: tuple[GpuShape, ...]) -> None:
    """Raises RuntimeError when our output or gradient is further from plain torch in fp32 than it may be."""
    for shape in shapes:
        low = gpu_arguments(shape, device)
        wide = [x.detach().float().requires_grad_() for x in low]
        got, wanted = _with_gradients(delta_rule, low), _with_gradients(chunked_delta_rule, wide)
        for name, x, y in zip(("output", "q", "k", "v", "beta", "g"), got, wanted, strict=True):
            error = ((x.float() - y).norm() / y.norm()).item()
            if not error <= LARGEST_ERROR:
                off = f"{error:.2g} off at {shape.name}, at most {LARGEST_ERROR}"
                raise RuntimeError(f"the delta rule's {name} is {off}")


def gpu_arguments(shape: GpuShape, device: torch.device) -> list[Tensor]:
    """Random q, k, v in bf16, beta and g in fp32, with normalised keys, as leaves."""
    generator = torch.Generator(device).manual_seed(0)
    size = (shape.batch, shape.length, shape.heads)
    q, k, v = (torch.randn(*size, shape.head_size, device=device, generator=generator) for _ in range(3))
    beta, fade = (torch.rand(size, device=device, generator=generator) for _ in range(2))
    vectors = (x.bfloat16() for x in (F.normalize(q, dim=-1), F.normalize(k, dim=-1), v))
    return [x.requires_grad_() for x in (*vectors, beta, -0.1 * fade)]


def timed_form(form: Callable, arguments: list[Tensor], clock: Clock) -> tuple[float | None, float | None]:
    """Milliseconds forward, without gradients, and forward and backward."""

    def forward() -> None:
        with torch.no_grad():
            form(*arguments)

    return clock(forward), clock(lambda: _with_gradients(form, arguments))


def cuda_milliseconds(work: Callable[[], object], repeats: int = 20) -> float | None:
    """The median time of one call by CUDA's own events, after three that are not counted; None without the memory."""
    try:
        for _ in range(3):
            work()
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
        for start, end in events:
            start.record()
            work()
            end.record()
        torch.cuda.synchronize()
        return median(start.elapsed_time(end) for start, end in events)
    except torch.cuda.OutOfMemoryError:
        return None


def _forms() -> dict[str, Callable]:
    forms = {"ours": delta_rule, "chunked": chunked_delta_rule, "attention": fused_attention}
    return forms | ({"fla": _flash_linear_attention} if chunk_gated_delta_rule else {})


def _flash_linear_attention(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    return chunk_gated_delta_rule(q=q, k=k, v=v, g=g, beta=beta, output_final_state=True)


def _with_gradients(form: Callable, arguments: list[Tensor]) -> tuple[Tensor | None, ...]:
    output = form(*arguments)[0]
    return output, *torch.autograd.grad(output, arguments, torch.ones_like(output), allow_unused=True)


def _shown(milliseconds: float | None) -> str:
    return "no memory" if milliseconds is None else f"{milliseconds:.3f}"

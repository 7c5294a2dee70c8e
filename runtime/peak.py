"""What the device can do at best: the measured rate of a large matrix product, the yardstick for "share of peak"."""

import time

import torch


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

    def seconds() -> float:
        start = time.perf_counter()
        a @ a
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return 2 * size**3 / min(seconds() for _ in range(repeats + 1))

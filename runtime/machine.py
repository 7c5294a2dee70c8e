"""The machine a run stands on: its ranks, its device, the dtype it computes in, and its collectives.

torchrun is the distributed engine; this file only reads what it says. NCCL joins CUDA ranks, gloo joins CPU ranks, and
every collective is the identity on one rank, so that one rank and many take the same path.
"""

import atexit
import ctypes
import os
import resource
import sys
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from runtime.peak import matmul_peak

# A CPU computes in bf16 only where that is clearly the faster product: some CPUs list AVX512-BF16 and are slower in it.
BF16_ADVANTAGE = 1.2


@dataclass(frozen=True)
class Machine:
    """One rank's view of the machine; `peak_flops` and `fp32_peak_flops` are matrix product rates, as measured.

    They are those of a rank's device, the fastest rank's on all ranks; `peak_flops`, the yardstick, is of bf16.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")
    compute_dtype: torch.dtype = torch.float32
    peak_flops: float | None = None
    fp32_peak_flops: float | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def hardware(self) -> str:
        """What the record says this ran on: "8x NVIDIA H100", "1 of 2 CPU cores (AVX512)"."""
        if self.on_cuda:
            return f"{self.world_size}x {torch.cuda.get_device_name(self.device)}"
        cores = os.cpu_count()
        used = min(cores, torch.get_num_threads() * self.world_size)
        return f"{used} of {cores} CPU cores ({torch.backends.cpu.get_cpu_capability()})"

    def computing_in(self, dtype: str | None) -> "Machine":
        """The same machine with this compute dtype ("bf16", "fp32"; None: its own)."""
        return replace(self, compute_dtype=_DTYPES[dtype]) if dtype else self

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sums `tensor` over the ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
        return tensor

    def max_(self, tensor: Tensor) -> Tensor:
        """The largest over the ranks, in place, elementwise."""
        if self.world_size > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor

    def gather(self, shard: Tensor) -> Tensor:
        """Concatenates each rank's `shard` [n, ...] in the order of the ranks: [world_size * n, ...]."""
        if self.world_size == 1:
            return shard
        whole = shard.new_empty((self.world_size * shard.shape[0], *shard.shape[1:]))
        dist.all_gather_into_tensor(whole, shard.contiguous())
        return whole

    def barrier(self) -> None:
        """Waits until every rank is here."""
        if self.world_size > 1:
            dist.barrier()

    def synchronize(self) -> None:
        """Waits until the device has done what was asked of it."""
        if self.on_cuda:
            torch.cuda.synchronize(self.device)

    def peak_memory_bytes(self) -> int:
        """The most memory this process has held: on the GPU where there is one, else resident."""
        if self.on_cuda:
            return torch.cuda.max_memory_allocated(self.device)
        # Linux counts in KiB, macOS in bytes.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def start_machine(compute_dtype: str | None = None) -> Machine:
    """Reads torchrun's environment, joins the ranks and measures what this device computes fastest in.

    `compute_dtype` ("bf16", "fp32") overrules the choice; a resumed run passes the one it started with.
    """
    rank, local_rank, world_size = (int(os.environ.get(name, default)) for name, default in _TORCHRUN)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    else:
        _keep_freed_memory()
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(minutes=10))
        atexit.register(_leave)
    machine = Machine(rank, local_rank, world_size, device)
    return _with_dtype(machine, compute_dtype)


_TORCHRUN = (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"))
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def dtype_name(dtype: torch.dtype) -> str:
    """ "bf16" or "fp32", the names that recipes and checkpoints use."""
    return next(name for name, known in _DTYPES.items() if known is dtype)


def _with_dtype(machine: Machine, chosen: str | None) -> Machine:
    # Of both in turn: a burst of other work may halve what is read, and a run would not compute as it does tomorrow.
    peaks = [[matmul_peak(machine.device, dtype) for dtype in _DTYPES.values()] for _ in range(3)]
    # Ranks must agree: the fastest rank's measurements decide for all of them.
    bf16, fp32 = machine.max_(torch.tensor(peaks, dtype=torch.float64, device=machine.device).amax(0)).tolist()
    fastest = "bf16" if machine.on_cuda or bf16 > BF16_ADVANTAGE * fp32 else "fp32"
    return replace(machine, peak_flops=bf16, fp32_peak_flops=fp32).computing_in(chosen or fastest)


def _keep_freed_memory() -> None:
    """Tells glibc to keep freed memory: the activations of each step then reuse warm pages.

    By default every tensor over 128 KiB is mapped anew and its pages are faulted in again, which costs more than the
    elementwise operation that fills it.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_top_pad, 64 * 2**20)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """Ends the process with this exit code; a rank on the CPU ends at once.

    Gloo's threads abort a rank now and then ("terminate called without an active exception") when it takes itself apart
    while its peers go too: once in six runs of two ranks on two busy cores.
    """
    if dist.is_initialized() and not torch.cuda.is_available():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)

"""The one place that imports Triton: `tl`, `jit` and what else a file of kernels is made of, with Triton or without.

Where there is no CUDA device, kernels run under Triton's interpreter, in NumPy: for tests only, and hundreds of times
slower than plain torch. Triton asks TRITON_INTERPRET when a function is decorated, and for its own library when it is
imported; so this file sets it, unless it is set, and must be imported before torch.compile imports Triton. On a CPU
torch.compile writes C++ and does not mind.
"""

import os
import warnings
from collections.abc import Callable

import torch

try:
    os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None
    if torch.cuda.is_available():
        warnings.warn("Triton is not installed: this GPU runs plain torch where there are faster kernels", stacklevel=2)

# The annotation of a kernel's compile-time arguments.
constexpr = tl.constexpr if triton else None
# For kernels, which see no other constants outside themselves.
INTERPRETED = constexpr(triton.knobs.runtime.interpret) if triton else None


def jit(function: Callable) -> Callable:
    """`triton.jit`; without Triton the function itself, which nobody can launch."""
    return triton.jit(function) if triton else function


def tuned(kernel: Callable) -> Callable:
    """A kernel whose warps and pipeline stages are timed once for each pair of head sizes (DK, DV) and each dtype.

    Nothing is timed under the interpreter.
    """
    if triton is None or INTERPRETED:
        return kernel
    choices = [triton.Config({}, num_warps=warps, num_stages=stages) for warps in (4, 8) for stages in (1, 2)]
    return triton.autotune(configs=choices, key=["DK", "DV"])(kernel)

"""TRITON_INTERPRET=0 python -m tests.hopper: compiles the delta rule's kernels for Hopper, which needs no GPU.

Prints for each kernel its name, the bytes of shared memory that it wants, and how many tensor core instructions it has.
"""

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ops.delta_rule.kernel import kernel_sizes, walk_sizes
from ops.delta_rule.kernel_backward import gradients_kernel, local_kernel, state_gradients_kernel
from ops.delta_rule.kernel_forward import outputs_kernel, project_kernel, solve_kernel, states_kernel

HOPPER = GPUTarget("cuda", 90, 32)
WALKS = (states_kernel, state_gradients_kernel)
KERNELS = (solve_kernel, project_kernel, *WALKS, outputs_kernel, local_kernel, gradients_kernel)
IN_FP32 = ["beta", "g", "cumulative", "recall", "inverse", "state", "final", "d_final", "d_state", "d_beta", "d_g"]


def type_of(name: str) -> str:
    """The type of a kernel's argument as Triton writes it, for q, k and v in bf16."""
    special = {"T": "i32", "scale": "fp32", "segment": "*i32"}
    return special.get(name, "*fp32" if name in IN_FP32 else "*bf16")


def compiled(kernel, k, v):
    """The kernel for heads as those of k and v, with the most warps and stages that are tried."""
    function = kernel.fn
    sizes = (walk_sizes if kernel in WALKS else kernel_sizes)(k, v)
    constants = {name: value for name, value in {**sizes, "UNDECAYED": True}.items() if name != "T"}
    names = function.arg_names
    signature = {name: "constexpr" if name in constants else type_of(name) for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")}
    values = {(names.index(name),): value for name, value in constants.items() if name in names}
    source = ASTSource(fn=function, signature=signature, constexprs=values, attrs=aligned)
    return triton.compile(source, target=HOPPER, options={"num_warps": 8, "num_stages": 2})


if __name__ == "__main__":
    k = v = torch.empty(1, 1, 4, 128, dtype=torch.bfloat16)
    for kernel in KERNELS:
        done = compiled(kernel, k, v)
        print(kernel.fn.__name__, done.metadata.shared, done.asm["ptx"].count("wgmma.mma_async"))

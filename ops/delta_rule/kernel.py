"""The delta rule on a GPU: chunks of 64 tokens in Triton kernels, as an operator that torch.compile leaves whole.

Kept for the backward: the arguments, the inverse of every chunk and the cumulative decays; the rest is computed again.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ops.delta_rule.arguments import check_delta_rule
from ops.delta_rule.kernel_backward import gradients_kernel, local_kernel, state_gradients_kernel
from ops.delta_rule.kernel_forward import outputs_kernel, project_kernel, solve_kernel, states_kernel
from runtime.errors import UserError

KERNEL_CHUNK = 64
LARGEST_HEAD = 256


def kernel_delta_rule(
    q: Tensor,  # [B, T, H, Dk]
    k: Tensor,  # [B, T, H, Dk]
    v: Tensor,  # [B, T, Hv, Dv], in fp16, bf16 or fp32
    beta: Tensor,  # [B, T, Hv]
    g: Tensor | None = None,  # [B, T, Hv]
    state: Tensor | None = None,  # [B, Hv, Dk, Dv] fp32
    *,
    scale: float | None = None,
    predict_from: str = "decayed",
    starts: Tensor | None = None,  # [B, T] bool
) -> tuple[Tensor, Tensor]:  # [B, T, Hv, Dv] in v's dtype; [B, Hv, Dk, Dv] fp32
    """What `delta_rule_reference` returns, on CUDA (and on a CPU under Triton's interpreter, for tests).

    Raises UserError as it does, for values in fp64, and for heads larger than 256.
    """
    check_delta_rule(q, k, v, beta, g, state, predict_from, starts)
    B, T, Hv, Dv = v.shape
    Dk = k.shape[-1]
    if v.dtype == torch.float64:
        raise UserError("the delta rule's kernels take fp16, bf16 or fp32, got torch.float64; nearest torch.float32")
    if max(Dk, Dv) > LARGEST_HEAD:
        raise UserError(
            f"the delta rule's kernels take heads of at most {LARGEST_HEAD}, got {Dk} and {Dv}; "
            f"nearest {min(Dk, LARGEST_HEAD)} and {min(Dv, LARGEST_HEAD)}"
        )
    g = v.new_zeros(B, T, Hv, dtype=torch.float32) if g is None else g.float()
    state = v.new_zeros(B, Hv, Dk, Dv, dtype=torch.float32) if state is None else state
    segment = v.new_zeros(B, T, dtype=torch.int32) if starts is None else starts.cumsum(1, dtype=torch.int32)
    tensors = (x.contiguous() for x in (q, k, v, beta.float(), g, state, segment))
    return _KernelDeltaRule.apply(*tensors, Dk**-0.5 if scale is None else scale, predict_from == "undecayed")


class _KernelDeltaRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *arguments: Tensor | float | bool) -> tuple[Tensor, Tensor]:
        *tensors, scale, undecayed = arguments
        output, final, *kept = delta_rule_forward(*tensors, scale, undecayed)
        ctx.save_for_backward(*tensors, *kept)
        ctx.settings = scale, undecayed
        return output, final

    @staticmethod
    @once_differentiable
    def backward(ctx, d_output: Tensor, d_final: Tensor) -> tuple[Tensor | None, ...]:
        gradients = delta_rule_backward(*ctx.saved_tensors, d_output.contiguous(), d_final.contiguous(), *ctx.settings)
        # None for the segments, the scale and the flag.
        return *gradients, None, None, None


@torch.library.custom_op("sixteen::delta_rule_forward", mutates_args=())
def delta_rule_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor,
    state: Tensor,
    segment: Tensor,  # [B, T] int32, counts the resets of the state
    scale: float,
    undecayed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Output, last state, and for the backward the inverses [B, T, Hv, C] and two cumulative decays [B, T, Hv]."""
    sizes, (chunks, owners) = kernel_sizes(k, v), _chunks_and_owners(v)
    output, final, inverse, cumulative, recall = _empty_results(v, state)
    solve_kernel[chunks, owners](k, beta, g, segment, cumulative, recall, inverse, UNDECAYED=undecayed, **sizes)
    _, written, states = _walked(k, v, beta, state, segment, inverse, cumulative, recall, final)
    blocks = -(-v.shape[-1] // sizes["BV"])
    outputs_kernel[blocks, chunks, owners](q, k, segment, cumulative, written, states, output, scale, **sizes)
    return output, final, inverse, cumulative, recall


@torch.library.custom_op("sixteen::delta_rule_backward", mutates_args=())
def delta_rule_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor,
    state: Tensor,
    segment: Tensor,
    inverse: Tensor,
    cumulative: Tensor,
    recall: Tensor,
    d_output: Tensor,
    d_final: Tensor,
    scale: float,
    undecayed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v, beta, g and state."""
    sizes, walk, (chunks, owners) = kernel_sizes(k, v), walk_sizes(k, v), _chunks_and_owners(v)
    w, written, states = _walked(k, v, beta, state, segment, inverse, cumulative, recall, torch.empty_like(state))
    d_local, d_written, d_states, d_state = (torch.empty_like(x) for x in (v, v, states, state))
    local_kernel[chunks, owners](q, k, segment, cumulative, d_output, d_local, scale, **sizes)
    state_gradients_kernel[-(-v.shape[-1] // walk["BV"]), owners](
        *(q, k, w, segment, cumulative, d_output, d_local, d_final, d_written, d_states, d_state, scale), **walk
    )
    # Value heads that share a key head add up, so they are not rounded before.
    (B, T, H, Dk), Hv = k.shape, v.shape[2]
    d_q, d_k = (k.new_empty(B, T, Hv, Dk, dtype=k.dtype if Hv == H else torch.float32) for _ in range(2))
    d_v, d_beta, d_g = (torch.empty_like(x) for x in (v, beta, g))
    gradients_kernel[chunks, owners](
        *(q, k, v, beta, segment, cumulative, recall, inverse, written, states, d_output, d_written, d_states),
        *(d_q, d_k, d_v, d_beta, d_g, scale),
        UNDECAYED=undecayed,
        **sizes,
    )
    if Hv != H:
        d_q, d_k = (x.view(B, T, H, Hv // H, Dk).sum(3).to(k.dtype) for x in (d_q, d_k))
    return d_q, d_k, d_v, d_beta, d_g, d_state


@delta_rule_forward.register_fake
def _(q, k, v, beta, g, state, segment, scale, undecayed):
    return _empty_results(v, state)


@delta_rule_backward.register_fake
def _(q, k, v, beta, g, state, segment, inverse, cumulative, recall, d_output, d_final, scale, undecayed):
    return tuple(torch.empty_like(x) for x in (q, k, v, beta, g, state))


def _empty_results(v: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    B, T, Hv, _ = v.shape
    sizes = ((B, T, Hv, KERNEL_CHUNK), (B, T, Hv), (B, T, Hv))
    return torch.empty_like(v), torch.empty_like(state), *(v.new_empty(size, dtype=torch.float32) for size in sizes)


def _walked(
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    state: Tensor,
    segment: Tensor,
    inverse: Tensor,
    cumulative: Tensor,
    recall: Tensor,
    final: Tensor,  # written: the last state
) -> tuple[Tensor, Tensor, Tensor]:  # W [B, T, Hv, Dk], N [B, T, Hv, Dv], states [B, Hv, chunks, Dk, Dv]
    """What the keys recall and write, and the state before every chunk."""
    walk, (chunks, owners) = walk_sizes(k, v), _chunks_and_owners(v)
    (B, T, Hv, Dv), Dk = v.shape, k.shape[-1]
    w, u, written = k.new_empty(B, T, Hv, Dk), torch.empty_like(v), torch.empty_like(v)
    states = v.new_empty(B, Hv, chunks, Dk, Dv)
    project_kernel[chunks, owners](k, v, beta, segment, recall, inverse, w, u, **kernel_sizes(k, v))
    states_kernel[-(-Dv // walk["BV"]), owners](k, w, u, segment, cumulative, state, written, states, final, **walk)
    return w, written, states


def _chunks_and_owners(v: Tensor) -> tuple[int, int]:
    """How many chunks a sequence has, and how many states there are."""
    B, T, Hv, _ = v.shape
    return -(-T // KERNEL_CHUNK), B * Hv


def walk_sizes(k: Tensor, v: Tensor) -> dict[str, int]:
    """The sizes for a kernel that goes from chunk to chunk: it holds all of the keys and few of the values."""
    return {
        **kernel_sizes(k, v),
        "BK": _block(k.shape[-1], LARGEST_HEAD),
        "BV": _block(v.shape[-1], 64 // v.element_size()),
    }


def kernel_sizes(k: Tensor, v: Tensor) -> dict[str, int]:
    """The sizes for a kernel that does all chunks at once, by blocks of keys and of values."""
    (T, H, Dk), (Hv, Dv), block = k.shape[1:], v.shape[2:], 128 // v.element_size()
    blocks = {"BK": _block(Dk, block), "BV": _block(Dv, block)}
    return {"T": T, "H": H, "HV": Hv, "DK": Dk, "DV": Dv, "C": KERNEL_CHUNK, **blocks}


def _block(size: int, most: int) -> int:
    """The power of two that holds `size`, at most `most`, and at least 16: less is no tensor core product."""
    return max(16, min(most, 1 << (size - 1).bit_length()))

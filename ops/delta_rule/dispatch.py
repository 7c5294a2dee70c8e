"""The delta rule as a model calls it: the form that is fastest where the tensors are."""

from torch import Tensor

from ops.delta_rule.chunked import chunked_delta_rule
from ops.delta_rule.padded import SOUND_HEAD, padded_kernel_delta_rule
from ops.delta_rule.step import delta_rule_step
from ops.triton_or_none import triton


def delta_rule(
    q: Tensor,  # [B, T, H, Dk], normalised by the caller
    k: Tensor,  # [B, T, H, Dk], of length one
    v: Tensor,  # [B, T, Hv, Dv]
    beta: Tensor,  # [B, T, Hv]
    g: Tensor | None = None,  # [B, T, Hv], log decay, at most 0; None: no decay
    state: Tensor | None = None,  # [B, Hv, Dk, Dv] in fp32 (fp64 for fp64 values); None: zeros
    *,
    scale: float | None = None,  # None: Dk ** -0.5
    predict_from: str = "decayed",  # or "undecayed"
    starts: Tensor | None = None,  # [B, T] bool: the state is emptied before this token
) -> tuple[Tensor, Tensor]:  # [B, T, Hv, Dv] in v's dtype; [B, Hv, Dk, Dv]
    """What `delta_rule_reference` returns: one token by a step, on CUDA by the kernels, else by chunks.

    Raises UserError as the reference does.
    """
    if v.shape[1:2] == (1,) and starts is None:
        return delta_rule_step(q, k, v, beta, g, state, scale=scale, predict_from=predict_from)
    form = padded_kernel_delta_rule if _has_kernel(k, v) else chunked_delta_rule
    return form(q, k, v, beta, g, state, scale=scale, predict_from=predict_from, starts=starts)


def _has_kernel(k: Tensor, v: Tensor) -> bool:
    return triton is not None and v.is_cuda and v.element_size() <= 4 and max(k.shape[-1], v.shape[-1]) <= SOUND_HEAD

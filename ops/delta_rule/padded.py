"""The kernels for heads of up to 128, as heads of 128: padded with zeros, which add nothing to any product.

Heads of 128 were right on a GPU; with heads of 64 a kernel of the backward read beyond its shared memory
(benchmarks/h200.md). Padded ones take the time and the memory of heads of 128.
"""

import torch.nn.functional as F
from torch import Tensor

from ops.delta_rule.arguments import check_delta_rule
from ops.delta_rule.kernel import kernel_delta_rule
from runtime.errors import UserError

SOUND_HEAD = 128


def padded_kernel_delta_rule(
    q: Tensor,  # [B, T, H, Dk]
    k: Tensor,  # [B, T, H, Dk]
    v: Tensor,  # [B, T, Hv, Dv], in fp16, bf16 or fp32
    beta: Tensor,  # [B, T, Hv]
    g: Tensor | None = None,  # [B, T, Hv]
    state: Tensor | None = None,  # [B, Hv, Dk, Dv] fp32
    *,
    scale: float | None = None,  # None: Dk ** -0.5
    predict_from: str = "decayed",
    starts: Tensor | None = None,  # [B, T] bool
) -> tuple[Tensor, Tensor]:  # [B, T, Hv, Dv] in v's dtype; [B, Hv, Dk, Dv] fp32
    """What `kernel_delta_rule` returns, and its errors; a UserError for heads larger than 128."""
    check_delta_rule(q, k, v, beta, g, state, predict_from, starts)
    Dk, Dv = k.shape[-1], v.shape[-1]
    if max(Dk, Dv) > SOUND_HEAD:
        raise UserError(
            f"the delta rule's kernels were right on a GPU with heads of at most {SOUND_HEAD}, got {Dk} and {Dv}; "
            f"nearest {min(Dk, SOUND_HEAD)} and {min(Dv, SOUND_HEAD)}"
        )
    if state is not None:
        state = F.pad(state, (0, SOUND_HEAD - Dv, 0, SOUND_HEAD - Dk))
    output, final = kernel_delta_rule(
        *(F.pad(x, (0, SOUND_HEAD - x.shape[-1])) for x in (q, k, v)),
        *(beta, g, state),
        scale=Dk**-0.5 if scale is None else scale,
        predict_from=predict_from,
        starts=starts,
    )
    return output[..., :Dv], final[..., :Dk, :Dv]

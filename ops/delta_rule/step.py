"""One token of the delta rule, for decoding: what `delta_rule_reference` does once, by autograd's own backward."""

import torch
from torch import Tensor

from ops.delta_rule.arguments import check_delta_rule, state_dtype
from runtime.errors import UserError


def delta_rule_step(
    q: Tensor,  # [B, 1, H, Dk]
    k: Tensor,  # [B, 1, H, Dk]
    v: Tensor,  # [B, 1, Hv, Dv]
    beta: Tensor,  # [B, 1, Hv]
    g: Tensor | None = None,  # [B, 1, Hv]
    state: Tensor | None = None,  # [B, Hv, Dk, Dv]
    *,
    scale: float | None = None,
    predict_from: str = "decayed",
) -> tuple[Tensor, Tensor]:  # [B, 1, Hv, Dv] in v's dtype; [B, Hv, Dk, Dv]
    """What the token reads and the state after it; `state` itself stays as it was.

    Raises UserError as `delta_rule_reference` does, and for more than one token.
    """
    check_delta_rule(q, k, v, beta, g, state, predict_from, None)
    (B, T, H, Dk), (Hv, Dv) = q.shape, v.shape[2:]
    if T != 1:
        raise UserError(f"a step of the delta rule takes one token, got {T}; nearest 1")
    S = v.new_zeros(B, Hv, Dk, Dv, dtype=state_dtype(v)) if state is None else state
    q, k, v_wide, beta = (x.squeeze(1).to(S.dtype) for x in (q, k, v, beta))
    q, k = (x.repeat_interleave(Hv // H, dim=1) for x in (q, k))
    decayed = S if g is None else S * g.squeeze(1).to(S.dtype).exp()[..., None, None]
    recalled = torch.matmul(k[:, :, None], decayed if predict_from == "decayed" else S)
    write = beta[..., None, None] * (v_wide[:, :, None] - recalled)
    S = torch.addcmul(decayed, k[..., None], write)
    read = torch.matmul(q[:, :, None], S) * (Dk**-0.5 if scale is None else scale)
    return read.transpose(1, 2).to(v.dtype), S

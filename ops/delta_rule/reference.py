"""The delta rule as the papers write it: a matrix that forgets, is corrected towards each key's value, and is asked.

Per head, with row vectors, S [Dk, Dv] and the decay a = exp(g):

    S' = a S                              what is left of the memory
    S  <- S' + beta kᵀ (v - k S')         the value that k recalls moves towards v by beta
    o  = scale q S

With g = 0 this is DeltaNet, with g < 0 Gated DeltaNet. Imli recalls from the memory before its decay: v - k S. A new
document starts from an empty memory.

1. Schlag et al. 2021, arXiv 2102.11174.  2. Yang et al. 2024, DeltaNet, arXiv 2406.06484.
3. Yang et al. 2025, Gated DeltaNet, arXiv 2412.06464.
"""

import torch
from torch import Tensor

from ops.delta_rule.arguments import check_delta_rule, state_dtype


def delta_rule_reference(
    q: Tensor,  # [B, T, H, Dk], normalised by the caller
    k: Tensor,  # [B, T, H, Dk], of length one
    v: Tensor,  # [B, T, Hv, Dv]; value head j listens to key head j // (Hv / H)
    beta: Tensor,  # [B, T, Hv], how much of the error is written: 0 to 1, up to 2 for negative eigenvalues
    g: Tensor | None = None,  # [B, T, Hv], log decay, at most 0; None: no decay
    state: Tensor | None = None,  # [B, Hv, Dk, Dv] in fp32 (fp64 for fp64 values); None: zeros
    *,
    scale: float | None = None,  # None: Dk ** -0.5
    predict_from: str = "decayed",  # or "undecayed"
    starts: Tensor | None = None,  # [B, T] bool: the state is emptied before this token
) -> tuple[Tensor, Tensor]:  # [B, T, Hv, Dv] in v's dtype; [B, Hv, Dk, Dv]
    """What each token reads and the state after the last one, a token at a time, by autograd's own backward.

    Raises UserError for shapes and dtypes that do not fit, and for g > 0.
    """
    check_delta_rule(q, k, v, beta, g, state, predict_from, starts)
    B, T, H, Dk = q.shape
    Hv, Dv = v.shape[2:]
    wide = state_dtype(v)
    S = torch.zeros(B, Hv, Dk, Dv, dtype=wide, device=v.device) if state is None else state
    q, k = (x.to(wide).repeat_interleave(Hv // H, dim=2) for x in (q, k))
    q = q * (Dk**-0.5 if scale is None else scale)
    decay = torch.ones_like(beta, dtype=wide) if g is None else g.to(wide).exp()
    resets = [None] * T if starts is None else starts.unbind(1)
    # unbind, because the backward of a slice would fill the whole of every tensor again for each token.
    tokens = zip(*(x.unbind(1) for x in (q, k, v, beta, decay)), resets, strict=True)
    outputs = []
    for q_t, k_t, v_t, beta_t, decay_t, reset in tokens:
        S = S if reset is None else S.masked_fill(reset[:, None, None, None], 0.0)
        decayed = decay_t[..., None, None] * S
        recalled = k_t[:, :, None] @ (decayed if predict_from == "decayed" else S)
        write = beta_t[..., None, None] * (v_t[:, :, None] - recalled)
        S = decayed + k_t[..., None] * write
        outputs.append(q_t[:, :, None] @ S)
    return torch.cat(outputs, dim=2).transpose(1, 2).to(v.dtype), S

"""What every form of the delta rule accepts, said in one line when it is something else."""

import torch
from torch import Tensor

from runtime.errors import UserError, nearest, nearest_multiple

# What a token's new value is held against: the memory after its decay (the papers) or before it (Imli).
PREDICTIONS = ("decayed", "undecayed")


def check_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None,
    state: Tensor | None,
    predict_from: str,
    starts: Tensor | None,
) -> None:
    """Raises UserError unless the arguments are those of `delta_rule_reference`.

    The values of g are looked at on a CPU only, and not under torch.compile: it makes a GPU wait, and breaks a graph.
    """
    if predict_from not in PREDICTIONS:
        raise UserError(f"unknown predict_from {predict_from!r}; {nearest(predict_from, PREDICTIONS)}")
    if q.dim() != 4 or v.dim() != 4:
        raise UserError(f"q and v are [B, T, heads, head size], got {tuple(q.shape)} and {tuple(v.shape)}")
    B, T, H, Dk = q.shape
    Hv, Dv = v.shape[2:]
    if T == 0:
        raise UserError("the delta rule needs at least one token, got T = 0; nearest 1")
    if Hv % H:
        raise UserError(
            f"value heads must be a multiple of the {H} key heads, got {Hv}; nearest {nearest_multiple(Hv, H)}"
        )
    _check_shape("k", k, (B, T, H, Dk))
    _check_shape("v", v, (B, T, Hv, Dv))
    _check_shape("beta", beta, (B, T, Hv))
    _check_shape("g", g, (B, T, Hv))
    _check_shape("starts", starts, (B, T))
    _check_shape("state", state, (B, Hv, Dk, Dv))
    _check_dtypes(q, k, v, beta, g, state, starts)
    if g is not None and g.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_log_decay(g)


def state_dtype(v: Tensor) -> torch.dtype:
    """What the state and every sum are in: fp32, and fp64 where the values are."""
    return torch.float64 if v.dtype == torch.float64 else torch.float32


def _check_shape(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    if tensor is not None and tensor.shape != shape:
        raise UserError(f"{name} must have the shape {shape} that q and v give it, got {tuple(tensor.shape)}")


def _check_log_decay(g: Tensor) -> None:
    least, most = g.detach().aminmax()
    if most > 0 or least == -torch.inf:
        got, near = (most, 0) if most > 0 else (least, -100)
        raise UserError(f"g is a log decay, finite and at most 0, got {got.item():.6g}; nearest {near}")


def _check_dtypes(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None, state: Tensor | None, starts: Tensor | None
) -> None:
    allowed = {
        "v": (v, {torch.float16, torch.bfloat16, torch.float32, torch.float64}),
        "q": (q, {v.dtype}),
        "k": (k, {v.dtype}),
        "beta": (beta, {v.dtype, torch.float32}),
        "g": (g, {v.dtype, torch.float32}),
        "state": (state, {state_dtype(v)}),
        "starts": (starts, {torch.bool}),
    }
    for name, (tensor, dtypes) in allowed.items():
        if tensor is not None and tensor.dtype not in dtypes:
            known = " or ".join(sorted(str(dtype) for dtype in dtypes))
            raise UserError(f"{name} must be {known} beside values in {v.dtype}, got {tensor.dtype}")

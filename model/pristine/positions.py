"""What tells an attention head where a token stands: rotation, nothing at all, or a ramp added to the keys.

Rotary turns queries and keys by their positions; NoPE leaves them as they are; linspace adds to the keys alone,
k_t <- k_t + r_t s, with r from the window's offset to offset + 0.1 over a window and a learned s.

1. Su et al. 2021, RoFormer, arXiv 2104.09864.  2. Kazemnejad et al. 2023, NoPE, arXiv 2305.19466.
3. BakaLLM, the author's post, part 4 (linspace).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ops.rotary.pairs import pair_angles, turned_pairs


@dataclass(frozen=True)
class RotaryConfig:
    """`base` is the longest wavelength's."""

    base: float = 10_000.0

    def build(self, head_dim: int, window: int) -> "RotaryPositions":
        return RotaryPositions(self.base)


@dataclass(frozen=True)
class NopeConfig:
    """Positions are nowhere."""

    def build(self, head_dim: int, window: int) -> "NoPositions":
        return NoPositions()


@dataclass(frozen=True)
class LinspaceConfig:
    """`edge` is how far the ramp rises over a window."""

    edge: float = 0.1

    def build(self, head_dim: int, window: int) -> "LinspacePositions":
        return LinspacePositions(self.edge, head_dim, window)


PositionsConfig = RotaryConfig | NopeConfig | LinspaceConfig


class NoPositions(nn.Module):
    """q, k = positions(q, k, rows, offset): [B, H, T, head_dim] twice, [T] rows in the window, 0-d offset of it."""

    def forward(self, q: Tensor, k: Tensor, rows: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        return q, k


class RotaryPositions(nn.Module):
    """The same; angles in fp32 or wider, whatever the dtype of q and k."""

    def __init__(self, base: float) -> None:
        super().__init__()
        self.base = base

    def forward(self, q: Tensor, k: Tensor, rows: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.float64 if q.dtype == torch.float64 else torch.float32
        angles = pair_angles(rows + offset, q.shape[-1], self.base, wide)
        return turned_pairs(q, angles), turned_pairs(k, angles)


class LinspacePositions(nn.Module):
    """The same; only k changes, and all heads share the scale."""

    def __init__(self, edge: float, head_dim: int, window: int) -> None:
        super().__init__()
        self.step = edge / max(1, window - 1)
        self.scale = nn.Parameter(torch.ones(head_dim))

    def forward(self, q: Tensor, k: Tensor, rows: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        ramp = (offset + rows * self.step)[:, None] * self.scale
        return q, k + ramp.to(k.dtype)

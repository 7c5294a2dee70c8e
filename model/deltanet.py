"""DeltaNet and Gated DeltaNet: a memory of fixed size a head, corrected towards each key's value (ops/delta_rule).

    q, k, v = SiLU(conv(W x));  q, k of length one;  beta = sigmoid(W x);  y = W_out readout(delta rule, x)

1. Yang et al. 2024, DeltaNet, arXiv 2406.06484.  2. Yang et al. 2025, Gated DeltaNet, arXiv 2412.06464.
3. Grazzi et al. 2025, negative eigenvalues, arXiv 2411.12537.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from model.bit_linear import BitLinearConfig, LinearConfig
from model.convolved import ConvolvedMixer, MemoryState
from model.decay import NoDecayConfig, SigmoidDecayConfig, StepDecayConfig
from model.readout import NormedReadoutConfig, SigmoidReadoutConfig
from ops.delta_rule.dispatch import delta_rule
from ops.rms_norm.fused import l2_norm
from runtime.errors import UserError, check_positive, nearest_multiple


@dataclass(frozen=True)
class DeltaNetConfig:
    """Gated DeltaNet as published; keys are `expand_k` x width wide and values `expand_v` x width, all heads together.

    Imli has `l2_eps` 1e-24, which stands for a division by max(|x|, 1e-12), and `q_scale` 1.
    """

    num_heads: int = 4
    num_value_heads: int | None = None  # None: num_heads; a multiple of it shares keys among values
    expand_k: float = 0.75
    expand_v: float = 1.5
    conv_size: int = 4
    decay: StepDecayConfig | SigmoidDecayConfig | NoDecayConfig = StepDecayConfig()
    readout: NormedReadoutConfig | SigmoidReadoutConfig = NormedReadoutConfig()
    linear: LinearConfig | BitLinearConfig = LinearConfig()
    predict_from: Literal["decayed", "undecayed"] = "decayed"
    q_scale: float | None = None  # None: Dk ** -0.5
    l2_eps: float = 1e-6
    largest_beta: float = 1.0  # 2 allows negative eigenvalues
    gate_init_std: float | None = None  # of the matrices of beta and the decay; None: as all others
    has_bounded_state: ClassVar[bool] = True

    def build(self, dim: int) -> "DeltaNet":
        self.head_sizes(dim)
        return DeltaNet(self, dim)

    def mixing_flops(self, dim: int, window: int) -> float:
        """Forward operations a token beyond the matrices: taps, and recall, write and read of the recurrence."""
        Hv, Dk, Dv = self.value_heads, *self.head_sizes(dim)
        channels = 2 * self.num_heads * Dk + Hv * Dv
        return 2 * channels * self.conv_size + 3 * 2 * Hv * Dk * Dv

    @property
    def value_heads(self) -> int:
        """Heads of the values, and so of the memory."""
        return self.num_heads if self.num_value_heads is None else self.num_value_heads

    def head_sizes(self, dim: int) -> tuple[int, int]:
        """Dk and Dv at this width. Raises UserError where heads do not divide."""
        check_positive("num_heads", self.num_heads)
        check_positive("num_value_heads", self.value_heads)
        if self.value_heads % self.num_heads:
            raise UserError(
                f"value heads must be a multiple of the {self.num_heads} key heads, got {self.value_heads}; "
                f"nearest {nearest_multiple(self.value_heads, self.num_heads)}"
            )
        return (
            _head_size("expand_k", self.expand_k, dim, self.num_heads),
            _head_size("expand_v", self.expand_v, dim, self.value_heads),
        )


class DeltaNet(ConvolvedMixer):
    """A mixer: y, state = mixer(x, state) with x and y [B, T, dim]."""

    def __init__(self, config: DeltaNetConfig, dim: int) -> None:
        (Dk, Dv), linear = config.head_sizes(dim), config.linear
        values = config.value_heads * Dv
        super().__init__(dim, config.num_heads * Dk, values, config.conv_size, linear)
        self.config, self.Dk, self.Dv = config, Dk, Dv
        self.beta = linear.build(dim, config.value_heads)
        self.decay = config.decay.build(dim, config.value_heads, linear)
        self.readout = config.readout.build(dim, config.value_heads, Dv, linear)
        self.project = linear.build(values, dim, zero_init=True)

    def reset_parameters(self) -> None:
        if self.config.gate_init_std is not None:
            for gate in (self.beta, *self.decay.children()):
                nn.init.normal_(gate.weight, std=self.config.gate_init_std)

    def forward(
        self,
        x: Tensor,  # [B, T, dim]
        state: MemoryState | None = None,  # of what came before x; None at the start of a text
    ) -> tuple[Tensor, MemoryState]:
        q, k, v, tails, S = self.convolved(x, state)
        q, k = (l2_norm(part.unflatten(-1, (-1, self.Dk)), self.config.l2_eps) for part in (q, k))
        v = v.unflatten(-1, (-1, self.Dv))
        beta = self.config.largest_beta * torch.sigmoid(self.beta(x))
        o, S = delta_rule(
            q, k, v, beta, self.decay(x), S, scale=self.config.q_scale, predict_from=self.config.predict_from
        )
        return self.project(self.readout(o, x)), (*tails, S)


def _head_size(name: str, expand: float, dim: int, num_heads: int) -> int:
    # Six digits of a fraction, as the error gives them, must do.
    width = round(expand * dim, 2)
    if width < num_heads or width % num_heads:
        raise UserError(
            f"{name} times the width must be a multiple of the {num_heads} heads, got {expand:g} x {dim} = {width:g}; "
            f"nearest {name} {nearest_multiple(width, num_heads) / dim:g}"
        )
    return int(width) // num_heads

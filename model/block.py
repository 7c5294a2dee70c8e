"""Residual blocks of a plain stack: pre-norm, one part after the other, or both beside each other on one norm.

1. Xiong et al. 2020, arXiv 2002.04745 (pre-norm).  2. Wang and Komatsuzaki 2021, GPT-J (parallel).
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from model.attention import AttentionConfig
from model.deltanet import DeltaNetConfig
from model.gated_conv import GatedConvConfig
from model.glu import GLUConfig
from model.linear_attention import LinearAttentionConfig
from model.mlp import MLPConfig
from model.norm import NoNormConfig, NormConfig
from model.sliding_attention import SlidingAttentionConfig

MixerConfig = AttentionConfig | SlidingAttentionConfig | LinearAttentionConfig | DeltaNetConfig | GatedConvConfig


@dataclass(frozen=True)
class PreNormBlockConfig:
    """x <- x + Mixer(norm x); x <- x + MLP(norm x), each part with a norm of its own."""

    mixer: MixerConfig
    mlp: MLPConfig | GLUConfig
    norm: NormConfig | NoNormConfig = NormConfig()

    def build(self, dim: int) -> "PreNormBlock":
        return PreNormBlock(self, dim)


class PreNormBlock(nn.Module):
    """x, state = block(x, state) with x [B, T, dim]."""

    def __init__(self, config: PreNormBlockConfig, dim: int) -> None:
        super().__init__()
        self.mixer_norm = config.norm.build(dim)
        self.mixer = config.mixer.build(dim)
        self.mlp_norm = config.norm.build(dim)
        self.mlp = config.mlp.build(dim)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = self.mixer(self.mixer_norm(x), state)
        x = x + y
        return x + self.mlp(self.mlp_norm(x)), state


@dataclass(frozen=True)
class MixerBlockConfig:
    """x <- x + Mixer(norm x), without a feed-forward part: what synthetic tasks look at."""

    mixer: MixerConfig
    norm: NormConfig | NoNormConfig = NormConfig()

    def build(self, dim: int) -> "MixerBlock":
        return MixerBlock(self, dim)


class MixerBlock(nn.Module):
    """x, state = block(x, state) with x [B, T, dim]."""

    def __init__(self, config: MixerBlockConfig, dim: int) -> None:
        super().__init__()
        self.norm = config.norm.build(dim)
        self.mixer = config.mixer.build(dim)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = self.mixer(self.norm(x), state)
        return x + y, state

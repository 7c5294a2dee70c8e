"""The residual stack of the competition: embed -> layers -> tied, soft-capped head -> nats.

Each layer mixes the running residual with the first one (x0), adds its mixer and its MLP through learned vectors; the
first half of the layers hands its outputs to the second half, last to first (U-Net skips). No norm carries a weight, no
matrix a bias.

    nats, state = model(tokens, targets, state)

1. Parameter Golf, the organisers' train_gpt.py. 2. Ronneberger et al. 2015, U-Net, arXiv 1505.04597.
3. Gemma 2, arXiv 2408.00118 (soft cap).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.attention import AttentionConfig
from model.deltanet import DeltaNetConfig
from model.embed import SmearBigramConfig, TokenEmbeddingConfig
from model.language_model import LanguageModel
from model.linear import Linear
from model.mlp import MLPConfig
from model.sliding_attention import SlidingAttentionConfig
from ops.rms_norm.fused import rms_norm


@dataclass(frozen=True)
class LayerConfig:
    """One layer: a token mixer and a feed-forward part. A different model is a different tuple of these."""

    mixer: AttentionConfig | SlidingAttentionConfig | DeltaNetConfig
    mlp: MLPConfig


@dataclass(frozen=True)
class GPTConfig:
    """`orthogonal_init` replaces the default uniform initialisation of every matrix of at least 64 x 64."""

    vocab_size: int
    dim: int
    embed: TokenEmbeddingConfig | SmearBigramConfig
    layers: tuple[LayerConfig, ...]
    softcap: float = 30.0
    orthogonal_init: bool = False

    def build(self, compute_dtype: torch.dtype = torch.float32) -> "GPT":
        return GPT(self, compute_dtype)

    def mixing_flops(self, window: int) -> float:
        """Forward operations a token beyond the matrices."""
        return sum(layer.mixer.mixing_flops(self.dim, window) for layer in self.layers)

    @property
    def has_bounded_state(self) -> bool:
        """Whether the state stays of one size however long the text."""
        return all(layer.mixer.has_bounded_state for layer in self.layers)


class Layer(nn.Module):
    """x <- m0 x + m1 x0; x <- x + a Mixer(RMS x); x <- x + b MLP(RMS x)."""

    def __init__(self, config: LayerConfig, dim: int) -> None:
        super().__init__()
        self.attention = config.mixer.build(dim)
        self.mlp = config.mlp.build(dim)
        self.attn_scale = nn.Parameter(torch.ones(dim))
        self.mlp_scale = nn.Parameter(torch.ones(dim))
        self.resid_mix = nn.Parameter(torch.stack((torch.ones(dim), torch.zeros(dim))))

    def forward(self, x: Tensor, x0: Tensor, state: Any) -> tuple[Tensor, Any]:
        keep, first = self.resid_mix.to(x.dtype)
        x = torch.addcmul(keep * x, first, x0)
        y, state = self.attention(rms_norm(x), state)
        x = torch.addcmul(x, self.attn_scale.to(x.dtype), y)
        return torch.addcmul(x, self.mlp_scale.to(x.dtype), self.mlp(rms_norm(x))), state


class GPT(LanguageModel):
    """U-Net skips over layers that all see the first residual."""

    def __init__(self, config: GPTConfig, compute_dtype: torch.dtype) -> None:
        super().__init__(config, compute_dtype)
        self.layers = nn.ModuleList(Layer(layer, config.dim) for layer in config.layers)
        self.num_skips = len(config.layers) // 2
        self.skip_weights = nn.Parameter(torch.ones(self.num_skips, config.dim))

    def hidden(self, tokens: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        """The normalised output of the last layer [B, T, dim], and the state after `tokens`."""
        before = state or (None,) * (1 + len(self.layers))
        x, embed_state = self.embed(tokens, self.compute_dtype, before[0])
        x0, after, skips = x, [embed_state], []
        first_decoder = len(self.layers) // 2
        for index, layer in enumerate(self.layers):
            if index >= first_decoder and skips:
                x = torch.addcmul(x, self.skip_weights[index - first_decoder].to(x.dtype), skips.pop())
            x, layer_state = layer(x, x0, before[1 + index])
            after.append(layer_state)
            if index < first_decoder:
                skips.append(x)
        return rms_norm(x), tuple(after)

    def initialise(self, linear: Linear, name: str) -> None:
        """Zero, orthogonal, or uniform within 1 / sqrt(in_features)."""
        if linear.zero_init:
            nn.init.zeros_(linear.weight)
        elif self.config.orthogonal_init and min(linear.weight.shape) >= 64:
            nn.init.orthogonal_(linear.weight)
            if name.endswith(".project"):
                linear.weight.mul_(1 / math.sqrt(2 * len(self.layers)))
        else:
            nn.init.kaiming_uniform_(linear.weight, a=math.sqrt(5))

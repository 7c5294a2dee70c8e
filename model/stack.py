"""A plain stack: embed -> blocks -> norm -> tied head -> nats."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.block import PreNormBlockConfig
from model.embed import PlainEmbeddingConfig
from model.language_model import LanguageModel
from model.linear import Linear
from model.norm import NormConfig


@dataclass(frozen=True)
class StackConfig:
    """`init_gain` / sqrt(out_features) is the deviation of a matrix at the start, or `init_std` where that is given."""

    vocab_size: int
    dim: int
    layers: tuple[PreNormBlockConfig, ...]
    embed: PlainEmbeddingConfig = PlainEmbeddingConfig()
    norm: NormConfig = NormConfig()  # before the head
    softcap: float | None = None
    init_gain: float = math.sqrt(2)  # He et al. 2015, arXiv 1502.01852, fan-out
    init_std: float | None = None

    def build(self, compute_dtype: torch.dtype = torch.float32) -> "Stack":
        return Stack(self, compute_dtype)

    def mixing_flops(self, window: int) -> float:
        """Forward operations a token beyond the matrices."""
        return sum(layer.mixer.mixing_flops(self.dim, window) for layer in self.layers)

    @property
    def has_bounded_state(self) -> bool:
        """Whether the state stays of one size however long the text."""
        return all(layer.mixer.has_bounded_state for layer in self.layers)


class Stack(LanguageModel):
    """Blocks one after the other."""

    def __init__(self, config: StackConfig, compute_dtype: torch.dtype) -> None:
        super().__init__(config, compute_dtype)
        self.layers = nn.ModuleList(layer.build(config.dim) for layer in config.layers)
        self.norm = config.norm.build(config.dim)

    def hidden(self, tokens: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        """The normalised output of the last block [B, T, dim], and the state after `tokens`."""
        before = state or (None,) * (1 + len(self.layers))
        x, embed_state = self.embed(tokens, self.compute_dtype, before[0])
        after = [embed_state]
        for layer, layer_state in zip(self.layers, before[1:], strict=True):
            x, layer_state = layer(x, layer_state)
            after.append(layer_state)
        return self.norm(x), tuple(after)

    def initialise(self, linear: Linear, name: str) -> None:
        """Normal, whatever the matrix is for."""
        config = self.config
        nn.init.normal_(linear.weight, std=config.init_std or config.init_gain / math.sqrt(linear.weight.shape[0]))

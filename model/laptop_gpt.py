"""The same model for CPUs: its attention by blocks and its nats by chunks, which keep what they compute in the cache.

Weights, results and their names are those of `GPT`; on a GPU the compiler makes more of the plain operators.
"""

from dataclasses import dataclass

import torch

from model.attention import Attention, causal_attention
from model.gpt import GPT, GPTConfig
from ops.attention.blocked import blocked_attention
from ops.cross_entropy.chunked import chunked_nats


@dataclass(frozen=True)
class LaptopGPTConfig(GPTConfig):
    """A `GPTConfig` whose model is fast on a CPU."""

    def build(self, compute_dtype: torch.dtype = torch.float32) -> "LaptopGPT":
        return LaptopGPT(self, compute_dtype)


class LaptopGPT(GPT):
    """GPT with other operators; mixers of a kind of their own keep theirs."""

    def __init__(self, config: LaptopGPTConfig, compute_dtype: torch.dtype) -> None:
        super().__init__(config, compute_dtype)
        self.nats_of = chunked_nats
        for layer in self.layers:
            if type(layer.attention) is Attention:
                layer.attention.attend = _attend


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    # Blocks are of a text from its start; what continues one is short.
    return blocked_attention(q, k, v) if q.shape[2] == k.shape[2] else causal_attention(q, k, v)

"""Attention by blocks and nats by chunks instead of the plain operators: on a CPU what they compute stays in the cache.

Weights, their names and results stay what they were; on a GPU the compiler makes more of the plain operators.
"""

import torch

from model.attention import causal_attention
from model.language_model import LanguageModel
from ops.attention.blocked import blocked_attention
from ops.cross_entropy.chunked import chunked_nats


class CPUOperators:
    """The first base of a model's config: what it builds is the same model on a laptop.

    Mixers with operators of their own keep them.
    """

    def build(self, compute_dtype: torch.dtype = torch.float32) -> LanguageModel:
        model = super().build(compute_dtype)
        model.nats_of = chunked_nats
        for module in model.modules():
            if getattr(module, "attend", None) is causal_attention:
                module.attend = blocked_attention
        return model

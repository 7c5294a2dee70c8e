"""Floating-point operations that the model asks for: the numerator of "share of the machine's peak".

A training token costs 6 operations per matrix parameter (2 forward, 4 backward), those of the head included, plus its
mixers' own arithmetic three times; a forward token a third of that. Tables that are only looked up cost none.
"""

import torch

from model.baka.model import BakaConfig
from model.gpt import GPTConfig
from model.linear import Linear
from model.pristine.model import PristineConfig
from model.stack import StackConfig

ModelConfig = GPTConfig | StackConfig | BakaConfig | PristineConfig


def forward_flops_per_token(config: ModelConfig, window: int, head: bool = True) -> float:
    """Operations of one token's forward pass in windows of `window` tokens."""
    parameters = matrix_parameters(config) + head * config.vocab_size * config.dim
    return 2 * parameters + config.mixing_flops(window)


def training_flops_per_token(config: ModelConfig, window: int, head: bool = True) -> float:
    """Operations of one token forward and backward."""
    return 3 * forward_flops_per_token(config, window, head)


def matrix_parameters(config: ModelConfig) -> int:
    """Elements of every Linear of the model; the head is none."""
    with torch.device("meta"):
        model = config.build()
    return sum(module.weight.numel() for module in model.modules() if isinstance(module, Linear))

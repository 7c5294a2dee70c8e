"""Floating-point operations that the model asks for: the numerator of "share of the machine's peak".

A training token costs 6 operations per non-embedding matrix parameter (2 forward, 4 backward) plus its mixers' own
arithmetic three times; a forward token a third of that. Tables and the tied head do not count, though the head runs.
"""

import torch

from model.baka.model import BakaConfig
from model.gpt import GPTConfig
from model.linear import Linear
from model.pristine.model import PristineConfig
from model.stack import StackConfig


def forward_flops_per_token(config: GPTConfig | StackConfig | BakaConfig | PristineConfig, window: int) -> float:
    """Operations of one token's forward pass in windows of `window` tokens."""
    return 2 * matrix_parameters(config) + config.mixing_flops(window)


def training_flops_per_token(config: GPTConfig | StackConfig | BakaConfig | PristineConfig, window: int) -> float:
    """Operations of one token forward and backward."""
    return 3 * forward_flops_per_token(config, window)


def matrix_parameters(config: GPTConfig | StackConfig | BakaConfig | PristineConfig) -> int:
    """Elements of every Linear of the model."""
    with torch.device("meta"):
        model = config.build()
    return sum(module.weight.numel() for module in model.modules() if isinstance(module, Linear))

"""The residual stack of model/gpt.py with the operators for CPUs."""

from dataclasses import dataclass

from model.cpu_operators import CPUOperators
from model.gpt import GPTConfig


@dataclass(frozen=True)
class LaptopGPTConfig(CPUOperators, GPTConfig):
    """A `GPTConfig` whose model is fast on a CPU."""

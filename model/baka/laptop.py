"""BakaLLM, branch zero, with the operators for CPUs."""

from dataclasses import dataclass

from model.baka.model import BakaConfig
from model.cpu_operators import CPUOperators


@dataclass(frozen=True)
class LaptopBakaConfig(CPUOperators, BakaConfig):
    """A `BakaConfig` whose model is fast on a CPU."""

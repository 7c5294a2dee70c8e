"""Pristine with the operators for CPUs."""

from dataclasses import dataclass

from model.cpu_operators import CPUOperators
from model.pristine.model import PristineConfig


@dataclass(frozen=True)
class LaptopPristineConfig(CPUOperators, PristineConfig):
    """A `PristineConfig` whose model is fast on a CPU."""

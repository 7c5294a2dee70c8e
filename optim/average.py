"""Averages of the weights along the run, in fp32: equal snapshots (SWA) or an exponential shadow (EMA).

1. Izmailov et al. 2018, arXiv 1803.05407 (SWA).  2. Polyak and Juditsky 1992 (averaging of iterates).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class SWAConfig:
    """A snapshot every `every` steps once the learning-rate multiplier is below `start`; equal weights."""

    every: int = 50
    start: float = 0.5

    def build(self, weights: Weights) -> "SWA":
        return SWA(self, weights)


@dataclass(frozen=True)
class EMAConfig:
    """shadow <- decay * shadow + (1 - decay) * weights after every step; the first steps use a faster decay.

    With `decay` d the shadow at step t uses min(d, (1 + t) / (10 + t)), so that short runs are not held at their start.
    """

    decay: float = 0.997

    def build(self, weights: Weights) -> "EMA":
        return EMA(self, weights)


class SWA:
    """The mean of the snapshots taken so far. `count` says how many; with none the weights themselves are the mean."""

    def __init__(self, config: SWAConfig, weights: Weights) -> None:
        self._config = config
        self._sum = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        self.count = 0

    @torch.no_grad()
    def update(self, weights: Weights, step: int, multiplier: float) -> None:
        """Called after step number `step` (from 1) with the multiplier that it used."""
        if multiplier < self._config.start and step % self._config.every == 0:
            torch._foreach_add_(list(self._sum.values()), [weights[name] for name in self._sum])
            self.count += 1

    def averaged(self, weights: Weights) -> Weights:
        """The averaged weights, or a copy of `weights` when no snapshot was taken."""
        if not self.count:
            return {name: weight.detach().clone() for name, weight in weights.items()}
        return {name: total / self.count for name, total in self._sum.items()}

    def state_dict(self) -> tuple[Weights, dict]:
        return self._sum, {"count": self.count}

    def load_state_dict(self, tensors: Weights, facts: dict) -> None:
        for name, total in self._sum.items():
            total.copy_(tensors[name])
        self.count = facts["count"]


class EMA:
    """The exponential shadow. `count` is the number of updates."""

    def __init__(self, config: EMAConfig, weights: Weights) -> None:
        self._config = config
        self._shadow = {name: weight.detach().clone() for name, weight in weights.items()}
        self.count = 0

    @torch.no_grad()
    def update(self, weights: Weights, step: int, multiplier: float) -> None:
        """Called after every step; `step` and `multiplier` are SWA's."""
        decay = min(self._config.decay, (1 + self.count) / (10 + self.count))
        torch._foreach_lerp_(list(self._shadow.values()), [weights[name] for name in self._shadow], 1 - decay)
        self.count += 1

    def averaged(self, weights: Weights) -> Weights:
        return {name: shadow.clone() for name, shadow in self._shadow.items()}

    def state_dict(self) -> tuple[Weights, dict]:
        return self._shadow, {"count": self.count}

    def load_state_dict(self, tensors: Weights, facts: dict) -> None:
        for name, shadow in self._shadow.items():
            shadow.copy_(tensors[name])
        self.count = facts["count"]

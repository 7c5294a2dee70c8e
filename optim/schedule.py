"""How fast, when: learning rates that know how much of the budget is left, and Muon's momentum warm-up.

A budget is a number of steps, a number of training seconds, or both; what runs out first ends the run. The multiplier
of the learning rates is 1 until the warm-down and falls linearly to 0 at the end of the budget, or follows a cosine.

1. Loshchilov and Hutter 2017, SGDR, arXiv 1608.03983 (cosine).
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a run stands before a step: steps and training seconds done, and the limit of each (None: none).

    `last_step` is how long the last step took; a step that would end beyond the limit is not begun.
    """

    step: int
    seconds: float
    max_steps: int | None
    max_seconds: float | None
    last_step: float = 0.0

    @property
    def out_of_steps(self) -> bool:
        return self.max_steps is not None and self.step >= self.max_steps

    @property
    def out_of_time(self) -> bool:
        expected = max(self.last_step, self.seconds / max(1, self.step))
        return self.max_seconds is not None and self.seconds + expected > self.max_seconds

    @property
    def finished(self) -> bool:
        return self.out_of_steps or self.out_of_time

    @property
    def fraction(self) -> float:
        """The share of the budget that is used, 0 to 1."""
        by_steps = self.step / self.max_steps if self.max_steps else 0.0
        by_seconds = self.seconds / self.max_seconds if self.max_seconds else 0.0
        return min(1.0, max(by_steps, by_seconds))

    @property
    def steps_left(self) -> float:
        """Steps until the budget ends, by the average step so far where the clock decides."""
        left = float("inf")
        if self.max_steps is not None:
            left = self.max_steps - self.step
        if self.max_seconds is not None and self.step:
            left = min(left, (self.max_seconds - self.seconds) / (self.seconds / self.step))
        return max(0.0, left)


@dataclass(frozen=True)
class WarmdownSteps:
    """Linear to zero over the last `steps` steps, in seconds of an average step where the clock is the limit."""

    steps: int = 3000

    def multiplier(self, progress: Progress) -> float:
        return min(1.0, progress.steps_left / self.steps)


@dataclass(frozen=True)
class WarmdownFraction:
    """Linear to zero over the last `fraction` of the budget, whatever its length: for runs of any size."""

    fraction: float = 0.4

    def multiplier(self, progress: Progress) -> float:
        return min(1.0, (1.0 - progress.fraction) / self.fraction)


@dataclass(frozen=True)
class WarmupCosine:
    """Linear up over the first `warmup_steps`, then a cosine from 1 to `floor` over the whole budget [1].

    >>> halfway = Progress(step=50, seconds=0.0, max_steps=100, max_seconds=None)
    >>> round(WarmupCosine(warmup_steps=10, floor=0.0).multiplier(halfway), 6)
    0.5
    """

    warmup_steps: int = 500
    floor: float = 0.0025

    def multiplier(self, progress: Progress) -> float:
        cosine = self.floor + (1 - self.floor) * (1 + math.cos(math.pi * progress.fraction)) / 2
        return min((progress.step + 1) / max(1, self.warmup_steps), cosine)


def warmed_momentum(step: int, start: float, end: float, warmup_steps: int) -> float:
    """Muon's momentum at `step`: linear from `start` to `end` over `warmup_steps`.

    >>> [round(warmed_momentum(step, 0.92, 0.99, 100), 3) for step in (0, 50, 100, 500)]
    [0.92, 0.955, 0.99, 0.99]
    """
    share = min(1.0, step / warmup_steps) if warmup_steps else 1.0
    return (1 - share) * start + share * end

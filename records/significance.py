"""Is one record better than another? Both rules of the competition, on the losses of their seeds.

    written       better by 0.005 nats at p < 0.01: one-sided Welch test of new against base - 0.005
    progression   p < 0.25 in the one-sided Welch test without a margin (the organisers' audit of April 2026)

    t = (m1 - m2) / sqrt(s1^2/n1 + s2^2/n2), sample deviations (n - 1), degrees of freedom after Welch and Satterthwaite

scipy.stats gives the same to the last digits (a test holds it), and takes a second to import.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.errors import UserError

MARGIN_NATS = 0.005
WRITTEN_LEVEL = 0.01
PROGRESSION_LEVEL = 0.25


@dataclass(frozen=True)
class Significance:
    """A one-sided test that the new values are lower; `difference` is new - base, margin included."""

    difference: float
    t: float
    degrees: float
    p: float


@dataclass(frozen=True)
class SeedComparison:
    """Both rules; `written` is None where the margin cannot be expressed in the values' unit."""

    written: Significance | None
    progression: Significance
    remarks: tuple[str, ...] = ()

    @property
    def passes_written(self) -> bool:
        """Whether the written rule is met."""
        return self.written is not None and self.written.p < WRITTEN_LEVEL

    @property
    def passes_progression(self) -> bool:
        """Whether the progression rule is met."""
        return self.progression.p < PROGRESSION_LEVEL


def welch_test(
    new: Sequence[float],
    base: Sequence[float],
    margin: float = 0.0,  # that `new` must be better by, in the unit of the values
) -> Significance:
    """One-sided Welch test that `new` is below `base` - `margin`.

    Raises UserError below two values a side, and where a side does not deviate.

    >>> round(welch_test([1.05679, 1.05611, 1.05662], [1.05740567, 1.05730104, 1.05807084]).p, 4)
    0.0138
    """
    spreads = [_squared_error(values, side) for values, side in ((new, "new"), (base, "base"))]
    difference = statistics.fmean(new) - (statistics.fmean(base) - margin)
    total = sum(spreads)
    t = difference / math.sqrt(total)
    degrees = total**2 / sum(spread**2 / (len(values) - 1) for spread, values in zip(spreads, (new, base), strict=True))
    return Significance(difference, t, degrees, _below(t, degrees))


def one_sample_test(new: Sequence[float], base_mean: float, margin: float = 0.0) -> Significance:
    """One-sided t test that `new` is below `base_mean` - `margin`, for a baseline whose seeds are not known.

    It takes the baseline's mean for exact and so finds more than there is. Raises UserError as `welch_test` does.
    """
    difference = statistics.fmean(new) - (base_mean - margin)
    t = difference / math.sqrt(_squared_error(new, "new"))
    return Significance(difference, t, len(new) - 1, _below(t, len(new) - 1))


def compare_seeds(
    new: Sequence[float],
    base: Sequence[float],
    margin: float | None = MARGIN_NATS,  # in the unit of the values; None: cannot be told
) -> SeedComparison:
    """Both rules on the values of the seeds. Raises UserError as `welch_test` does."""
    counts = {"new": len(new), "base": len(base)}
    remarks = tuple(f"{side} has {count} seeds, fewer than 3" for side, count in counts.items() if count < 3)
    written = None if margin is None else welch_test(new, base, margin)
    return SeedComparison(written, welch_test(new, base), remarks)


def _below(t: float, degrees: float) -> float:
    """The probability that Student's t is below `t`."""
    # Imported here: half a second, which no check should pay that tests nothing.
    from scipy.special import stdtr

    return float(stdtr(degrees, t))


def _squared_error(values: Sequence[float], side: str) -> float:
    """The squared standard error of the mean."""
    if len(values) < 2:
        raise UserError(f"a test takes at least 2 seeds a side, got {len(values)} for {side}; better 5 or more")
    if any(not math.isfinite(value) for value in values):
        raise UserError(f"the values of {side} must be finite numbers, got {', '.join(map(str, values))}")
    deviation = statistics.stdev(values)
    if deviation == 0:
        raise UserError(f"the seeds of {side} must differ, got {len(values)} times {values[0]}: nothing can be tested")
    return deviation**2 / len(values)

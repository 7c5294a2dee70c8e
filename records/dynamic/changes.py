"""How much predictions changed, where, and whether rounding explains it."""

from dataclasses import dataclass

import numpy as np

from records.dynamic.rules import broken
from records.judge.finding import Finding

# Nats between two runs of one shape: rounding of sums whose order depends on where the memory lies.
SAME_SHAPE = 1e-5
# Nats between two shapes: what rounding does in fp32, and at most in bf16.
OTHER_SHAPE, OTHER_SHAPE_AT_MOST = 1e-3, 0.05


@dataclass(frozen=True)
class Baseline:
    """A text, what the scorer said after each of its tokens, and how much it says otherwise when asked again."""

    stream: np.ndarray  # [T]
    rows: np.ndarray  # [T, V]
    noise: float  # nats

    @property
    def tolerance(self) -> float:
        """Nats by which a prediction may change between two texts of one shape."""
        return max(SAME_SHAPE, 4 * self.noise)


class LargestChange:
    """The largest of several changes, and where its text was changed."""

    def __init__(self, length: int, chunk: int) -> None:
        self.size, self.place = 0.0, 0
        self._length, self._chunk = length, chunk

    def see(self, size: float, place: int) -> None:
        """Keeps the change if it is the largest."""
        if size > self.size:
            self.size, self.place = size, int(place)

    @property
    def evidence(self) -> str:
        """Where it was."""
        return f"token {self.place} of {self._length}, given {self._chunk} at a time"


def graded(
    rule: str,
    message: str,
    change: LargestChange,
    noise: float,
    severity: str | None = None,  # of what rounding cannot do; None: the rule's
) -> list[Finding]:
    """For texts of other shapes: nothing within rounding, doubtful where low precision could do it, else a finding."""
    if change.size <= max(OTHER_SHAPE, 4 * noise):
        return []
    if change.size <= OTHER_SHAPE_AT_MOST:
        why = "low precision can do as much where shapes differ"
        return [broken(rule, message, change.evidence, "doubtful", "low", why)]
    return [broken(rule, message, change.evidence, severity)]


def largest_change(rows: np.ndarray, others: np.ndarray) -> float:
    """The largest difference of two tables of log-probabilities; 0 where both are infinite or no number."""
    if not rows.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        same = (rows == others) | (np.isnan(rows) & np.isnan(others))
        change = np.where(same, 0.0, np.abs(rows.astype(np.float64) - others))
    return float(np.nan_to_num(change, nan=np.inf, posinf=np.inf).max())

"""How much predictions changed, where, and whether rounding explains it."""

from dataclasses import dataclass

import numpy as np

from records.dynamic.bench import nats_of
from records.dynamic.rules import broken
from records.judge.finding import Finding

# Nats between two runs of one shape: rounding of sums whose order depends on where the memory lies.
SAME_SHAPE = 1e-5
# Nats between two shapes: what rounding does in fp32.
OTHER_SHAPE = 1e-3
# What bf16 may do: on the pocket track's records it moved 0.035 of the probability and 0.15 nats of a target. What is
# unlikely moves by a nat there, and tells nothing.
ROUNDED_SHARE, ROUNDED_TARGET = 0.05, 0.5


class LargestChange:
    """The largest of several changes, where its text was changed, and whether low precision explains all of them."""

    def __init__(self, length: int, chunk: int) -> None:
        self.size, self.place, self.is_rounding = 0.0, 0, True
        self._length, self._chunk = length, chunk

    def see(self, size: float, place: int, *, is_rounding: bool = True) -> None:
        """Keeps the change if it is the largest."""
        self.is_rounding &= is_rounding
        if size > self.size:
            self.size, self.place = size, int(place)

    @property
    def evidence(self) -> str:
        """Where it was."""
        return f"token {self.place} of {self._length}, given {self._chunk} at a time"


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

    def compare(self, others: np.ndarray, worst: LargestChange, place: int) -> None:
        """Shows `worst` how the text up to `place` is predicted when it is given in another shape."""
        rows, targets = self.rows[: len(others)], self.stream[1 : 1 + len(others)]
        worst.see(largest_change(rows, others), place, is_rounding=could_be_rounding(rows, others, targets))


def graded(
    rule: str,
    message: str,
    change: LargestChange,
    noise: float,
    severity: str | None = None,  # of what rounding cannot do; None: the rule's
) -> list[Finding]:
    """For texts of other shapes: nothing within fp32's rounding, a note where bf16's explains it, else a finding."""
    if change.size <= max(OTHER_SHAPE, 4 * noise):
        return []
    if change.is_rounding:
        return [broken(rule, f"{message}: as low precision rounds", change.evidence, "note")]
    return [broken(rule, message, change.evidence, severity)]


def could_be_rounding(
    rows: np.ndarray,  # [T, V] log-probabilities
    others: np.ndarray,  # [T, V], of the same text in another shape
    targets: np.ndarray,  # the ids that the first of them are about
) -> bool:
    """Whether low precision explains the difference.

    Little probability moves, no target's by much, and the targets' on average not at all: rounding takes no sides.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        share = np.abs(np.exp(rows) - np.exp(others)).sum(axis=1) / 2
        gain = nats_of(others, targets) - nats_of(rows, targets)
        bias, error = abs(gain.mean()), gain.std() / np.sqrt(len(gain))
        return bool(
            (share <= ROUNDED_SHARE).all()
            and (np.abs(gain) <= ROUNDED_TARGET).all()
            and bias <= max(OTHER_SHAPE, 4 * error)
        )


def largest_change(rows: np.ndarray, others: np.ndarray) -> float:
    """The largest difference of two tables of log-probabilities; 0 where both are infinite or no number."""
    if not rows.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        same = (rows == others) | (np.isnan(rows) & np.isnan(others))
        change = np.where(same, 0.0, np.abs(rows.astype(np.float64) - others))
    return float(np.nan_to_num(change, nan=np.inf, posinf=np.inf).max())

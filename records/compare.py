"""Two records against each other: both rules of significance on the scores of their seeds."""

import math
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

from records.judge.folder import read_folder
from records.judge.record import read_record
from records.significance import (
    MARGIN_NATS,
    PROGRESSION_LEVEL,
    WRITTEN_LEVEL,
    SeedComparison,
    Significance,
    compare_seeds,
)
from runtime.errors import UserError

_SAME_TOKENIZER = 1e-3


@dataclass(frozen=True)
class ComparedSide:
    """The scores of one side, by seed where they come from a record."""

    name: str
    losses: list[float]  # nats a token
    bits: list[float]  # bits per byte

    @property
    def nats_a_bit(self) -> float | None:
        """How many nats a token one bit per byte is; None where only one of them is known."""
        if not self.losses or not self.bits:
            return None
        return statistics.fmean(self.losses) / statistics.fmean(self.bits)


def read_side(word: str, unit: str) -> ComparedSide:
    """A record folder, or "1.0568,1.0561,1.0566" in `unit` (bpb or nats).

    Raises UserError when it is neither, and for a record without scores of its seeds.
    """
    if re.fullmatch(r"[\d.,eE+ -]+", word) and not Path(word).exists():
        values = [_number(part, word) for part in word.split(",") if part.strip()]
        return ComparedSide(word, values if unit == "nats" else [], values if unit == "bpb" else [])
    record = read_record(read_folder(Path(word)))
    claims = record.claims
    losses, bits = claims.seed_values("val_loss"), claims.seed_values("val_bpb")
    if not bits:
        finals = [facts.log.final for facts in record.logs if facts.log.final]
        losses, bits = [final.val_loss for final in finals], [final.val_bpb for final in finals]
    if not bits and not losses:
        raise UserError(f"{word} must tell the score of every seed, in submission.json or in logs; got none")
    return ComparedSide(word, losses if len(losses) == len(bits) else [], bits)


def compare_records(
    new: ComparedSide,
    base: ComparedSide,
    bytes_a_token: float | None = None,  # to express the margin for bare bits per byte
) -> str:
    """What both rules say, in lines. Raises UserError as `compare_seeds` does."""
    in_nats, remarks = _in_nats(new, base)
    values = (new.losses, base.losses) if in_nats else (new.bits, base.bits)
    if not all(values):
        raise UserError("both sides must be in the same unit, got nats for one and bits per byte for the other")
    unit, margin = "nats", MARGIN_NATS
    if not in_nats:
        factor = new.nats_a_bit or base.nats_a_bit or (bytes_a_token * math.log(2) if bytes_a_token else None)
        unit, margin = "bits per byte", MARGIN_NATS / factor if factor else None
    result = compare_seeds(*values, margin)
    return "\n".join([*_sides(new, base, values, unit), *_rules(result, unit, margin), *remarks, *result.remarks])


def _in_nats(new: ComparedSide, base: ComparedSide) -> tuple[bool, list[str]]:
    """Nats a token compare only between texts cut into the same tokens."""
    if not new.losses or not base.losses:
        return False, []
    if new.nats_a_bit and base.nats_a_bit and abs(new.nats_a_bit / base.nats_a_bit - 1) > _SAME_TOKENIZER:
        return False, ["the tokenizers differ, so bits per byte are compared"]
    return True, []


def _sides(new: ComparedSide, base: ComparedSide, values: tuple, unit: str) -> list[str]:
    rows = zip(("new ", "base"), (new, base), values, strict=True)
    lines = [
        f"{label}  {_mean_and_deviation(scores)} {unit}, n = {len(scores)}  {side.name}" for label, side, scores in rows
    ]
    return [*lines, f"new - base  {statistics.fmean(values[0]) - statistics.fmean(values[1]):+.6f} {unit}"]


def _mean_and_deviation(values: list[float]) -> str:
    return f"{statistics.fmean(values):.6f} ± {statistics.stdev(values) if len(values) > 1 else math.nan:.6f}"


def _rules(result: SeedComparison, unit: str, margin: float | None) -> list[str]:
    if result.written is None:
        written = "written rule      cannot be told: 0.005 nats in bits per byte take --bytes-per-token"
    else:
        limit = f"better by {margin:.5f} {unit} (0.005 nats) at p < {WRITTEN_LEVEL}"
        written = f"written rule      {_told(result.written, result.passes_written)}  {limit}"
    progression = _told(result.progression, result.passes_progression)
    return [written, f"progression rule  {progression}  better at p < {PROGRESSION_LEVEL}"]


def _told(test: Significance, passes: bool) -> str:
    return f"{'passes' if passes else 'fails '}  p = {test.p:.4f} (t = {test.t:.3f}, df = {test.degrees:.2f})"


def _number(part: str, word: str) -> float:
    try:
        return float(part)
    except ValueError:
        raise UserError(f"a side is a record folder or numbers with commas between them, got {word!r}") from None

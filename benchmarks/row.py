"""A measured figure with its target, and the file that keeps every one ever measured."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

import torch

from runtime.files import unwritable

RESULTS = Path(__file__).parent / "results.jsonl"


@dataclass(frozen=True)
class Row:
    """One benchmark's outcome. `target` is (">=" or "<=", value); `n` counts the repetitions that `value` is of."""

    name: str
    value: float
    unit: str
    target: tuple[str, float]
    n: int
    note: str = ""

    @property
    def holds(self) -> bool:
        relation, bound = self.target
        return self.value >= bound if relation == ">=" else self.value <= bound


def median_row(name: str, values: Sequence[float], unit: str, target: tuple[str, float], note: str = "") -> Row:
    """The median of several measurements of one quantity, with their range in the note."""
    spread = f"min {min(values):.3g}, max {max(values):.3g}"
    return Row(name, median(values), unit, target, len(values), f"{spread}; {note}" if note else spread)


def append_rows(rows: Sequence[Row], hardware: str, command: str) -> None:
    """Adds a line of JSON a row to benchmarks/results.jsonl. Raises UserError when it cannot be written."""
    shared = {
        "hardware": hardware,
        "torch": torch.__version__,
        "date": datetime.now().isoformat(timespec="seconds"),
        "command": command,
    }
    try:
        with open(RESULTS, "a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps({**asdict(row), "holds": row.holds, **shared}, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise unwritable(RESULTS, error) from error


def rows_table(rows: Sequence[Row]) -> str:
    """Name, value, target and whether it holds, one line a row."""
    lines = [f"{'benchmark':<28}{'value':>12} {'unit':<16}{'target':>12}  {'holds':<6}{'n':>3}  note"]
    for row in rows:
        target = f"{row.target[0]} {row.target[1]:g}"
        lines.append(
            f"{row.name:<28}{row.value:>12.4g} {row.unit:<16}{target:>12}  {'yes' if row.holds else 'NO':<6}"
            f"{row.n:>3}  {row.note}"
        )
    return "\n".join(lines)


def report_rows(rows: Sequence[Row], hardware: str, command: str) -> int:
    """Prints the table and keeps the rows; the exit code of the benchmark, 1 when a target is missed."""
    print(rows_table(rows))  # noqa: T201
    append_rows(rows, hardware, command)
    return 0 if all(row.holds for row in rows) else 1

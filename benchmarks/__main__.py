"""python -m benchmarks [SUITE ...]: measures, prints one table, appends to benchmarks/results.jsonl.

Suites are throughput, memory, judging and scores; without names all of them run, about a quarter of an hour on two
cores. `baka` runs only when it is named. Exit code 1 when a target is missed.
"""

import sys
import tempfile
from pathlib import Path

from benchmarks.baka import baka_rows
from benchmarks.judging import judging_rows
from benchmarks.memory import memory_rows
from benchmarks.row import append_rows, rows_table
from benchmarks.scores import score_rows
from benchmarks.throughput import throughput_rows
from runtime.command import exit_with
from runtime.errors import UserError, nearest
from runtime.machine import start_machine

SUITES = ("throughput", "memory", "judging", "scores")
# Many trainings: only when they are named.
LONG_SUITES = ("baka",)


def main(names: list[str]) -> int:
    """Runs the suites of these names, all without any."""
    for name in names:
        if name not in SUITES + LONG_SUITES:
            raise UserError(f"unknown benchmark {name!r}; {nearest(name, SUITES + LONG_SUITES)}")
    machine, rows = start_machine(), []
    with tempfile.TemporaryDirectory() as folder:
        run = {
            "throughput": lambda: throughput_rows(machine, Path(folder)),
            "memory": memory_rows,
            "judging": judging_rows,
            "scores": score_rows,
            "baka": lambda: baka_rows(machine),
        }
        for name in names or SUITES:
            rows += run[name]()
    print(rows_table(rows))
    append_rows(rows, machine.hardware, " ".join(["python -m benchmarks", *names]))
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    exit_with(lambda: main(sys.argv[1:]))

"""python -m benchmarks [SUITE ...]: measures, prints one table, appends to benchmarks/results.jsonl.

Suites are throughput, memory, judging and scores; without names all of them run, about a quarter of an hour on two
cores. `baka`, `classical`, `full_size`, `operators` and `published` run only when they are named. Exit code 1 when a
target is missed.

python -m benchmarks profile RECIPE [--path value ...]: where the time of a training step goes.
"""

import sys
import tempfile
from pathlib import Path

from benchmarks.baka import baka_rows
from benchmarks.classical import classical_rows
from benchmarks.full_size import full_size_rows
from benchmarks.judging import judging_rows
from benchmarks.memory import memory_rows
from benchmarks.operators import operator_rows
from benchmarks.profile import profile_table
from benchmarks.published import published_rows
from benchmarks.row import report_rows
from benchmarks.scores import score_rows
from benchmarks.throughput import throughput_rows
from recipes.recipe import load_recipe
from runtime.command import exit_with
from runtime.errors import UserError, nearest
from runtime.machine import start_machine

SUITES = ("throughput", "memory", "judging", "scores")
# Only when they are named: minutes and more, or figures for orientation.
LONG_SUITES = ("baka", "classical", "full_size", "operators", "published")


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
            "classical": classical_rows,
            "full_size": lambda: full_size_rows(load_recipe("int5_int6_rate"), machine),
            "operators": lambda: operator_rows(machine),
            "published": lambda: published_rows(machine),
        }
        for name in names or SUITES:
            rows += run[name]()
    return report_rows(rows, machine.hardware, " ".join(["python -m benchmarks", *names]))


def profiled(arguments: list[str]) -> None:
    """Prints where a training step of the recipe `arguments[0]` goes; the rest are overrides of it."""
    if not arguments:
        raise UserError("profile takes a recipe, got none; for example python -m benchmarks profile demo")
    recipe = load_recipe(arguments[0], arguments[1:])
    print(profile_table(recipe, start_machine(recipe.train.compute_dtype)))


if __name__ == "__main__":
    command, *rest = sys.argv[1:] or [""]
    exit_with(lambda: profiled(rest) if command == "profile" else main(sys.argv[1:]))

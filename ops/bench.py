"""python -m ops.bench delta_rule [--write]: an operator's tests first, then the clock; ratios within one run.

With --write the rows are appended to benchmarks/results.jsonl. Exit code 1 when a test fails or a target is missed.
"""

import subprocess
import sys

from benchmarks.row import append_rows, rows_table
from ops.delta_rule.bench import delta_rule_rows
from runtime.command import exit_with
from runtime.errors import UserError, nearest
from runtime.machine import start_machine
from runtime.source import repository_root

OPERATORS = {"delta_rule": (delta_rule_rows, ("test_delta_rule.py", "test_delta_rule_forms.py"))}


def bench_operator(arguments: list[str]) -> int:
    """Tests and measures the operator of this name. Raises UserError for another."""
    names = [word for word in arguments if word != "--write"]
    if len(names) != 1 or names[0] not in OPERATORS:
        raise UserError(f"name one operator, got {' '.join(names) or 'none'}; {nearest(' '.join(names), OPERATORS)}")
    rows_of, files = OPERATORS[names[0]]
    tests = [str(repository_root() / "tests" / file) for file in files]
    if subprocess.run([sys.executable, "-m", "pytest", *tests], check=False).returncode:
        return 1
    # As in every run: among others, freed memory is kept.
    machine = start_machine()
    rows = rows_of()
    print(rows_table(rows))  # noqa: T201
    if "--write" in arguments:
        append_rows(rows, machine.hardware, f"python -m ops.bench {names[0]}")
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    exit_with(lambda: bench_operator(sys.argv[1:]))

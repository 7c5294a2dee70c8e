"""How long the judges take: `records check` of a folder, `records verify` of a record of the demo at full size."""

import json
import tempfile
import time
from pathlib import Path

from benchmarks.process import run_python
from benchmarks.row import Row, median_row
from runtime.source import repository_root

CHECKS = 5


def judging_rows() -> list[Row]:
    """Seconds of both, whole processes. Raises RuntimeError when the run, or the judges, fail."""
    root = repository_root()
    data = str(root / "data/datasets/sotu_sp1024")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = [str(root / "train_gpt.py"), "demo", "--train.steps", "20"]
        _timed(arguments, folder, DATA_PATH=data, RUN_ID="judging")
        _timed(["-m", "records", "new", "runs/judging", "--destination", "records"], folder, DATA_PATH=data)
        record = str(next(folder.glob("records/*/*_Demo")))
        checks = [_timed(["-m", "records", "check", record], folder)[0] for _ in range(CHECKS)]
        seconds, output = _timed(["-m", "records", "verify", record, "--data", data, "--json"], folder)
    verdict = json.loads(output)
    note = f"{len(verdict['probes'])} tests, verdict {verdict['verdict']}"
    return [
        median_row("check_folder", checks, "seconds", ("<=", 2.0), "starting Python included"),
        Row("verify_demo", seconds, "seconds", ("<=", 120.0), 1, note),
    ]


def _timed(arguments: list[str], folder: Path, **environment: str) -> tuple[float, str]:
    """Seconds that `python arguments` took, and what it printed."""
    start = time.perf_counter()
    output = run_python(arguments, folder, **environment)
    return time.perf_counter() - start, output

"""Peak memory of whole processes, as the operating system counted it."""

import sys
import tempfile
from pathlib import Path

from benchmarks.process import run_python
from benchmarks.row import Row
from runtime.source import repository_root


def peak_of(arguments: list[str], folder: Path, **environment: str) -> tuple[int, str]:
    """Runs `python arguments` and returns its largest resident size in bytes, and what it printed.

    Raises RuntimeError with the output when it fails.
    """
    script = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:]); "
        "print('PEAK', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024); sys.exit(done.returncode)"
    )
    output, _, peak = run_python(["-c", script, sys.executable, *arguments], folder, **environment).rpartition("PEAK ")
    return int(peak), output


def memory_rows() -> list[Row]:
    """The demo's training, packing and evaluation at full size over 20 steps; packing the largest published model."""
    data = str(repository_root() / "data/datasets/sotu_sp1024")
    gib = 2**30
    with tempfile.TemporaryDirectory() as folder:
        arguments = [str(repository_root() / "train_gpt.py"), "demo", "--train.steps", "20", "--eval.stride", "512"]
        demo, _ = peak_of(arguments, Path(folder), DATA_PATH=data, RUN_ID="memory")
        packing, size = peak_of(["-m", "benchmarks.packing"], Path(folder))
    return [
        Row("peak_memory_demo", demo / gib, "GiB", ("<=", 2.0), 1, "20 steps, then every later stage"),
        Row("peak_memory_packing", packing / gib, "GiB", ("<=", 1.0), 1, f"24.7 M parameters, {int(size):,} bytes"),
    ]

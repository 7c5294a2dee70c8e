"""Whole processes: the benchmarks of commands run them as a user would."""

import os
import subprocess
import sys
from pathlib import Path

from runtime.source import repository_root


def run_python(arguments: list[str], folder: Path, **environment: str) -> str:
    """Runs `python arguments` in `folder` with this repository on its path, and returns what it printed.

    Raises RuntimeError with the output when it fails.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(repository_root()), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{arguments} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout

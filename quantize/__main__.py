"""python -m quantize runs/ID: weights.safetensors -> codes.safetensors, by the plan of the run's recipe."""

from pathlib import Path

import tyro

from quantize.plan_table import plan_table
from recipes.run_folder import RunFolder
from recipes.stages import quantize_run
from runtime.command import exit_with


def main(run: tyro.conf.Positional[Path], /) -> None:
    """Quantises the weights of a run folder.

    Args:
        run: the run folder, runs/ID.
    """
    folder = RunFolder(run)
    codes = quantize_run(folder, print)
    shapes = {name: tuple(getattr(tensor, "integers", tensor).shape) for name, tensor in codes.items()}
    print(plan_table(shapes, folder.recipe().pack.plan))
    print(f"wrote {folder.codes}")


if __name__ == "__main__":
    exit_with(lambda: tyro.cli(main, prog="python -m quantize"))

"""python -m compress runs/ID: codes.safetensors -> model.bin and ledger.json, under the recipe's budget."""

from pathlib import Path

import tyro

from recipes.run_folder import RunFolder
from recipes.stages import compress_run
from recipes.telling import log_ledger
from runtime.command import exit_with
from runtime.log import RunLog


def main(run: tyro.conf.Positional[Path], /) -> None:
    """Packs the codes of a run folder and prints who costs how many bytes.

    Args:
        run: the run folder, runs/ID.
    """
    folder = RunFolder(run)
    log_ledger(RunLog(folder.path), folder.recipe(), compress_run(folder))
    print(f"wrote {folder.artifact}")


if __name__ == "__main__":
    exit_with(lambda: tyro.cli(main, prog="python -m compress"))

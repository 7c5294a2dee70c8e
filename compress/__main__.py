"""python -m compress runs/ID: codes.safetensors -> model.bin and ledger.json, under the recipe's budget.

python -m compress bundle NAME --out DIR: a recipe as one file, the counted train_gpt.py, and its readable twin.
"""

import sys
from pathlib import Path

import tyro

from compress.bundle import bundle_recipe
from recipes.recipe import load_recipe
from recipes.run_folder import RunFolder
from recipes.stages import compress_run
from recipes.telling import log_ledger
from runtime.command import exit_with
from runtime.files import write_bytes, write_text
from runtime.log import RunLog
from runtime.source import CODE_FILE, READABLE_FILE, repository_root


def pack_run(run: tyro.conf.Positional[Path], /) -> None:
    """Packs the codes of a run folder and prints who costs how many bytes.

    Args:
        run: the run folder, runs/ID.
    """
    folder = RunFolder(run)
    log_ledger(RunLog(folder.path), folder.recipe(), compress_run(folder))
    print(f"wrote {folder.artifact}")


def bundle(recipe: tyro.conf.Positional[str], out: Path) -> None:
    """Writes the counted file of a recipe and its readable twin, and prints the bytes after each stage.

    Args:
        recipe: the name of the recipe; python -m recipes lists them.
        out: the folder to write to.
    """
    made = bundle_recipe(load_recipe(recipe).name, repository_root())
    write_bytes(out / CODE_FILE, made.counted)
    write_text(out / READABLE_FILE, made.readable)
    for stage, size in made.stages.items():
        print(f"{stage:<9}{size:>9,} bytes")
    print(f"wrote {out / CODE_FILE} and {out / READABLE_FILE}, from {len(made.files)} files")


def main(arguments: list[str]) -> None:
    """Chooses the command; a path stands for `run`."""
    commands = {"run": pack_run, "bundle": bundle}
    if arguments and arguments[0] not in (*commands, "-h", "--help"):
        arguments = ["run", *arguments]
    tyro.extras.subcommand_cli_from_dict(commands, prog="python -m compress", args=arguments)


if __name__ == "__main__":
    exit_with(lambda: main(sys.argv[1:]))

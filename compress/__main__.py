"""python -m compress runs/ID: codes.safetensors -> model.bin and ledger.json, under the recipe's budget.

python -m compress bundle NAME --out DIR: a recipe as one file, the counted train_gpt.py, and its readable twin.

python -m compress bench runs/ID [--score] | --weights FILE: every quantiser and coder on trained weights, as a table.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import tyro
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from compress.bench import bench_table, coder_rows, quantizer_rows
from compress.bundle import bundle_recipe
from quantize.grid import Codes
from recipes.packed import model_from_codes
from recipes.recipe import Recipe, load_recipe
from recipes.run_folder import RunFolder
from recipes.stages import compress_run, open_validation, plain_score, recipe_dataset
from recipes.telling import log_ledger
from runtime.command import exit_with
from runtime.errors import UserError
from runtime.files import write_bytes, write_text
from runtime.log import RunLog
from runtime.machine import Machine, start_machine
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


def bench(run: tyro.conf.Positional[Path | None] = None, weights: Path | None = None, score: bool = False) -> None:
    """Quantises and packs trained weights in every way there is, and prints what becomes of them.

    Args:
        run: the run folder, runs/ID.
        weights: a safetensors file with other weights instead; quantisers that need a run's moments are left out.
        score: score every quantised model on the validation split too, in windows that do not overlap.
    """
    if (run is None) == (weights is None):
        raise UserError("bench takes a run folder or --weights, one of them; for example bench runs/ID")
    folder, machine = RunFolder(run) if run else None, start_machine()
    held = _tensors_of(folder.weights if folder else weights)
    moments = _tensors_of(folder.moments) if folder and folder.moments.exists() else {}
    bits_of = _scorer(folder.recipe(), machine) if folder and score else None
    if bits_of:
        print(f"as trained: {bits_of(held):.4f} bits per byte\n")
    for rows in (quantizer_rows(held, moments, bits_of, machine), coder_rows(held)):
        for line in bench_table(rows):
            print(line, flush=True)
        print()


def _tensors_of(path: Path) -> dict[str, Tensor]:
    """The floating-point tensors of a safetensors file, ours or not."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"weights must be a safetensors file, {path} is none or missing: {error}") from error
    return {name: tensor.float() for name, tensor in tensors.items() if tensor.is_floating_point()}


def _scorer(recipe: Recipe, machine: Machine) -> Callable[[Codes], float]:
    """Bits per byte of codes in the recipe's model, in windows that do not overlap."""
    validation, train = open_validation(recipe_dataset(recipe)), recipe.train

    def bits(codes: Codes) -> float:
        model = model_from_codes(recipe.model, codes, machine)
        return plain_score(model, validation, train.window, machine, recipe.eval.batch_tokens).bpb

    return bits


def main(arguments: list[str]) -> None:
    """Chooses the command; a path stands for `run`."""
    commands = {"run": pack_run, "bundle": bundle, "bench": bench}
    if arguments and arguments[0] not in (*commands, "-h", "--help"):
        arguments = ["run", *arguments]
    tyro.extras.subcommand_cli_from_dict(commands, prog="python -m compress", args=arguments)


if __name__ == "__main__":
    exit_with(lambda: main(sys.argv[1:]))

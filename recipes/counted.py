"""The conductor of a counted file: one recipe, tokens in, score out, and nothing kept between the stages.

    torchrun --standalone --nproc_per_node=8 train_gpt.py [--path value ...]    trains it and writes runs/ID
    python train_gpt.py --score model.bin [--stride 64 ...]                     scores a packed model

It composes the parts that train_gpt.py of the repository composes, and ends in the same bytes. DATA_PATH,
TOKENIZER_PATH, RUN_ID, SEED and the exit codes are the same; the ledger counts the file that runs. It is written in the
name of the recipe `demo`, and bundling puts another in its place. What it defines takes the place of the repository's
definition of the same name: `load_recipe` knows one recipe and imports none.
"""

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from compress.ledger import Ledger, build_ledger, check_budget
from eval.score import Score
from optim.trainer import StepReport, Trainer
from quantize.plan import quantize
from recipes.demo import demo
from recipes.override import overridden, override_pairs
from recipes.packed import pack_model
from recipes.recipe import Recipe, fingerprint
from recipes.run_folder import choose_run_id
from recipes.stages import EvalReport, eval_artifact, open_validation, recipe_dataset
from recipes.telling import calibration_text, final_text, is_logged, ledger_text, step_text, stop_text, validation_text
from runtime.errors import UserError
from runtime.files import read_bytes, sha256_of, write_bytes, write_text
from runtime.machine import Machine, dtype_name, start_machine
from runtime.signals import TerminationRequest
from train_gpt import build_trainer, resumed_dtype, run_command, seed_override, train


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of this file with overrides applied. Raises UserError when another is asked for."""
    if name != "demo":
        raise UserError(f"this file holds the recipe demo alone, got {name!r}")
    return overridden(demo(), overrides)


class Printer:
    """Prints the lines of the competition's grammar, on the first rank."""

    def __init__(self, recipe: Recipe, machine: Machine) -> None:
        self.recipe, self.machine = recipe, machine

    def line(self, text: str) -> None:
        if text and self.machine.is_main:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()

    def step(self, report: StepReport) -> None:
        if is_logged(report, self.recipe):
            self.line(step_text(report, self.recipe))

    def validation(self, label: str, trainer: Trainer, score: Score) -> None:
        self.line(validation_text(label, trainer, score))

    def end_of_training(self, trainer: Trainer) -> None:
        self.line(stop_text(trainer))

    def calibrated(self, trainer: Trainer) -> None:
        self.line(calibration_text(trainer))


def counted_main(arguments: list[str]) -> int:
    """Trains the recipe of this file, or scores a packed model of it, and returns the exit code."""
    options = dict(override_pairs(arguments))
    if "score" not in options:
        return train_alone([*arguments, *seed_override()])
    artifact = Path(options.pop("score"))
    changes = [f"--{path}={text}" for path, text in options.items()]
    score_alone(artifact, Printer(load_recipe("demo"), start_machine()), changes)
    return 0


def train_alone(overrides: list[str]) -> int:
    """Tokens -> checkpoint, model.bin, ledger.json and score.json in runs/ID; returns the exit code."""
    recipe = load_recipe("demo", overrides)
    dataset = recipe_dataset(recipe)
    validation = open_validation(dataset)
    run = Path("runs") / choose_run_id(recipe)
    checkpoint, artifact = run / "checkpoint.safetensors", run / "model.bin"
    tell = Printer(recipe, start_machine(recipe.train.compute_dtype or resumed_dtype(checkpoint)))
    trainer = build_trainer(recipe, dataset, tell.machine)
    tell.line(f"recipe demo (fingerprint {fingerprint(recipe)}) seed:{recipe.train.seed} run:{run}")
    if trainer.resume(checkpoint):
        tell.line(f"resuming at step {trainer.step}")
    if not train(recipe, trainer, validation, checkpoint, tell):
        return TerminationRequest.EXIT_CODE
    pack, quantizer = recipe.pack, recipe.pack.quantizer
    moments = quantizer.moments(trainer, tell) if quantizer else {}
    if tell.machine.is_main:
        overrides = [*overrides, f"--train.compute_dtype={dtype_name(tell.machine.compute_dtype)}"]
        packed = partial(pack_model, recipe, overrides, tokenizer_sha256=sha256_of(dataset.tokenizer_path))
        if quantizer:
            size = Path(__file__).stat().st_size
            codes = quantizer.codes(trainer.weights, moments, pack, packed, size, tell.line)
        else:
            codes = quantize(trainer.weights, pack.plan, pack.prune)
        write_bytes(artifact, packed(codes))
    tell.machine.barrier()
    ledger, report = score_alone(artifact, tell)
    if tell.machine.is_main:
        write_text(run / "ledger.json", json.dumps(ledger.to_json(), indent=1) + "\n")
        write_text(run / "score.json", report.to_json())
    check_budget(ledger)
    return 0


def score_alone(artifact: Path, tell: Printer, changes: Sequence[str] = ()) -> tuple[Ledger, EvalReport]:
    """The bytes of a packed model and of the file that runs, and the score from those bytes; both are printed.

    `changes` are overrides of the recipe's evaluation.
    """
    code = {Path(__file__).name: Path(__file__).stat().st_size}
    report, packed = eval_artifact(artifact, tell.machine, lambda recipe: overridden(recipe.eval, changes))
    # Coder and kinds are those that the file names, the budget that of this run.
    budget, kinds = tell.recipe.pack.budget, packed.recipe.pack.kinds
    ledger = build_ledger(read_bytes(artifact, "the packed model"), code, budget, kinds)
    tell.line(ledger_text(packed.recipe, ledger))
    tell.line(final_text(packed.recipe, report))
    return ledger, report


if __name__ == "__main__":
    run_command(lambda: counted_main(sys.argv[1:]))

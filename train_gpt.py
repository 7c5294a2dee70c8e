"""The whole run on one page: tokens in, record out.

    torchrun --standalone --nproc_per_node=1 train_gpt.py demo
    torchrun --standalone --nproc_per_node=8 train_gpt.py int5_int6 --train.seed 42

The first argument names the recipe, the rest are overrides of its fields (`python -m recipes demo` lists them). The
environment says only where: DATA_PATH, TOKENIZER_PATH, RUN_ID (an earlier run of that id is resumed) and SEED.

Exit codes: 0 done, 2 a mistake in what was given, 3 a loss that is not finite, 75 stopped by SIGTERM and resumable.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch

from data.dataset import Dataset
from optim.groups import Optimizers
from optim.trainer import NonFiniteLossError, StepReport, Trainer
from recipes.budget import with_flops_as_steps
from recipes.recipe import Recipe, fingerprint, load_recipe
from recipes.run_folder import RunFolder, choose_run_id, open_run
from recipes.stages import (
    Validation,
    compress_run,
    eval_artifact,
    open_validation,
    plain_score,
    quantize_run,
    recipe_dataset,
    sample_packed,
)
from recipes.telling import Teller
from records.new import new_record
from runtime.checkpoint import checkpoint_facts, save_checkpoint
from runtime.errors import UserError
from runtime.files import write_text
from runtime.log import RunLog
from runtime.machine import Machine, dtype_name, leave, start_machine
from runtime.signals import TerminationRequest


def main(arguments: list[str]) -> int:
    """Runs a recipe from tokens to record and returns the exit code."""
    if not arguments or arguments[0].startswith("-"):
        raise UserError("train_gpt.py needs a recipe: train_gpt.py RECIPE [--path value ...]; see python -m recipes")
    name, *overrides = arguments
    overrides = with_flops_as_steps(name, [*overrides, *seed_override()])
    recipe = load_recipe(name, overrides)
    dataset = recipe_dataset(recipe)
    validation = open_validation(dataset)
    run_id = choose_run_id(recipe)
    machine = start_machine(recipe.train.compute_dtype or resumed_dtype(RunFolder.named(run_id).checkpoint))
    recipe.train.check(machine.world_size)
    recipe.eval.check_for(recipe.model)
    run = open_run(recipe, overrides, run_id, machine.is_main)
    machine.barrier()
    tell = Teller(RunLog(run.path if machine.is_main else None), recipe, machine, validation.bytes_per_token)
    trainer = build_trainer(recipe, dataset, machine)
    tell.header(run, trainer, resumed=trainer.resume(run.checkpoint))
    if not train(recipe, trainer, validation, run.checkpoint, tell):
        return TerminationRequest.EXIT_CODE
    quantizer = recipe.pack.quantizer
    moments = quantizer.moments(trainer, tell) if quantizer else {}
    if machine.is_main:
        dtype = dtype_name(machine.compute_dtype)
        facts = {"fingerprint": trainer.identity, "step": trainer.step, "compute_dtype": dtype}
        save_checkpoint(run.weights, trainer.weights, facts)
        if moments:
            save_checkpoint(run.moments, moments, facts)
    machine.barrier()
    package(run, tell)
    return 0


def build_trainer(recipe: Recipe, dataset: Dataset, machine: Machine) -> Trainer:
    """The model at its initial weights, and everything that moves it."""
    torch.manual_seed(recipe.train.seed)
    model = recipe.model.build(machine.compute_dtype).reset_parameters(recipe.train.seed).to(machine.device)
    loader = recipe.data.loader(
        dataset.train_paths,
        window=recipe.train.window,
        tokens_per_slice=recipe.train.tokens_per_slice,
        rank=machine.rank,
        world_size=machine.world_size,
        vocab_size=dataset.vocab_size,
    )
    quantizer = recipe.pack.quantizer
    return recipe.trainer(
        quantizer.before(recipe.train) if quantizer else recipe.train,
        model=model,
        # A default recipe on the CPU must not wait a minute for the compiler.
        forward=torch.compile(model) if machine.on_cuda else model,
        optimizers=Optimizers(model, recipe.optim, machine),
        average=recipe.average.build(dict(model.named_parameters())) if recipe.average else None,
        warmdown=recipe.optim.warmdown,
        loader=loader,
        machine=machine,
        identity=fingerprint(recipe),
    )


def train(recipe: Recipe, trainer: Trainer, validation: Validation, checkpoint: Path, tell: Teller) -> bool:
    """Trains, and puts the average in the place of the weights; False when SIGTERM stopped it first."""
    machine, config = trainer.machine, recipe.train

    def score(label: str) -> None:
        tell.validation(
            label, trainer, plain_score(trainer.model, validation, config.window, machine, recipe.eval.batch_tokens)
        )

    def on_step(report: StepReport) -> None:
        tell.step(report)
        if config.validate_every and report.step % config.validate_every == 0:
            trainer.clock.pause()
            score("training")
            trainer.clock.start()

    if machine.on_cuda and trainer.step == 0:
        trainer.warm_up(config.warmup_steps)
    trainer.run(on_step, checkpoint)
    tell.end_of_training(trainer)
    if trainer.stopped_by_signal:
        return False
    score("last weights")
    if trainer.average:
        trainer.use_average()
        score(f"average of {trainer.average.count}")
    return True


def package(run: RunFolder, tell: Teller) -> None:
    """weights -> codes -> bytes -> score from those bytes -> text -> record."""
    machine = tell.machine
    if machine.is_main:
        codes = quantize_run(run, tell.note)
        tell.codes(codes)
        tell.ledger(compress_run(run))
    machine.barrier()
    report, packed = eval_artifact(run.artifact, machine)
    if machine.is_main:
        write_text(run.score, report.to_json())
        tell.final(report)
        text = sample_packed(packed, "My fellow citizens,", num_tokens=80, temperature=0.8, top_k=50, seed=0)
        write_text(run.sample, text + "\n")
        tell.sample(text)
        tell.close()
        tell.record(new_record([run.path]))


def seed_override() -> list[str]:
    """The environment's SEED as an override."""
    return ["--train.seed", os.environ["SEED"]] if os.environ.get("SEED") else []


def resumed_dtype(checkpoint: Path) -> str | None:
    """The compute dtype that an interrupted run was using, which its continuation keeps; None for a new run."""
    return checkpoint_facts(checkpoint)["compute_dtype"] if checkpoint.exists() else None


def run_command(command: Callable[[], int]) -> NoReturn:
    """Leaves the process with the exit code of `command`; a mistake or a lost run is one line on stderr."""
    try:
        code = command()
    except (UserError, NonFiniteLossError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    leave(code)


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))

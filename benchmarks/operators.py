"""CPU time of a training step with the operators for CPUs, over that of the same step with the plain ones, in turn."""

import time
from dataclasses import fields, replace
from statistics import median

from benchmarks.row import Row, median_row
from model.gpt import GPTConfig
from model.laptop_gpt import LaptopGPTConfig
from optim.schedule import Progress
from optim.trainer import Trainer
from recipes.recipe import load_recipe
from recipes.stages import recipe_dataset
from runtime.machine import Machine
from train_gpt import build_trainer

PAIRS = 12


def operator_rows(machine: Machine) -> list[Row]:
    """The ratio for the demo. Process time, over all threads, so that others on the machine count little."""
    recipe = load_recipe("demo")
    values = {field.name: getattr(recipe.model, field.name) for field in fields(GPTConfig)}
    models = [kind(**values) for kind in (GPTConfig, LaptopGPTConfig)]
    trainers = [build_trainer(replace(recipe, model=model), recipe_dataset(recipe), machine) for model in models]
    pairs = [[_cpu_seconds(trainer) for trainer in trainers] for _ in range(3 + PAIRS)][3:]
    plain, ours = (median(times) for times in zip(*pairs, strict=True))
    note = f"{1000 * plain:.0f} ms plain, {1000 * ours:.0f} ms blocked and chunked, {machine.compute_dtype}"
    return [median_row("cpu_step_ratio_demo", [after / before for before, after in pairs], "of plain", ("<=", 1), note)]


def _cpu_seconds(trainer: Trainer) -> float:
    start = time.process_time()
    trainer._one_step(Progress(trainer.step, 0.0, None, None))
    return time.process_time() - start

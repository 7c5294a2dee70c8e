"""CPU time of a training step with the operators for CPUs, over that of the same step with the plain ones, in turn."""

import time
from contextlib import nullcontext
from dataclasses import fields, replace
from statistics import median
from unittest.mock import patch

from benchmarks.row import Row, median_row
from model.baka.model import BakaConfig
from model.cpu_operators import CPUOperators
from model.gpt import GPTConfig
from model.pristine.model import PristineConfig
from ops.short_conv.reference import short_conv_reference
from optim.schedule import Progress
from optim.trainer import Trainer
from recipes.recipe import load_recipe
from recipes.stages import recipe_dataset
from runtime.machine import Machine
from train_gpt import build_trainer

PAIRS = 12


def operator_rows(machine: Machine) -> list[Row]:
    """The ratio for the models that run on laptops. Process time, so that others on the machine count little."""
    return [_ratio_row(name, machine) for name in ("demo", "pocket", "pristine", "baka")]


def _ratio_row(name: str, machine: Machine) -> Row:
    recipe, text = load_recipe(name), recipe_dataset(load_recipe("demo"))
    plain, ours = (
        build_trainer(replace(recipe, model=model), text, machine)
        for model in (with_plain_operators(recipe.model), recipe.model)
    )
    pairs = [(_cpu_seconds(plain, as_plain=True), _cpu_seconds(ours, as_plain=False)) for _ in range(3 + PAIRS)][3:]
    before, after = (1000 * median(times) for times in zip(*pairs, strict=True))
    note = (
        f"{before:.0f} ms plain, {after:.0f} ms with attention, nats and convolutions for CPUs, {machine.compute_dtype}"
    )
    return median_row(f"cpu_step_ratio_{name}", [b / a for a, b in pairs], "of plain", ("<=", 1), note)


def with_plain_operators(model: CPUOperators) -> GPTConfig | BakaConfig | PristineConfig:
    """The config that this one is a faster kind of."""
    kind = next(base for base in type(model).__bases__ if base is not CPUOperators)
    return kind(**{field.name: getattr(model, field.name) for field in fields(kind)})


def _cpu_seconds(trainer: Trainer, *, as_plain: bool) -> float:
    convolution = patch("model.short_conv.short_conv", short_conv_reference) if as_plain else nullcontext()
    with convolution:
        start = time.process_time()
        trainer._one_step(Progress(trainer.step, 0.0, None, None))
        return time.process_time() - start

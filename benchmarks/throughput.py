"""How much of the machine's bf16 matrix peak training and evaluation reach; peak and work are measured in turn."""

import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import median

import torch

from benchmarks.row import Row, median_row
from eval.sliding import Window, plan_windows, score_windows, tokens_run
from model.flops import forward_flops_per_token, training_flops_per_token
from optim.schedule import Progress
from optim.trainer import Trainer
from recipes.recipe import Recipe, load_recipe
from recipes.stages import Validation, open_validation, recipe_dataset
from runtime.checkpoint import save_checkpoint
from runtime.log import RunLog
from runtime.machine import Machine
from runtime.peak import matmul_peak
from train_gpt import build_trainer

ROUNDS = 7
STEPS_A_ROUND = 4


def _peak(machine: Machine) -> float:
    """The bf16 peak now, on matrices of 2048 (CPU) or 8192 (GPU)."""
    return matmul_peak(machine.device, torch.bfloat16, size=8192 if machine.on_cuda else 2048, repeats=3)


def train_seconds(trainer: Trainer, steps: int) -> float:
    """Wall time of `steps` training steps."""
    trainer.machine.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        trainer._one_step(Progress(trainer.step, 0.0, None, None))
    trainer.machine.synchronize()
    return time.perf_counter() - start


def training_share(machine: Machine, recipe: Recipe) -> Row:
    """Model FLOPs a second of training over the peak."""
    trainer = build_trainer(recipe, recipe_dataset(recipe), machine)
    train_seconds(trainer, 3)
    flops = STEPS_A_ROUND * recipe.train.tokens_per_step * training_flops_per_token(recipe.model, recipe.train.window)
    peaks, shares, rates = [], [], []
    for _ in range(ROUNDS):
        peaks.append(_peak(machine))
        seconds = train_seconds(trainer, STEPS_A_ROUND)
        shares.append(flops / seconds / peaks[-1])
        rates.append(STEPS_A_ROUND * recipe.train.tokens_per_step / seconds)
    note = f"{recipe.name}, {median(rates):,.0f} tok/s, peak {median(peaks) / 1e9:.0f} GFLOP/s, {machine.compute_dtype}"
    return median_row(f"training_share_{recipe.name}", shares, "of bf16 peak", (">=", 0.40), note)


def evaluation_share(machine: Machine, recipe: Recipe) -> Row:
    """Forward FLOPs a second of sliding evaluation over the peak, overlap counted as the work it is."""
    model = recipe.model.build(machine.compute_dtype).reset_parameters(0).to(machine.device).eval()
    validation = open_validation(recipe_dataset(recipe))
    config = recipe.eval
    windows = plan_windows(validation.num_targets, config.window, config.stride)[1 : 1 + 256]
    flops = tokens_run(windows) * forward_flops_per_token(recipe.model, config.window)
    _score(model, validation, windows, machine, config.batch_tokens)
    peaks, shares = [], []
    for _ in range(ROUNDS):
        peaks.append(_peak(machine))
        start = time.perf_counter()
        _score(model, validation, windows, machine, config.batch_tokens)
        machine.synchronize()
        shares.append(flops / (time.perf_counter() - start) / peaks[-1])
    note = f"{recipe.name}, window {config.window}, stride {config.stride}, peak {median(peaks) / 1e9:.0f} GFLOP/s"
    return median_row(f"sliding_share_{recipe.name}", shares, "of bf16 peak", (">=", 0.40), note)


def _score(model, validation: Validation, windows: list[Window], machine: Machine, batch_tokens: int) -> None:
    score_windows(model, validation.tokens, windows, validation.byte_table, machine, batch_tokens)


def overhead_share(machine: Machine, recipe: Recipe, folder: Path) -> Row:
    """Loader, log and checkpoints over a training step, each at the recipe's own cadence."""
    trainer = build_trainer(recipe, recipe_dataset(recipe), machine)
    train_seconds(trainer, 3)
    log, shares = RunLog(folder), []
    for _ in range(ROUNDS):
        step = train_seconds(trainer, STEPS_A_ROUND) / STEPS_A_ROUND
        loading = recipe.train.num_slices / machine.world_size * _timed(trainer.loader.next)
        with redirect_stdout(StringIO()):
            logging = _timed(lambda: log.line("step:1/1 train_loss:1.0", event="step", step=1))
        saving = _timed(lambda: save_checkpoint(folder / "checkpoint.safetensors", *trainer.state()))
        cost = loading + logging / recipe.train.log_every + saving / recipe.train.checkpoint_every
        shares.append(cost / step)
    log.close()
    note = f"last: loader {1e3 * loading:.2f} ms, checkpoint {1e3 * saving:.0f} ms, step {1e3 * step:.0f} ms"
    return median_row(f"overhead_share_{recipe.name}", shares, "of a step", ("<=", 0.03), note)


def _timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def throughput_rows(machine: Machine, folder: Path) -> list[Row]:
    """The three ratios of the demo recipe."""
    recipe = load_recipe("demo")
    return [
        training_share(machine, recipe),
        evaluation_share(machine, recipe),
        overhead_share(machine, recipe, folder),
    ]
